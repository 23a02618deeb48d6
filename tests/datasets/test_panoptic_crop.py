"""The panoptic training recipe: jitter, crop and padding of image and map together, then targets."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmseg.registry import TRANSFORMS
from PIL import Image

import mmseg_plugins.datasets.register  # noqa: F401  (registers)
from mmseg_plugins.datasets.panoptic_crop import LargeScaleJitterCrop, resize_image, resize_map
from mmseg_plugins.datasets.segment_entries import read_panoptic_entries
from mmseg_plugins.datasets.segment_loading import LoadPanopticSegments, PackSegments

SAMPLE = Path("tests/fixtures/samples/coco_panoptic/annotations")


def coco_samples():
    """The example images' entries, as the data set gives them, with a picture that shows the segment ids."""
    content = json.loads((SAMPLE / "panoptic_examples.json").read_text())
    label_of = {category["id"]: index for index, category in enumerate(content["categories"])}
    for entry in read_panoptic_entries(content, label_of, "examples"):
        entry["pan_seg_map_path"] = str(SAMPLE / "panoptic_examples" / entry["pan_seg_file"])
        results = LoadPanopticSegments()(dict(entry))
        ids = results["gt_panoptic_map"]
        results["img"] = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)
        results |= {"img_path": entry["file_name"], "ori_shape": ids.shape, "img_shape": ids.shape}
        yield results


def small_sample(height=40, width=60, segments=3):
    rng = np.random.default_rng(0)
    ids = np.zeros((height, width), dtype=np.int32)
    for number in range(segments):
        top, left = rng.integers(0, height - 10), rng.integers(0, width - 10)
        ids[top : top + 12, left : left + 12] = number + 1
    info = [{"id": number + 1, "label": number, "is_crowd": False, "area": 1} for number in range(segments)]
    image = rng.integers(0, 255, (height, width, 3), dtype=np.uint8)
    return {"img": image, "gt_panoptic_map": ids, "seg_fields": ["gt_panoptic_map"], "segments_info": info}


def test_targets_without_augmentation_are_the_segments_of_the_json():
    seen_crowd = False
    for results in coco_samples():
        wanted = {segment["id"]: segment for segment in results["segments_info"] if not segment["is_crowd"]}
        seen_crowd |= len(wanted) < len(results["segments_info"])
        instances = PackSegments()(results)["data_samples"].gt_instances
        assert instances.labels.tolist() == [segment["label"] for segment in wanted.values()]
        assert instances.masks.flatten(1).sum(1).tolist() == [segment["area"] for segment in wanted.values()]
    assert seen_crowd, "the examples should hold a crowd segment, or this test says nothing about them"


def test_published_pipeline_gives_crops_with_every_segment_as_target():
    pipeline = Config.fromfile("configs/_base_/datasets/coco_panoptic_train.py").train_pipeline
    assert [step["type"] for step in pipeline[:2]] == ["LoadImageFromFile", "LoadPanopticSegments"]
    steps = [TRANSFORMS.build(step) for step in pipeline[2:]]
    for results in coco_samples():
        count = sum(not segment["is_crowd"] for segment in results["segments_info"])
        for step in steps:
            results = step(results)
        instances = results["data_samples"].gt_instances
        assert results["inputs"].shape == (3, 1024, 1024)
        assert instances.masks.shape == (count, 1024, 1024)
        assert results["data_samples"].metainfo["img_shape"] == (1024, 1024)


def test_flipping_twice_changes_nothing():
    flip = TRANSFORMS.build({"type": "RandomFlip", "prob": 1.0})
    sample = small_sample()
    once = flip(dict(sample))
    assert np.array_equal(once["gt_panoptic_map"], sample["gt_panoptic_map"][:, ::-1])
    twice = flip({key: value for key, value in once.items() if key not in ("flip", "flip_direction")})
    assert np.array_equal(twice["gt_panoptic_map"], sample["gt_panoptic_map"])
    assert np.array_equal(twice["img"], sample["img"])


@pytest.mark.parametrize("scale", [0.3, 1.0, 1.7])
def test_image_and_map_are_cut_from_the_same_place(scale):
    """The picture is the map itself in another coding; away from borders the two must agree."""
    np.random.seed(3)
    sample = small_sample()
    sample["img"] = np.repeat(sample["gt_panoptic_map"].astype(np.uint8)[..., None] * 60 + 20, 3, axis=2)
    result = LargeScaleJitterCrop(size=(48, 48), scale_range=(scale, scale))(sample)
    ids, shown = result["gt_panoptic_map"], result["img"][..., 0]
    assert result["img"].shape == (48, 48, 3)
    assert ids.shape == result["img_shape"] == result["pad_shape"] == (48, 48)
    height, width = LargeScaleJitterCrop(size=(48, 48)).scaled_size((40, 60), scale)
    inside = np.s_[: min(48, height), : min(48, width)]
    agree = np.abs(shown[inside].astype(int) - (ids[inside].astype(int) * 60 + 20)) <= 30
    assert agree.mean() > 0.85
    for outside in (np.s_[height:, :], np.s_[:, width:]):
        assert (shown[outside] == 128).all()
        assert (ids[outside] == 0).all()


def test_longer_side_becomes_the_jittered_size():
    transform = LargeScaleJitterCrop(size=(1024, 1024))
    assert transform.scaled_size((480, 640), 0.1) == (77, 102)
    assert transform.scaled_size((480, 640), 2.0) == (1536, 2048)
    assert transform.scaled_size((2, 4000), 0.1) == (1, 102)


def test_both_axes_use_one_place():
    sample = {"img": np.mgrid[0:200, 0:100].astype(np.uint8).transpose(1, 2, 0).copy(), "seg_fields": []}
    sample["img"] = np.concatenate([sample["img"], sample["img"][..., :1]], -1)
    for _ in range(20):
        cut = LargeScaleJitterCrop(size=(50, 50), scale_range=(4.0, 4.0))(dict(sample))["img"]
        row, column = int(cut[0, 0, 0]), int(cut[0, 0, 1])
        assert cut.shape == (50, 50, 3)
        assert row / 150 == pytest.approx(column / 50, abs=0.011)


def test_masks_are_disjoint_and_hold_no_padding():
    np.random.seed(0)
    for _ in range(10):
        sample = LargeScaleJitterCrop(size=(32, 32), scale_range=(0.1, 2.0))(small_sample())
        masks = PackSegments(meta_keys=())(sample)["data_samples"].gt_instances.masks
        assert masks.shape[1:] == (32, 32)
        assert masks.sum(0).max() <= 1
        padding = (sample["img"] == 128).all(-1) & (sample["gt_panoptic_map"] == 0)
        assert not masks[:, torch.from_numpy(padding)].any()


def test_segments_without_a_pixel_are_dropped_or_kept_as_asked():
    sample = small_sample()
    sample["segments_info"].append({"id": 99, "label": 5, "is_crowd": False, "area": 1})
    dropped = PackSegments(meta_keys=())(dict(sample))["data_samples"].gt_instances
    kept = PackSegments(meta_keys=(), keep_empty=True)(dict(sample))["data_samples"].gt_instances
    assert dropped.labels.tolist() == [0, 1, 2]
    assert kept.labels.tolist() == [0, 1, 2, 5]
    assert not kept.masks[3].any()


def test_crop_without_a_segment_gives_no_target():
    sample = small_sample()
    sample["gt_panoptic_map"][:] = 0
    instances = PackSegments(meta_keys=())(LargeScaleJitterCrop(size=(32, 32))(sample))["data_samples"].gt_instances
    assert instances.masks.shape == (0, 32, 32)
    assert instances.labels.shape == (0,)


def test_shrinking_averages_the_image_and_never_mixes_ids():
    stripes = np.tile(np.array([0, 255], dtype=np.uint8), (64, 32))
    assert np.ptp(resize_image(np.repeat(stripes[..., None], 3, 2), (16, 16))[4:-4, 4:-4]) < 40
    ids = np.random.default_rng(0).choice([3, 70_000], (33, 17)).astype(np.int32)
    assert set(np.unique(resize_map(ids, (9, 40)))) <= {3, 70_000}
    assert np.array_equal(resize_map(np.repeat(np.repeat(ids, 2, 0), 3, 1), ids.shape), ids)


def test_map_of_another_size_than_the_image_is_refused():
    sample = small_sample()
    sample["img"] = sample["img"][:20]
    with pytest.raises(ValueError, match="gt_panoptic_map"):
        LargeScaleJitterCrop(size=(32, 32))(sample)
    with pytest.raises(ValueError, match="scale"):
        LargeScaleJitterCrop(scale_range=(0.0, 2.0))


@pytest.mark.parametrize("scale", [0.3, 1.0, 1.7])
@pytest.mark.parametrize("flip_prob", [0.0, 1.0])
def test_instance_masks_go_where_their_segments_go(scale, flip_prob):
    """Masks made of the map before the transform are those of the map after it."""
    np.random.seed(5)
    sample = small_sample()
    ids = np.arange(4)[:, None, None]  # 0 is void: no mask, its padding would be inside
    sample["gt_masks"] = sample["gt_panoptic_map"] == ids[1:]
    transform = LargeScaleJitterCrop(size=(48, 40), scale_range=(scale, scale), flip_prob=flip_prob)
    result = transform(sample)
    assert result["gt_masks"].shape == (3, 48, 40)
    assert result["gt_masks"].any()
    assert np.array_equal(result["gt_masks"], result["gt_panoptic_map"] == ids[1:])


def test_its_own_flip_is_that_of_mmseg_and_an_image_may_have_no_instance():
    sample = small_sample()
    wanted = TRANSFORMS.build({"type": "RandomFlip", "prob": 1.0})(dict(sample))
    transform = LargeScaleJitterCrop(size=(40, 60), scale_range=(1, 1), flip_prob=1.0)
    result = transform({**sample, "gt_masks": np.zeros((0, 40, 60), dtype=bool)})
    for key in ("img", "gt_panoptic_map"):
        assert np.array_equal(result[key], wanted[key])
    assert (result["flip"], result["flip_direction"]) == (wanted["flip"], wanted["flip_direction"])
    assert result["gt_masks"].shape == (0, 40, 60)
    assert LargeScaleJitterCrop(size=(40, 60), scale_range=(1, 1))(small_sample()).get("flip") is None
    with pytest.raises(ValueError, match="flip_prob"):
        LargeScaleJitterCrop(flip_prob=1.5)


def test_masks_that_a_flip_left_behind_are_refused():
    sample = {**small_sample(), "gt_masks": np.zeros((1, 40, 60), dtype=bool)}
    flipped = TRANSFORMS.build({"type": "RandomFlip", "prob": 1.0})(sample)
    with pytest.raises(ValueError, match=r"set flip_prob here"):
        LargeScaleJitterCrop(size=(32, 32))(flipped)
    with pytest.raises(ValueError, match=r"gt_masks .* is \(20, 60\)"):
        LargeScaleJitterCrop(size=(32, 32))({**small_sample(), "gt_masks": np.zeros((1, 20, 60), dtype=bool)})


def test_semantic_maps_are_padded_with_the_ignore_value():
    sample = small_sample(20, 20, segments=1)
    sample["gt_seg_map"] = np.zeros((20, 20), dtype=np.uint8)
    sample["seg_fields"].append("gt_seg_map")
    result = LargeScaleJitterCrop(size=(40, 40), scale_range=(0.5, 0.5))(sample)
    assert (result["gt_seg_map"][20:] == 255).all()
    assert (result["gt_panoptic_map"][20:] == 0).all()


def test_one_seed_gives_the_same_samples_with_any_number_of_workers(tmp_path):
    """mmengine seeds each worker from the run's seed; here the seed of a sample is its own index."""

    class Scenes(torch.utils.data.Dataset):
        def __len__(self):
            return 6

        def __getitem__(self, index):
            np.random.seed(index)
            sample = LargeScaleJitterCrop(size=(32, 32))(small_sample())
            return torch.from_numpy(sample["gt_panoptic_map"])

    loads = [torch.cat(list(torch.utils.data.DataLoader(Scenes(), batch_size=2, num_workers=n))) for n in (0, 2)]
    assert torch.equal(*loads)


def test_image_is_resized_as_pil_does():
    image = np.random.default_rng(0).integers(0, 255, (30, 50, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(image).resize((20, 12), Image.Resampling.BILINEAR))
    assert np.array_equal(resize_image(image, (12, 20)), expected)
