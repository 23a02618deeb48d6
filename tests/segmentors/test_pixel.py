import pytest
import torch
import torch.nn.functional as F
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmseg_plugins.segmentors.tta import OpenVocabularyTTAModel
from tests.segmentors.conftest import build_model


def sample(ori_shape, **meta):
    return SegDataSample(metainfo={"ori_shape": ori_shape, **meta})


def labels(samples):
    return [sample.pred_sem_seg.data[0] for sample in samples]


def test_labels_are_those_of_mmsegs_two_resizes(model):
    image = torch.randn(1, 3, 40, 56)
    [found] = labels(model.predict(image, [sample((61, 77))]))
    full = F.interpolate(model.extract_feat(image), (40, 56), mode="bilinear", align_corners=False)
    rows = F.interpolate(full, (61, 77), mode="bilinear", align_corners=False)
    best = torch.stack([rows[0, 0], rows[0, 1:3].amax(0), rows[0, 3]])  # "dog" has two names
    assert torch.equal(found, best.argmax(0))


def test_a_batch_of_different_sizes_gives_what_its_images_give_one_by_one(model):
    small, large = torch.randn(3, 24, 32), torch.randn(3, 40, 48)
    padded = F.pad(small, (0, 16, 0, 16))
    batch = [sample((30, 40), padding_size=(0, 16, 0, 16)), sample((40, 48))]
    together = labels(model.predict(torch.stack([padded, large]), batch))
    assert torch.equal(together[0], labels(model.predict(small[None], [sample((30, 40))]))[0])
    assert torch.equal(together[1], labels(model.predict(large[None], [sample((40, 48))]))[0])


def test_flipped_input_is_flipped_back(model):
    image = torch.randn(1, 3, 32, 40)
    flipped = sample((32, 40), flip=True, flip_direction="horizontal")
    plain = labels(model.predict(image, [sample((32, 40))]))[0]
    assert torch.equal(labels(model.predict(image, [flipped]))[0], plain.flip(1))


def test_one_window_over_the_whole_image_equals_whole_mode():
    image = torch.randn(1, 3, 32, 48)
    whole = build_model()
    slide = build_model(test_cfg={"mode": "slide", "crop_size": (32, 48), "stride": (16, 16)})
    assert torch.equal(labels(whole.predict(image))[0], labels(slide.predict(image))[0])


@pytest.mark.parametrize("batch", [1, 3, 16])
def test_window_batches_do_not_change_the_labels(batch):
    image = torch.randn(1, 3, 48, 64)
    settings = {"mode": "slide", "crop_size": (32, 32), "stride": (16, 16), "window_batch": batch}
    reference = build_model(test_cfg={**settings, "window_batch": 8})
    assert torch.equal(labels(build_model(test_cfg=settings).predict(image))[0], labels(reference.predict(image))[0])


def test_slide_without_sizes_says_what_is_missing():
    with pytest.raises(ValueError, match="needs crop_size"):
        build_model(test_cfg={"mode": "slide"})


def test_logits_are_kept_only_on_request(model):
    image = torch.randn(1, 3, 32, 32)
    assert "seg_logits" not in model.predict(image, [sample((20, 24))])[0]
    model.test_cfg.keep_logits = True
    [kept] = model.predict(image, [sample((20, 24))])
    assert kept.seg_logits.data.shape == (3, 20, 24)
    assert torch.equal(kept.seg_logits.data.argmax(0), kept.pred_sem_seg.data[0])


def test_background_by_threshold_takes_unsure_pixels():
    image = torch.randn(1, 3, 32, 32)
    vocabulary = {"source": "cat; dog", "templates": ["a {}."], "background": 0.9999}
    unsure = build_model(vocabulary=vocabulary)
    assert unsure.dataset_meta["classes"] == ("background", "cat", "dog")
    assert (labels(unsure.predict(image))[0] == 0).all()
    sure = build_model(vocabulary={**vocabulary, "background": 0.0001})
    assert (labels(sure.predict(image))[0] > 0).all()


def test_encode_decode_gives_class_logits_at_the_input_size(model):
    assert model.encode_decode(torch.randn(2, 3, 24, 40)).shape == (2, 3, 24, 40)


def test_test_time_augmentation_switches_the_logits_on(model):
    augmented = OpenVocabularyTTAModel(module=model)
    image = torch.randn(1, 3, 32, 32)
    views = [model.predict(image, [sample((32, 32), img_path="a.png")]) for _ in range(2)]
    views[0][0].set_data({"gt_sem_seg": PixelData(data=torch.zeros(1, 32, 32))})
    expected = views[0][0].pred_sem_seg.data[0].clone()
    [merged] = augmented.merge_preds([[view[0] for view in views]])
    assert torch.equal(merged.pred_sem_seg.data[0], expected)
