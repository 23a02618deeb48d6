"""Sine position embedding of a grid."""

import math

import torch
from torch import Tensor

_TEMPERATURE = 10000.0
_EPS = 1e-6


def sine_positions(
    height: int, width: int, channels: int, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Tensor:
    """Embed the places of a grid, as DETR does with normalised coordinates.

    A coordinate i of 1..n becomes 2 pi i / (n + 1e-6); sine and cosine of it at geometric frequencies alternate. The
    first half of the channels is y, the second x.

    Args:
        height: of the grid.
        width: of the grid.
        channels: C, a multiple of 4.
        device: of the result.
        dtype: of the result; it is computed in float32.

    Returns:
        (1, C, h, w).

    Raises:
        ValueError: if ``channels`` is not a multiple of 4.
    """
    if channels % 4:
        raise ValueError(f"position embeddings need a multiple of 4 channels, but got {channels}.")
    pairs = torch.arange(channels // 4, dtype=torch.float32, device=device)
    frequencies = _TEMPERATURE ** (-2 * pairs / (channels // 2))
    rows, columns = _embed_axis(height, frequencies), _embed_axis(width, frequencies)
    grid = torch.cat([rows[:, :, None].expand(-1, -1, width), columns[:, None, :].expand(-1, height, -1)])
    return grid[None].to(dtype)


def _embed_axis(count: int, frequencies: Tensor) -> Tensor:
    """Embed the coordinates of one axis, (C/2, count)."""
    places = torch.arange(1, count + 1, dtype=torch.float32, device=frequencies.device)
    angles = frequencies[:, None] * (2 * math.pi * places / (count + _EPS))[None]
    return torch.stack([angles.sin(), angles.cos()], 1).flatten(0, 1)
