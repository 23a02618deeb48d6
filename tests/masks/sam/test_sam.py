"""A tiny SAM with random weights, and the way from a segmentor's input to its masks."""

import logging
import sys

import numpy as np
import pytest
import torch
from mmseg.structures import SegDataSample

pytest.importorskip("segment_anything", reason="SAM proposals need segment-anything")

from mmseg_plugins.masks.proposals import ProposalRequest
from mmseg_plugins.masks.run_lengths import RunLengthMasks
from mmseg_plugins.masks.sam.generate import SamGenerator
from mmseg_plugins.masks.sam.model import build_sam, load_sam_weights, released_weights
from mmseg_plugins.masks.sam.proposals import SamProposals, as_picture
from mmseg_plugins.towers.weights import find_record

TINY = {"image_size": 32, "patch": 8, "width": 16, "depth": 2, "prompt_width": 16, "decoder_mlp": 16}
FREE = {"points_per_side": 2, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "box_nms_thresh": 1.0}
MEAN, STD = (120.0, 110.0, 100.0), (60.0, 50.0, 40.0)


@pytest.fixture(scope="module")
def sam():
    torch.manual_seed(0)
    return build_sam(TINY)


@pytest.fixture(scope="module")
def picture():
    return np.random.default_rng(0).integers(0, 256, (20, 28, 3), dtype=np.uint8)


def request_of(pictures, size, samples=None):
    """Normalise pictures and pad them."""
    images = torch.zeros(len(pictures), 3, *size)
    for image, picture in zip(images, pictures, strict=True):
        pixels = torch.from_numpy(picture).permute(2, 0, 1).float()
        scaled = (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
        image[:, : picture.shape[0], : picture.shape[1]] = scaled
    return ProposalRequest(
        images=images, image_sizes=[p.shape[:2] for p in pictures], stages=None, text=None, data_samples=samples,
        mean=MEAN, std=STD,
    )  # fmt: skip


def test_a_normalised_image_becomes_the_picture_again(picture):
    request = request_of([picture], (32, 32))
    np.testing.assert_array_equal(as_picture(request.images[0, :, :20, :28], MEAN, STD), picture)


def test_automatic_masks_are_those_of_the_package(sam, picture):
    from segment_anything import SamAutomaticMaskGenerator

    expected = SamAutomaticMaskGenerator(sam, **FREE, output_mode="binary_mask").generate(picture)
    found = SamGenerator(sam, automatic=FREE).automatic(picture)
    assert len(found.masks) == len(expected) > 0
    np.testing.assert_array_equal(found.masks.decode(), np.stack([record["segmentation"] for record in expected]))
    assert found.iou.tolist() == pytest.approx([record["predicted_iou"] for record in expected])
    assert found.stability.tolist() == pytest.approx([record["stability_score"] for record in expected])


@pytest.mark.parametrize("layers", [0, 1])
def test_no_mask_may_be_good_enough(sam, picture, layers):
    strict = {"points_per_side": 2, "pred_iou_thresh": 99.0, "crop_n_layers": layers}
    found = SamGenerator(sam, automatic=strict).automatic(picture)
    assert len(found.masks) == len(found.iou) == len(found.stability) == 0
    assert found.masks.size == (20, 28)
    proposals = SamProposals(model=TINY, automatic=strict).propose(request_of([picture], (32, 32)))[0]
    assert (proposals.mask_logits > 0).all()
    assert proposals.extras["source"].tolist() == [-1]


def test_points_and_boxes_give_what_the_predictor_gives_one_by_one(sam, picture):
    from segment_anything import SamPredictor

    predictor = SamPredictor(sam)
    predictor.set_image(picture)
    generator = SamGenerator(sam, prompts_at_a_time=2)
    points, boxes = np.array([[3.0, 4.0], [20.0, 10.0], [9.0, 18.0]]), np.array([[1.0, 2.0, 15.0, 12.0]])
    found, kept = generator.from_points(picture, points), generator.from_points(picture, points, best_only=False)
    assert len(found.masks) == 3
    assert len(kept.masks) == 9
    for index, point in enumerate(points):
        masks, iou, _ = predictor.predict(point[None], np.array([1]))
        np.testing.assert_array_equal(found.masks.decode()[index], masks[iou.argmax()])
        np.testing.assert_array_equal(kept.masks.decode()[3 * index : 3 * index + 3], masks)
        assert float(found.iou[index]) == pytest.approx(iou.max(), rel=1e-4)
    masks, _, _ = predictor.predict(box=boxes[0], multimask_output=False)
    np.testing.assert_array_equal(generator.from_boxes(picture, boxes).masks.decode(), masks)
    assert len(generator.from_boxes(picture, np.zeros((0, 4))).masks) == 0


def test_several_points_can_make_one_prompt(sam, picture):
    points, labels = np.array([[[3.0, 4.0], [20.0, 10.0]]]), np.array([[1, 0]])
    generator = SamGenerator(sam)
    with_outside = generator.from_points(picture, points, labels)
    assert len(with_outside.masks) == 1
    with pytest.raises(ValueError, match="one label for each"):
        generator.from_points(picture, points, np.array([1]))
    with pytest.raises(ValueError, match="expected points"):
        generator.from_points(picture, np.zeros((2, 3)))
    with pytest.raises(ValueError, match="expected boxes"):
        generator.from_boxes(picture, np.zeros((2, 3)))


def test_proposals_are_ragged_cover_every_pixel_and_stay_compressed(picture):
    source = SamProposals(model=TINY, automatic={**FREE, "box_nms_thresh": 0.7})
    other = np.ascontiguousarray(picture[:, ::-1])
    found = source.propose(request_of([picture, other], (32, 32)))
    for proposals in found:
        assert proposals.covers == "image"
        assert proposals.mask_logits.shape[1:] == (20, 28)
        assert (proposals.mask_logits > 0).any(0).all(), "unclaimed pixels are masks as well"
        assert isinstance(proposals.poolable, RunLengthMasks)
        assert proposals.poolable.size == (32, 32)
        padded = proposals.poolable.decode()
        assert torch.equal(padded[:, :20, :28], proposals.mask_logits > 0)
        assert not padded[:, 20:].any()
        assert not padded[..., 28:].any()
        assert set(proposals.extras) == {"source", "iou", "stability"}
        assert all(len(values) == len(padded) for values in proposals.extras.values())
    alone = source.propose(request_of([other], (32, 32)))[0]
    assert torch.equal(alone.mask_logits, found[1].mask_logits), "a batch gives what its images give one by one"


def test_prompts_come_from_the_sample_in_pixels_of_the_original(sam, picture):
    source = SamProposals(model=TINY, prompts="points", unclaimed="none")
    source._generator = SamGenerator(sam)
    meta = {"ori_shape": (40, 56), "points": [[6, 8], [40, 20]]}
    found = source.propose(request_of([picture], (32, 32), [SegDataSample(metainfo=meta)]))[0]
    expected = SamGenerator(sam).from_points(picture, np.array([[3.0, 4.0], [20.0, 10.0]]))
    assert torch.equal(found.mask_logits > 0, expected.masks.decode())
    source.prompts = "boxes"
    meta = {"ori_shape": (40, 56), "boxes": [[2, 4, 30, 24]]}
    found = source.propose(request_of([picture], (32, 32), [SegDataSample(metainfo=meta)]))[0]
    expected = SamGenerator(sam).from_boxes(picture, np.array([[1.0, 2.0, 15.0, 12.0]]))
    assert torch.equal(found.mask_logits > 0, expected.masks.decode())
    with pytest.raises(ValueError, match="start from boxes, but the sample of a.png has none"):
        source.propose(request_of([picture], (32, 32), [SegDataSample(metainfo={"img_path": "a.png"})]))


def test_masks_do_not_depend_on_autocast(picture):
    source = SamProposals(model=TINY, automatic=FREE)
    expected = source.propose(request_of([picture], (32, 32)))[0].mask_logits
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(source.propose(request_of([picture], (32, 32)))[0].mask_logits, expected)


def test_weights_are_read_whole_or_not_at_all(sam, tmp_path):
    torch.save(sam.state_dict(), tmp_path / "sam.pth")
    torch.manual_seed(1)
    other = build_sam(TINY)
    load_sam_weights(other, str(tmp_path / "sam.pth"))
    for key, value in sam.state_dict().items():
        assert torch.equal(other.state_dict()[key], value)
    with pytest.raises(FileNotFoundError, match="none.pth"):
        load_sam_weights(other, str(tmp_path / "none.pth"))
    state = sam.state_dict()
    del state["mask_decoder.iou_token.weight"]
    torch.save(state, tmp_path / "part.pth")
    with pytest.raises(ValueError, match=r"1 missing \(mask_decoder.iou_token.weight"):
        load_sam_weights(other, str(tmp_path / "part.pth"))


def test_registry_models_ask_for_their_released_file(monkeypatch, tmp_path):
    monkeypatch.setenv("MMSEG_PLUGINS_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("mmseg_plugins.masks.sam.proposals.build_sam", lambda *_: build_sam(TINY))
    assert find_record(released_weights("vit_b")).file_names == ("sam_vit_b_01ec64.pth",)
    with pytest.raises(FileNotFoundError, match=r"Fetch sam_vit_b_01ec64.pth from .*segment-anything"):
        SamProposals(model="vit_b").generator("cpu")


def test_random_weights_are_said_and_the_same_every_time(caplog, picture):
    source = SamProposals(model=TINY, automatic=FREE)
    with caplog.at_level(logging.WARNING):
        first = source.propose(request_of([picture], (32, 32)))[0].mask_logits
    assert "SAM has random weights" in caplog.text
    torch.manual_seed(7)
    assert torch.equal(
        SamProposals(model=TINY, automatic=FREE).propose(request_of([picture], (32, 32)))[0].mask_logits, first
    )
    assert source.state_dict() == {}, "SAM is no part of a segmentor's checkpoint"


def test_a_missing_package_or_name_is_said(monkeypatch):
    with pytest.raises(KeyError, match="no model 'vit_x'. It has: default, vit_h"):
        build_sam("vit_x")
    with pytest.raises(KeyError, match="no model 'vit_t'.*package='mobile_sam'"):
        build_sam("vit_t")
    monkeypatch.setitem(sys.modules, "mobile_sam", None)
    with pytest.raises(ImportError, match=r"pip install 'mmseg_plugins\[mobile-sam\]'"):
        build_sam("vit_t", "mobile_sam")
    with pytest.raises(ImportError, match="install the package that has 'mobile_sam_not_here'"):
        build_sam("vit_t", "mobile_sam_not_here")
    with pytest.raises(ImportError, match="'json' has no sam_model_registry"):
        build_sam("vit_t", "json")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": {"depths": 3}}, r"unknown numbers \['depths'\]"),
        ({"model": {"patch": 7}}, "multiple of patch 7"),
        ({"prompts": "text"}, "prompts to be one of"),
        ({"unclaimed": "all"}, "unclaimed to be one of"),
    ],
)
def test_wrong_options_are_refused_when_built(options, message):
    with pytest.raises(ValueError, match=message):
        SamProposals(**options)


def test_wrong_arguments_of_the_generator_are_named(sam):
    with pytest.raises(ValueError, match="refuses automatic="):
        SamGenerator(sam, automatic={"points": 3})
    with pytest.raises(ValueError, match="output_mode is not to be chosen"):
        SamGenerator(sam, automatic={"output_mode": "coco_rle"})


def test_mobile_sam_is_filled_from_its_file_and_takes_prompts(picture, tmp_path):
    pytest.importorskip("mobile_sam", reason="needs mobilesam-mirror")
    file = tmp_path / "mobile_sam.pt"
    torch.save(build_sam("vit_t", "mobile_sam").state_dict(), file)
    sample = SegDataSample(metainfo={"ori_shape": (20, 28), "boxes": [[2, 2, 12, 12]]})
    source = SamProposals(model="vit_t", package="mobile_sam", checkpoint=str(file), prompts="boxes", unclaimed="none")
    [found] = source.propose(request_of([picture], (32, 32), [sample]))
    assert found.mask_logits.shape == (1, 20, 28)
    assert found.extras["iou"].isfinite().all()
