import pytest
import torch

from mmseg_plugins.masks.overlaps import covered, settle_pixels, smallest_in_front
from mmseg_plugins.masks.run_lengths import RunLengthMasks


def compressed(*pictures):
    return RunLengthMasks.from_masks(torch.tensor([[[c == "#" for c in row] for row in p.split()] for p in pictures]))


WHOLE, PART, APART = "####. ####. .....", "##... ##... .....", "..... ..... #...."


def test_parts_of_the_rest_become_masks_and_the_small_ones_one():
    masks, source = settle_pixels(compressed("##... ##..# ##.#."), unclaimed="components", min_area=0.2)
    assert source.tolist() == [0, -1, -1]
    assert torch.equal(masks.decode()[1:], compressed("..### ..##. ..#..", "..... ..... ....#").decode())
    assert covered(masks).all()


def test_the_rest_as_one_mask_or_left():
    given = compressed(WHOLE, APART)
    one, source = settle_pixels(given, unclaimed="mask")
    assert source.tolist() == [0, 1, -1]
    assert covered(one).all()
    assert int(one.areas.sum()) == 15
    left, source = settle_pixels(given, unclaimed="none")
    assert source.tolist() == [0, 1]
    assert int(covered(left).sum()) == 9


def test_nothing_left_and_no_mask_at_all():
    full = compressed("#### ####")
    assert len(settle_pixels(full)[0]) == 1
    masks, source = settle_pixels(RunLengthMasks.empty((3, 4)))
    assert source.tolist() == [-1]
    assert masks.decode().all()


def test_parts_lie_in_front_of_the_whole():
    given = compressed(WHOLE, PART, PART, APART)
    masks, kept = smallest_in_front(given)
    assert kept.tolist() == [0, 1, 3], "an equal mask behind the first has no pixel left"
    expected = compressed("..##. ..##. .....", PART, APART)
    assert torch.equal(masks.decode(), expected.decode())
    assert masks.decode().sum(0).max() == 1
    joined, source = settle_pixels(given, overlaps="smallest", unclaimed="mask")
    assert source.tolist() == [0, 1, 3, -1]
    assert torch.equal(joined.decode().sum(0), torch.ones(3, 5, dtype=torch.long))


def test_unknown_rules_are_named():
    with pytest.raises(ValueError, match="unclaimed to be one of .*'all'"):
        settle_pixels(compressed(WHOLE), unclaimed="all")
    with pytest.raises(ValueError, match="overlaps to be one of"):
        settle_pixels(compressed(WHOLE), overlaps="largest")
    with pytest.raises(ValueError, match="share of the image"):
        settle_pixels(compressed(WHOLE), min_area=50)
