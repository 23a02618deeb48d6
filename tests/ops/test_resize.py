"""Bilinear resizing against its definition, and its adjoint."""

import pytest
import torch
import torch.nn.functional as F

from mmseg_plugins.ops._resize import bilinear_taps, resize_adjoint, resize_maps, resize_matrix

AXES = [(1, 1), (1, 5), (5, 1), (8, 64), (64, 8), (37, 11), (11, 37), (7, 7), (1000, 683)]


@pytest.mark.parametrize(("n_in", "n_out"), AXES)
def test_taps_follow_the_definition(n_in, n_out):
    i0, i1, lam = bilinear_taps(n_in, n_out)
    for i in range(n_out):
        source = max(0.0, (i + 0.5) * n_in / n_out - 0.5)
        assert int(i0[i]) + float(lam[i]) == pytest.approx(source, abs=1e-9)
        assert 0 <= float(lam[i]) < 1
        assert int(i1[i]) == min(int(i0[i]) + 1, n_in - 1)


@pytest.mark.parametrize(("n_in", "n_out"), AXES)
def test_matrix_is_what_interpolate_does(n_in, n_out):
    maps = torch.randn(3, n_in, dtype=torch.float64)
    want = F.interpolate(maps[:, None], n_out, mode="linear", align_corners=False)[:, 0]
    assert torch.allclose(maps @ resize_matrix(n_in, n_out, torch.float64).T, want)


@pytest.mark.parametrize("sizes", [((4, 5), (16, 21)), ((16, 21), (4, 5)), ((6, 6), (6, 6)), ((5, 8), (5, 3))])
def test_adjoint_swaps_sides_of_the_inner_product(sizes):
    small, large = (torch.randn(2, 3, *size, dtype=torch.float64) for size in sizes)
    left = (resize_maps(small, sizes[1]) * large).sum()
    right = (small * resize_adjoint(large, sizes[0])).sum()
    assert torch.allclose(left, right)


def test_resizing_keeps_the_leading_axes_of_any_number():
    maps = torch.randn(2, 3, 4, 6, 6)
    want = F.interpolate(maps.flatten(0, 1), (9, 3), mode="bilinear", align_corners=False).unflatten(0, (2, 3))
    assert torch.allclose(resize_maps(maps, (9, 3)), want, atol=1e-6)
