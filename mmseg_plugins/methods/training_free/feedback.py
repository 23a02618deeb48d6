"""ResCLIP's two additions to an attention rule: attention of earlier blocks (RCS), and a label map fed back (SFR).

Yang et al.: "ResCLIP: Residual Attention for Training-free Dense Vision-language Inference", CVPR 2025
(arXiv 2411.15851).
"""

# B batch, Q prompt rows, N = h*w patches, P = 1 + N tokens, H W image, h w grid

import torch
import torch.nn.functional as F
from torch import Tensor

from mmseg_plugins.towers.position import Grid

_EPS = 1e-8


def mix_residual(own: Tensor, other: Tensor, temperature: float, share: float) -> Tensor:
    """``temperature * ((1 - share) * own + share * other)``, of attention weights (RCS) or scores (SFR)."""
    return temperature * ((1 - share) * own + share * other)


def confident_labels(probabilities_QHW: Tensor, threshold: float) -> Tensor:
    """The most probable row of every pixel, row 0 where it is less probable than the threshold.

    Args:
        probabilities_QHW: (Q, H, W).
        threshold: in [0, 1]; 0 is off.

    Returns:
        (H, W) int64.
    """
    best, labels = probabilities_QHW.max(dim=0)
    return labels.masked_fill(best < threshold, 0)


def patch_labels(labels_HW: Tensor, patch: int) -> Tensor:
    """The most frequent label of every patch, the smallest of equals.

    Args:
        labels_HW: (H, W) int64, 0 or more; a remainder of a patch at the bottom and right is left out.
        patch: side in pixels.

    Returns:
        (h, w) int64.
    """
    grid = (labels_HW.shape[0] // patch, labels_HW.shape[1] // patch)
    cells = (
        labels_HW[: grid[0] * patch, : grid[1] * patch].unflatten(0, (grid[0], patch)).unflatten(2, (grid[1], patch))
    )
    cells_Np = cells.transpose(1, 2).flatten(2).flatten(0, 1)
    largest = int(labels_HW.max()) + 1
    counts = torch.zeros(len(cells_Np), largest, dtype=torch.int64, device=labels_HW.device)
    counts.scatter_add_(1, cells_Np, torch.ones_like(cells_Np))
    # argmax promises no order among equals: the smaller label is made the larger number
    order = torch.arange(largest, 0, -1, device=labels_HW.device)
    return (counts * (largest + 1) + order).argmax(1).unflatten(0, grid)


def chebyshev_distance(grid: Grid, device: torch.device) -> Tensor:
    """Distance of every two patches in king's moves: (N, N) int64."""
    place_N2 = _places(grid, device)
    return (place_N2[:, None] - place_N2[None]).abs().amax(-1)


def _places(grid: Grid, device: torch.device) -> Tensor:
    rows, columns = (torch.arange(side, device=device) for side in grid)
    return torch.cartesian_prod(rows, columns)


def free_ways(labels_hw: Tensor) -> Tensor:
    """Tell which pairs of patches of one label have only that label on the way that the release looks at.

    All ways are walked in steps of one part in D, the largest distance of any pair, and only the first d + 1 points are
    looked at, d being the pair's own distance: of near pairs the beginning of the way. So the relation is not
    symmetric. Coordinates are rounded half to even.

    Args:
        labels_hw: (h, w) int64.

    Returns:
        (N, N) bool; False for pairs of different labels.
    """
    grid, device = (labels_hw.shape[0], labels_hw.shape[1]), labels_hw.device
    flat_N, place_N2 = labels_hw.flatten(), _places(grid, device)
    distance_NN = chebyshev_distance(grid, device)
    furthest = int(distance_NN.max())
    start, end = (flat_N[:, None] == flat_N[None]).nonzero(as_tuple=True)
    is_free = torch.zeros_like(distance_NN, dtype=torch.bool)
    part = torch.linspace(0, 1, furthest + 1, device=device)  # float32: other rounding would move points
    for step in range(1, furthest + 1):
        is_near = distance_NN[start, end] < step
        is_free[start[is_near], end[is_near]] = True  # came to the end of what is looked at
        start, end = start[~is_near], end[~is_near]
        point = (place_N2[start] * (1 - part[step]) + place_N2[end] * part[step]).round().long()
        same = labels_hw[point[:, 0], point[:, 1]] == flat_N[start]
        start, end = start[same], end[same]
    is_free[start, end] = True
    return is_free


def blur_rows(matrix_NN: Tensor, std: float) -> Tensor:
    """Gaussian blur of each row as a sequence of N values, zeros beyond its ends.

    The sequence is the grid row by row, so the last patch of a line and the first of the next are neighbours.

    Args:
        matrix_NN: (N, N).
        std: width in patches; the kernel is as long as the row at most, odd.
    """
    length = min(matrix_NN.shape[1], int(6 * std + 1))
    length += 1 - length % 2
    offset = torch.arange(length, device=matrix_NN.device, dtype=matrix_NN.dtype) - length // 2
    taps = torch.exp(-(offset**2) / (2 * std**2))
    taps = taps / taps.sum()
    return F.conv1d(matrix_NN[:, None], taps[None, None], padding=length // 2)[:, 0]


def label_attention(labels_hw: Tensor, *, gaussian_std: float, delete_same_entity: bool = True) -> Tensor:
    """Attention between patches of one label (``M``).

    Args:
        labels_hw: (h, w) int64 patch labels.
        gaussian_std: of :func:`blur_rows`.
        delete_same_entity: let pairs whose way is not free count less, the further apart the less.

    Returns:
        (N, N) float32, rows sum to 1.
    """
    flat_N = labels_hw.flatten()
    matrix_NN = (flat_N[:, None] == flat_N[None]).float()
    if delete_same_entity:
        distance_NN = chebyshev_distance((labels_hw.shape[0], labels_hw.shape[1]), labels_hw.device)
        decay_NN = torch.exp(-distance_NN / distance_NN.max().clamp_min(1))
        matrix_NN = torch.where(free_ways(labels_hw), matrix_NN, matrix_NN * decay_NN)
    blurred_NN = blur_rows(matrix_NN, gaussian_std)
    return blurred_NN / (blurred_NN.sum(dim=1, keepdim=True) + _EPS)


def with_class_token_gap(matrix_BNN: Tensor) -> Tensor:
    """Put a row and a column of zeros in front, for the class token: (B, 1 + N, 1 + N)."""
    return F.pad(matrix_BNN, (1, 0, 1, 0))
