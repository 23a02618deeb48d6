"""Trident's stitching of windows into one map, and the attention of SAM that guides it over the whole image.

Shi et al.: "Harnessing Vision Foundation Models for High-Performance, Training-Free Open Vocabulary Segmentation",
ICCV 2025 (arXiv 2411.09219).
"""

# B batch, W trunk width, S places of SAM's grid, d head width, h w grid

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmseg_plugins.prediction.windows import Box
from mmseg_plugins.towers.position import Grid


def stitch_windows(windows_nWhw: Tensor, boxes: Sequence[Box], token_grid: Grid, map_size: Grid) -> Tensor:
    """Average the maps of overlapping windows into one.

    Args:
        windows_nWhw: (n, W, h', w') maps of n windows on the vision model's grid. Where its sides are no multiples of
            CLIP's, they are first resized to the nearest multiples (bilinear, align_corners False).
        boxes: the windows in CLIP's tokens.
        token_grid: (h, w) of a window in CLIP's tokens.
        map_size: (H, W) of the whole image in CLIP's tokens.

    Returns:
        (W, H', W') at the vision model's resolution.

    Raises:
        ValueError: if a place is in no window, or the numbers differ.
    """
    if len(windows_nWhw) != len(boxes):
        raise ValueError(f"expected one map for each of the {len(boxes)} windows, but got {len(windows_nWhw)}.")
    shape = windows_nWhw.shape[2:]
    rows, columns = (max(round(fine / coarse), 1) for fine, coarse in zip(shape, token_grid, strict=True))
    multiple = (rows * token_grid[0], columns * token_grid[1])
    if tuple(shape) != multiple:
        windows_nWhw = F.interpolate(windows_nWhw, multiple, mode="bilinear", align_corners=False)
    total = windows_nWhw.new_zeros(windows_nWhw.shape[1], rows * map_size[0], columns * map_size[1])
    visits = torch.zeros_like(total[0])
    for window, box in zip(windows_nWhw, boxes, strict=True):
        place = slice(rows * box.top, rows * box.bottom), slice(columns * box.left, columns * box.right)
        total[(slice(None), *place)] += window
        visits[place] += 1
    if not visits.all():
        raise ValueError(f"{int((visits == 0).sum())} places of the map lie in no window.")
    return total / visits


def similarity_threshold(values_hSd: Tensor, *, factor: float = 1.2, cap: float = 0.9) -> Tensor:
    """The similarity that a place must exceed to be attended to, one for each row and all heads.

    Args:
        values_hSd: (heads, S, d) values of the guiding network's last block.
        factor: of the mean cosine over heads and columns.
        cap: largest threshold.

    Returns:
        (S,).
    """
    unit_hSd = F.normalize(values_hSd, dim=-1)
    # the mean of a row of cosines is the cosine with the mean row
    mean_S = (unit_hSd @ unit_hSd.mean(1, keepdim=True).transpose(1, 2)).mean(0)[:, 0]
    return (factor * mean_S).clamp_max(cap)


def guidance_weights(
    values_hSd: Tensor, attention_hSS: Tensor, *, factor: float = 1.2, cap: float = 0.9
) -> tuple[Tensor, Tensor]:
    """Attention of the guiding network where its values are alike, averaged over heads.

    Args:
        values_hSd: (heads, S, d).
        attention_hSS: (heads, S, S) of the same block between the same places.
        factor: see :func:`similarity_threshold`.
        cap: see :func:`similarity_threshold`.

    Returns:
        (S, S) weights, rows sum to 1, and the (S,) thresholds.
    """
    threshold_S = similarity_threshold(values_hSd, factor=factor, cap=cap)
    unit_hSd = F.normalize(values_hSd, dim=-1)
    total_SS = torch.zeros_like(attention_hSS[0])
    for unit_Sd, attention_SS in zip(unit_hSd, attention_hSS, strict=True):  # head by head: S x S is large
        total_SS += attention_SS.masked_fill(unit_Sd @ unit_Sd.T <= threshold_S[:, None], 0)
    return total_SS / total_SS.sum(dim=1, keepdim=True), threshold_S


def guide_map(map_Whw: Tensor, weights_SS: Tensor, grid: Grid) -> Tensor:
    """Bring a map to the guiding network's grid (bilinear, align_corners False) and apply its weights.

    Returns:
        (S, W) tokens, S = h * w of ``grid``.
    """
    resized = F.interpolate(map_Whw[None], grid, mode="bilinear", align_corners=False)[0]
    return weights_SS @ resized.flatten(1).T
