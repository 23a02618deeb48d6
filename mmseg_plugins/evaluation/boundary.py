"""Boundary IoU (Cheng et al., CVPR 2021): overlap counted only within a band along each mask's own contour.

A pixel belongs to the boundary of its region when the (2d + 1) x (2d + 1) window around it, with everything outside the
image counted as foreign, is not filled by that region; ``d`` is a fixed share of the image diagonal. That is the
published erosion (d times with a 3 x 3 square after padding by zeros), but taken for all regions of a label map at
once: a window is uniform exactly when no two neighbouring pixels inside it differ, which two summed-area tables answer.
"""

import math

import torch
from torch import Tensor

from mmseg_plugins.evaluation.semantic import SemanticAreas, class_or_outside, semantic_areas

DILATION_RATIO = 0.02  # the paper's and the published evaluators' share of the image diagonal


def boundary_width(height: int, width: int, dilation_ratio: float = DILATION_RATIO) -> int:
    """Return the width d of the boundary band in pixels, at least 1 (rounding half to even, as published).

    Raises:
        ValueError: if ``dilation_ratio`` is not positive.
    """
    if dilation_ratio <= 0:
        raise ValueError(f"dilation_ratio must be positive, got {dilation_ratio}. The published value is 0.02.")
    return max(1, round(dilation_ratio * math.sqrt(height * height + width * width)))


def boundary_pixels(labels: Tensor, *, width: int | None = None, dilation_ratio: float = DILATION_RATIO) -> Tensor:
    """Mark the pixels that lie in the boundary band of the region they belong to.

    Args:
        labels: (..., H, W) region ids, any integer or bool type: a label map, a map of segment ids, or binary masks
            (then the mask's own boundary is ``boundary_pixels(mask) & mask``).
        width: width d of the band in pixels; None takes `boundary_width` of the map's size.
        dilation_ratio: share of the diagonal where ``width`` is None.

    Returns:
        (..., H, W) bool.
    """
    height, columns = labels.shape[-2:]
    d = boundary_width(height, columns, dilation_ratio) if width is None else width
    boundary = torch.ones(labels.shape, dtype=torch.bool, device=labels.device)
    if height <= 2 * d or columns <= 2 * d:
        return boundary
    across = labels[..., :, 1:] != labels[..., :, :-1]  # (..., H, W - 1): a change between columns x and x + 1
    down = labels[..., 1:, :] != labels[..., :-1, :]  # (..., H - 1, W): a change between rows y and y + 1
    changes = _window_sums(across, 2 * d + 1, 2 * d) + _window_sums(down, 2 * d, 2 * d + 1)
    boundary[..., d : height - d, d : columns - d] = changes > 0
    return boundary


def _window_sums(flags: Tensor, rows: int, columns: int) -> Tensor:
    """Sum bool flags over every window of rows x columns, from a summed-area table."""
    table = torch.nn.functional.pad(flags.cumsum(-1, dtype=torch.int32).cumsum(-2, dtype=torch.int32), (1, 0, 1, 0))
    tall = table[..., rows:, :] - table[..., :-rows, :]
    return tall[..., columns:] - tall[..., :-columns]


def boundary_iou(a: Tensor, b: Tensor, *, dilation_ratio: float = DILATION_RATIO) -> Tensor:
    """Boundary IoU of pairs of binary masks.

    Args:
        a: (..., H, W) masks; nonzero is inside.
        b: as ``a``.
        dilation_ratio: share of the image diagonal that the band is wide.

    Returns:
        (...) float64; NaN where both masks are empty.

    Raises:
        ValueError: if the shapes differ.
    """
    if a.shape != b.shape:
        raise ValueError(f"masks must have one shape, got {tuple(a.shape)} and {tuple(b.shape)}.")
    a, b = a != 0, b.to(a.device) != 0
    boundary_a = boundary_pixels(a, dilation_ratio=dilation_ratio) & a
    boundary_b = boundary_pixels(b, dilation_ratio=dilation_ratio) & b
    intersection = (boundary_a & boundary_b).sum((-2, -1))
    union = (boundary_a | boundary_b).sum((-2, -1))
    return intersection.double() / union.double()


def semantic_boundary_areas(
    prediction: Tensor,
    label: Tensor,
    num_classes: int,
    *,
    ignore_index: int = 255,
    dilation_ratio: float = DILATION_RATIO,
) -> SemanticAreas:
    """Count boundary pixels of each class: intersections, predicted and labelled boundary pixels.

    The binary definition is applied to every class. Ignored pixels belong to no class in either map, so that the
    outline of an ignored area is a boundary in both and a perfect prediction scores 1.

    Args:
        prediction: (H, W) class indices of one image.
        label: (H, W) ground truth.
        num_classes: K.
        ignore_index: label of pixels that do not count.
        dilation_ratio: share of the image diagonal that the band is wide.

    Returns:
        Counts whose IoU per class is the boundary IoU. Pixels outside the bands are in the last column.

    Raises:
        ValueError: if the maps are not of one (H, W) shape.
    """
    if prediction.ndim != 2 or prediction.shape != label.shape:
        raise ValueError(
            f"prediction and label must be (H, W) maps of one image, got {tuple(prediction.shape)} and "
            f"{tuple(label.shape)}. Call once per image: the band's width depends on the image size."
        )
    ignored = label.to(prediction.device, torch.int64) == ignore_index
    maps = []
    for values in (prediction, label.to(prediction.device)):
        regions = torch.where(ignored, -1, class_or_outside(values, num_classes))
        inside = ~boundary_pixels(regions, dilation_ratio=dilation_ratio)
        maps.append(torch.where(inside | ignored, num_classes, regions))
    return semantic_areas(maps[0], maps[1], num_classes, ignore_index=-1)
