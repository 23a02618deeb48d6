"""Compressed masks, held against the masks themselves."""

import pytest
import torch

from mmseg_plugins.masks.run_lengths import RunLengthMasks
from mmseg_plugins.ops import mask_pool


@pytest.fixture
def masks():
    made = torch.rand(6, 7, 9, generator=torch.Generator().manual_seed(0)) > 0.4
    made[2], made[3] = False, True
    return made


def test_masks_come_back_with_their_areas(masks):
    compressed = RunLengthMasks.from_masks(masks)
    assert len(compressed) == 6
    assert torch.equal(compressed.decode(), masks)
    assert torch.equal(compressed.areas, masks.flatten(1).sum(1))
    assert torch.equal(compressed.logits(), torch.where(masks, 127, -127).to(torch.int8))
    assert torch.equal(compressed.logits().float().sigmoid(), masks.float()), "exactly 0 and 1"


@pytest.mark.parametrize("size", [(7, 9), (7, 12), (8, 9), (11, 16)])
def test_padding_adds_nothing(masks, size):
    expected = torch.zeros(6, *size, dtype=torch.bool)
    expected[:, :7, :9] = masks
    assert torch.equal(RunLengthMasks.from_masks(masks).padded(size).decode(), expected)


def test_pooling_equals_pooling_the_masks(masks):
    features = torch.randn(1, 5, 4, 4, generator=torch.Generator().manual_seed(1))
    expected = mask_pool(features, masks[None], resize="features")
    torch.testing.assert_close(RunLengthMasks.from_masks(masks).pool(features), expected, atol=1e-6, rtol=1e-5)


def test_counts_of_other_makers(masks):
    found = RunLengthMasks.from_counts([[0, 3, 3], [2, 4], [6], [0, 6]], (2, 3))
    assert found.decode()[0].tolist() == [[True, True, False], [True, False, False]]
    assert found.areas.tolist() == [3, 4, 0, 6]
    with pytest.raises(ValueError, match="mask 1 cover 5 pixels"):
        RunLengthMasks.from_counts([[6], [5]], (2, 3))


def test_joining_and_nothing(masks):
    one, other = RunLengthMasks.from_masks(masks[:2]), RunLengthMasks.from_masks(masks[2:])
    nothing = RunLengthMasks.empty((7, 9))
    assert torch.equal(nothing.joined(one, nothing, other).decode(), masks)
    assert nothing.decode().shape == nothing.logits().shape == (0, 7, 9)
    assert nothing.padded((8, 16)).size == (8, 16)
    assert nothing.areas.shape == (0,)
    with pytest.raises(ValueError, match="different sizes"):
        one.joined(RunLengthMasks.empty((7, 8)))
    with pytest.raises(ValueError, match="do not fit"):
        one.padded((6, 9))
