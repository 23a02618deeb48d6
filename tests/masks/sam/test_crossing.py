"""Masks of SAM, or true ones, named by every kind of CLIP tower through the mask segmentor."""

import pytest
import torch
from mmengine.structures import InstanceData
from mmseg.structures import SegDataSample

pytest.importorskip("segment_anything", reason="SAM proposals need segment-anything")

from tests.segmentors.test_mask import VISION, build

TINY = {"image_size": 32, "patch": 8, "width": 16, "depth": 2, "prompt_width": 16, "decoder_mlp": 16}
SAM = {
    "type": "SamProposals", "model": TINY,
    "automatic": {"points_per_side": 2, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0},
}  # fmt: skip
POOLING = {"type": "MaskPoolingClassifier", "attention_pool": False, "resize": "features"}
OUTPUTS = {"semantic": True, "panoptic": True, "instance": True}


def model_of(family, proposals, **options):
    return build(family, "halves", proposals=proposals, mask_classifier=POOLING, outputs=OUTPUTS, **options)


@pytest.mark.parametrize("family", sorted(VISION))
@pytest.mark.parametrize("overlaps", ["keep", "smallest"])
def test_sam_with_any_tower_gives_all_outputs(family, overlaps):
    model = model_of(family, {**SAM, "overlaps": overlaps})
    images = torch.randn(2, 3, 42, 60, generator=torch.Generator().manual_seed(0))
    samples = [SegDataSample(metainfo={"ori_shape": (50, 70)}) for _ in images]
    both = model.predict(images, samples)
    for image, sample in zip(images, both, strict=True):
        assert sample.pred_sem_seg.data.shape == sample.pred_panoptic_seg.data.shape == (1, 50, 70)
        assert sample.pred_instances.masks.shape[1:] == (50, 70)
        ids = {entry["id"] for entry in sample.pred_panoptic_seg.segments_info}
        assert set(sample.pred_panoptic_seg.data.unique().tolist()) - {0} == ids
        assert all(0 <= entry["category_id"] < 3 for entry in sample.pred_panoptic_seg.segments_info)
        alone = model.predict(image[None], [SegDataSample(metainfo={"ori_shape": (50, 70)})])[0]
        assert torch.equal(alone.pred_sem_seg.data, sample.pred_sem_seg.data)
    if overlaps == "smallest":  # masks are disjoint and cover the picture: nothing is left over at its own size
        inside = model.predict(images[:1], [SegDataSample(metainfo={"ori_shape": (42, 60)})])[0]
        assert (inside.pred_panoptic_seg.data > 0).all()


def test_disjoint_masks_give_each_pixel_the_class_of_its_mask():
    model = model_of("vit", {"type": "OracleProposals"})
    sample = SegDataSample(metainfo={"ori_shape": (40, 64)})
    masks = torch.zeros(3, 40, 64, dtype=torch.bool)
    masks[0, :, :20], masks[1, :15, 20:], masks[2, 15:, 20:] = True, True, True
    sample.gt_instances = InstanceData(masks=masks, labels=torch.zeros(3, dtype=torch.long))
    image = torch.randn(1, 3, 40, 64, generator=torch.Generator().manual_seed(0))
    found = model.predict(image, [sample])[0]
    assert [entry["area"] for entry in found.pred_panoptic_seg.segments_info] == [800, 660, 1100]
    for mask, entry in zip(masks, found.pred_panoptic_seg.segments_info, strict=True):
        assert (found.pred_sem_seg.data[0][mask] == entry["category_id"]).all()
        assert (found.pred_panoptic_seg.data[0][mask] == entry["id"]).all()
        assert (found.pred_instances.masks == mask).all((1, 2)).any()


def test_a_resnets_attention_pool_needs_mask_tensors():
    model = build("resnet", "halves", proposals=SAM, outputs=OUTPUTS)
    with pytest.raises(ValueError, match=r"attention_pool=False"):
        model.predict(torch.randn(1, 3, 42, 60), [SegDataSample(metainfo={"ori_shape": (42, 60)})])


def test_decoders_rules_are_refused():
    with pytest.raises(ValueError, match=r"scoring=dict\(rule='clip'\)"):
        build("vit", "halves", proposals=SAM, scoring={"rule": "void"})


def test_results_print_what_the_masks_depend_on():
    sam = model_of("vit", {**SAM, "overlaps": "smallest"}).harness_settings()["proposals"]
    assert sam.startswith("SamProposals(segment_anything {'image_size': 32,")
    assert "points_per_side 2" in sam
    assert "overlaps smallest" in sam
    oracle = model_of("vit", {"type": "OracleProposals"}).harness_settings()["proposals"]
    assert oracle == "OracleProposals(segments, overlaps keep, unclaimed none, min_area 0.01)"
