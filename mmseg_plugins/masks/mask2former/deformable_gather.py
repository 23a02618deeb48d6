"""Deformable sampling as weighted sums of table rows: several times faster than grid sampling on a CPU."""

# B batch, S tokens of all levels, N queries, A attention heads, d channels of a head, L levels, P points

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def sample_by_gathering(value: Tensor, sizes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    """Sum the four neighbours of every sample, level by level, with one ``embedding_bag`` each.

    A sample is then a sum of whole rows of d numbers that lie side by side, where grid sampling reads each channel from
    a map of its own.

    Args:
        value: (B, S, A, d), float32 or float64.
        sizes: (h, w) of each level.
        locations: (B, N, A, L, P, 2), x and y as fractions of the map.
        weights: (B, N, A, L, P).

    Returns:
        (B, N, A * d).
    """
    batch, _, heads, width_of_head = value.shape
    queries = locations.shape[1]
    total = None
    for level, part in enumerate(value.split([height * width for height, width in sizes], dim=1)):
        table = part.transpose(1, 2).reshape(-1, width_of_head)
        indices, shares = _neighbours(locations[:, :, :, level], weights[:, :, :, level], sizes[level])
        indices = indices + _first_rows(batch, heads, part.shape[1], indices)
        bags, bag_shares = indices.flatten(0, 2), shares.flatten(0, 2)
        summed = F.embedding_bag(bags, table, mode="sum", per_sample_weights=bag_shares)
        total = summed if total is None else total + summed
    return total.view(batch, queries, heads * width_of_head)


def _first_rows(batch: int, heads: int, tokens: int, like: Tensor) -> Tensor:
    """Return where the rows of each image and head begin, (B, 1, A, 1)."""
    return (torch.arange(batch * heads, dtype=like.dtype, device=like.device) * tokens).view(batch, 1, heads, 1)


def _neighbours(locations: Tensor, weights: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return the places of the four neighbours of each sample in its map, and their shares.

    Args:
        locations: (B, N, A, P, 2).
        weights: (B, N, A, P).
        size: (h, w) of the map.

    Returns:
        Row-major places and weights, (B, N, A, 4 P) each; outside the map the weight is 0.
    """
    height, width = size
    x, y = locations[..., 0] * width - 0.5, locations[..., 1] * height - 0.5
    left, top = x.floor(), y.floor()
    right_share, bottom_share = x - left, y - top
    places, shares = [], []
    for row, row_share in ((top, 1 - bottom_share), (top + 1, bottom_share)):
        for column, column_share in ((left, 1 - right_share), (left + 1, right_share)):
            is_inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            places.append(row.clamp(0, height - 1) * width + column.clamp(0, width - 1))
            shares.append(weights * row_share * column_share * is_inside)
    return torch.cat(places, -1).long(), torch.cat(shares, -1)
