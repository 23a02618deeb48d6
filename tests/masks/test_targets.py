"""Segments of packed samples as targets."""

import pytest
import torch
from mmengine.structures import InstanceData
from mmseg.structures import SegDataSample

from mmseg_plugins.masks.targets import SegmentTargets, pad_masks, read_targets


def sample(labels, size=(4, 6), **fields):
    packed = SegDataSample()
    masks = torch.ones(len(labels), *size, dtype=torch.bool)
    packed.gt_instances = InstanceData(labels=torch.tensor(labels, dtype=torch.long), masks=masks, **fields)
    return packed


def test_smaller_masks_are_padded_with_background_at_the_bottom_and_right():
    (target,) = read_targets([sample([1])], (6, 8), num_classes=3)
    assert target.masks.shape == (1, 6, 8)
    assert target.masks[:, :4, :6].all()
    assert target.masks.sum() == 24


def test_crowd_is_no_target():
    crowd = torch.tensor([False, True, False])
    (target,) = read_targets([sample([0, 1, 2], is_crowd=crowd)], (4, 6), num_classes=3)
    assert target.labels.tolist() == [0, 2]
    assert len(target.masks) == 2


def test_image_without_segments_is_legal():
    (target,) = read_targets([sample([])], (5, 7), num_classes=3)
    assert target.masks.shape == (0, 5, 7)


def test_errors_say_what_to_do():
    with pytest.raises(ValueError, match="PackSegments"):
        read_targets([SegDataSample()], (4, 6), num_classes=3)
    with pytest.raises(ValueError, match="train_vocabulary"):
        read_targets([sample([3])], (4, 6), num_classes=3)
    with pytest.raises(ValueError, match="same transforms"):
        pad_masks(torch.ones(1, 5, 6, dtype=torch.bool), (4, 6))
    with pytest.raises(ValueError, match="same segments"):
        SegmentTargets(torch.zeros(2, dtype=torch.long), torch.zeros(1, 4, 4, dtype=torch.bool))
