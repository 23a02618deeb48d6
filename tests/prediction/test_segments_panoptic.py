import pytest
import torch

from mmseg_plugins.prediction.segments import MaskGeometry
from mmseg_plugins.prediction.segments_panoptic import panoptic_segments
from tests.prediction.test_segments import GEOMETRIES, slow_masks


def slow_panoptic(scores, masks, geometry, is_thing, mask_threshold, overlap_threshold):
    """The published merging, one mask after the other on full-size maps."""
    probability, label = scores.softmax(-1).max(-1)
    keep = [q for q in range(len(scores)) if label[q] != len(is_thing) and probability[q] > mask_threshold]
    ids = torch.zeros(geometry.output_size, dtype=torch.int64)
    info, stuff = [], {}
    if not keep:
        return ids, info
    inside = slow_masks(masks, geometry).sigmoid()[keep]
    winner = (inside * probability[keep][:, None, None]).argmax(0)
    for place, q in enumerate(keep):
        won, full = winner == place, inside[place] >= 0.5
        core, kind = won & full, int(label[q])
        if not won.any() or not full.any() or not core.any():
            continue
        if int(won.sum()) / int(full.sum()) < overlap_threshold:
            continue
        if not is_thing[kind] and kind in stuff:
            ids[core] = stuff[kind]
            continue
        info.append((len(info) + 1, kind, bool(is_thing[kind])))
        stuff[kind] = len(info)
        ids[core] = len(info)
    return ids, info


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize(("mask_threshold", "overlap"), [(0.0, 0.8), (0.4, 0.6), (0.0, 0.0)])
def test_segments_are_those_of_the_published_merging(geometry, mask_threshold, overlap):
    torch.manual_seed(1)
    scores, masks = 3 * torch.randn(12, 4), 6 * torch.randn(12, 4, 6)
    masks = torch.nn.functional.interpolate(masks[None], (16, 24), mode="bicubic")[0] - 2
    is_thing = (True, False, False)
    expected, info = slow_panoptic(scores, masks, geometry, is_thing, mask_threshold, overlap)
    found = panoptic_segments(
        scores, masks, geometry, is_thing=is_thing, object_mask_threshold=mask_threshold, overlap_threshold=overlap
    )
    assert [(s["id"], s["category_id"], s["isthing"]) for s in found.segments_info] == info
    assert (found.ids != expected).float().mean() < 1e-3  # a pixel on a border may round either way
    areas = {segment["id"]: segment["area"] for segment in found.segments_info}
    assert areas == {number: int((found.ids == number).sum()) for number in areas}


def two_masks(overlap=0):
    masks = torch.full((2, 4, 8), -9.0)
    masks[0, :, : 4 + overlap] = 9.0
    masks[1, :, 4:] = 9.0
    return masks


PLAIN = MaskGeometry(output_size=(4, 8))


def test_stuff_of_one_class_merges_and_things_do_not():
    scores = torch.tensor([[5.0, 0.0, 0.0], [4.0, 0.0, 0.0]])
    stuff = panoptic_segments(scores, two_masks(), PLAIN, is_thing=(False, True))
    assert (stuff.ids == 1).all()
    assert [segment["area"] for segment in stuff.segments_info] == [32]
    assert stuff.segments_info[0]["score"] == pytest.approx(float(scores.softmax(-1)[0, 0]))
    things = panoptic_segments(scores, two_masks(), PLAIN, is_thing=(True, True))
    assert sorted(things.ids.unique().tolist()) == [1, 2]


def test_a_mask_that_lost_too_much_of_itself_is_left_out():
    scores = torch.tensor([[4.0, 0.0, 0.0], [5.0, 0.0, 0.0]])
    found = panoptic_segments(scores, two_masks(overlap=3), PLAIN, is_thing=(True, True), overlap_threshold=0.8)
    assert [segment["area"] for segment in found.segments_info] == [16]
    assert (found.ids[:, :4] == 0).all()


def test_void_and_unsure_masks_take_no_part():
    scores = torch.tensor([[0.0, 0.0, 9.0], [0.1, 0.0, 0.0]])
    found = panoptic_segments(scores, two_masks(), PLAIN, is_thing=(True, True), object_mask_threshold=0.5)
    assert found.segments_info == []
    assert not found.ids.any()
    empty = panoptic_segments(torch.zeros(0, 3), torch.zeros(0, 2, 2), PLAIN, is_thing=(True, True))
    assert empty.segments_info == []


def test_empty_masks_and_half_precision_are_fine():
    scores = torch.tensor([[5.0, 0.0], [5.0, 0.0]]).half()
    masks = two_masks().half()
    masks[1] = -60000.0
    found = panoptic_segments(scores, masks, PLAIN, is_thing=(True,))
    assert [segment["area"] for segment in found.segments_info] == [16]


def test_flags_must_fit_the_classes():
    with pytest.raises(ValueError, match="2 classes, but has 1"):
        panoptic_segments(torch.zeros(1, 3), torch.zeros(1, 2, 2), PLAIN, is_thing=(True,))
