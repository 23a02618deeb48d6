"""Bilinear resizing (half-pixel centres, no antialiasing) and its adjoint, in plain PyTorch.

Letters: T maps, ``n_in``/``n_out`` lengths of an axis.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def bilinear_taps(n_in: int, n_out: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
    """Return the two source indices of every output index of one axis, and the weight of the second.

    The fraction is exact (integers, then one division): a float32 source index is off by up to 3e-5 on long axes.

    Args:
        n_in: source length, at least 1.
        n_out: target length.
        device: where the tables go.

    Returns:
        ``i0`` (n_out,) int64, ``i1`` (n_out,) int64, ``lam`` (n_out,) float64 in [0, 1).
    """
    position = ((2 * torch.arange(n_out, device=device) + 1) * n_in - n_out).clamp_(min=0)
    i0 = position // (2 * n_out)
    lam = (position % (2 * n_out)).double() / (2 * n_out)
    return i0, (i0 + 1).clamp_(max=n_in - 1), lam


def resize_matrix(n_in: int, n_out: int, dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
    """Return the (n_out, n_in) matrix of the bilinear resize of one axis; its transpose is the adjoint."""
    i0, i1, lam = bilinear_taps(n_in, n_out, device)
    columns = torch.arange(n_in, device=device)
    first = (columns == i0[:, None]) * (1 - lam)[:, None]
    second = (columns == i1[:, None]) * lam[:, None]
    return (first + second).to(dtype)


def resize_maps(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (..., h, w) floating maps to (..., H, W).

    One channel per map on purpose: with more than three channels torch's CPU kernel first copies everything to
    channels-last, which costs three to six times the resize itself.
    """
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    flat = maps.reshape(-1, 1, *maps.shape[-2:])
    resized = F.interpolate(flat, tuple(size), mode="bilinear", align_corners=False)
    return resized.reshape(*maps.shape[:-2], *size)


def resize_adjoint(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Apply the transpose of the resize ``size`` -> (h, w) to (..., h, w) maps, giving maps of ``size`` (H, W).

    Two small matrix products: unlike the library's backward kernel on CUDA they sum in a fixed order.
    """
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    h, w = maps.shape[-2:]
    rows = resize_matrix(size[0], h, maps.dtype, maps.device)
    columns = resize_matrix(size[1], w, maps.dtype, maps.device)
    return rows.mT @ (maps @ columns)
