"""Stages from one grid."""

import pytest
import torch

from mmseg_plugins.masks.pyramid import SimplePyramid


@pytest.mark.parametrize(("stride", "grid"), [(8, (8, 12)), (14, (8, 12)), (16, (4, 6)), (32, (2, 3)), (4, (16, 24))])
def test_four_maps_of_halving_size_with_the_announced_channels(stride, grid):
    pyramid = SimplePyramid(width=64, stride=stride, detail_channels=3)
    nominal = 2 ** round(torch.tensor(stride).log2().item())
    images = torch.randn(2, 3, grid[0] * stride, grid[1] * stride)
    stages = pyramid(torch.randn(2, 64, *grid), images)
    assert [stage.shape[1] for stage in stages] == pyramid.stage_channels
    for level, stage in enumerate(stages):
        expected = tuple(side * nominal // 4 // 2**level for side in grid)
        assert tuple(stage.shape[-2:]) == tuple(max(1, side) for side in expected)


def test_image_is_needed_for_the_stem_only():
    trunk = torch.randn(1, 32, 4, 4)
    assert len(SimplePyramid(width=32, stride=8)(trunk)) == 4
    with pytest.raises(ValueError, match="images"):
        SimplePyramid(width=32, stride=8, detail_channels=4)(trunk)


def test_training_reaches_every_parameter():
    pyramid = SimplePyramid(width=32, stride=16, detail_channels=4)
    sum(stage.square().sum() for stage in pyramid(torch.randn(1, 32, 4, 4), torch.randn(1, 3, 64, 64))).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in pyramid.parameters())
