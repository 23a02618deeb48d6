import numpy as np
import pytest
import torch

import mmseg_plugins.register  # noqa: F401
from mmseg_plugins.datasets.semantic_masks import PackClassMasks, masks_of_label_map


def results(labels):
    image = np.zeros((*labels.shape, 3), np.uint8)
    return {"img": image, "gt_seg_map": labels, "img_shape": labels.shape, "seg_fields": ["gt_seg_map"]}


@pytest.mark.parametrize(("dtype", "ignore"), [(np.uint8, 255), (np.uint16, 65535), (np.int64, 255)])
def test_every_labelled_pixel_is_in_the_mask_of_its_class_and_no_other(dtype, ignore):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, (12, 9)).astype(dtype)
    labels[rng.random(labels.shape) < 0.3] = ignore
    packed = masks_of_label_map(labels, ignore)
    assert packed.labels.dtype == torch.int64
    assert packed.labels.tolist() == sorted(set(labels[labels != ignore].tolist()))
    assert (packed.masks.sum(0).numpy() == (labels != ignore)).all()
    for label, mask in zip(packed.labels.tolist(), packed.masks.numpy(), strict=True):
        assert (mask == (labels == label)).all()


def test_an_image_without_labels_has_no_masks():
    packed = PackClassMasks()(results(np.full((4, 6), 255, np.uint8)))["data_samples"]
    assert packed.gt_instances.labels.shape == (0,)
    assert packed.gt_instances.masks.shape == (0, 4, 6)


def test_the_label_map_stays_only_on_request():
    labels = np.arange(24, dtype=np.uint8).reshape(4, 6) % 3
    assert "gt_sem_seg" not in PackClassMasks()(results(labels))["data_samples"]
    assert "gt_sem_seg" in PackClassMasks(keep_label_map=True)(results(labels))["data_samples"]


def test_a_missing_label_map_names_the_remedy():
    with pytest.raises(KeyError, match="LoadLabelMap"):
        PackClassMasks()({"img": np.zeros((4, 4, 3), np.uint8)})
