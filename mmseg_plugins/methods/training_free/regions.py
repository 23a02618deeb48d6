"""CorrCLIP's rules for regions: which of them are one thing, who may attend to whom, one label for each.

Zhang et al.: "CorrCLIP: Reconstructing Patch Correlations in CLIP for Open-Vocabulary Semantic Segmentation",
ICCV 2025 (arXiv 2411.10086).

A region map holds a number for every pixel; the smallest number present stands for all that is in no region, also
where nothing of that kind is left.
"""

# B batch, M = h*w patches of the vision model, R regions, C channels, h w grid

import torch
import torch.nn.functional as F
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from mmseg_plugins.methods.training_free.proxy import masked_softmax
from mmseg_plugins.towers.position import Grid

MERGED = 10000  # the first merged region's number; a padded border has it too before merging
_KEPT_AS_THEY_ARE = 2  # the unsegmented rest and one region: nothing to merge


def resize_regions(regions: Tensor, size: Grid) -> Tensor:
    """Resize region maps (..., h, w) to another grid, nearest neighbour; integers stay exact."""
    if tuple(regions.shape[-2:]) == tuple(size):
        return regions
    flat = regions.reshape(1, -1, *regions.shape[-2:]).double()
    return F.interpolate(flat, size, mode="nearest").to(regions.dtype).reshape(*regions.shape[:-2], *size)


def region_means(regions_M: Tensor, features_MC: Tensor) -> tuple[Tensor, Tensor]:
    """Average features over each region.

    Args:
        regions_M: (M,) int64.
        features_MC: (M, C).

    Returns:
        The numbers present, ascending (R,), and (R, C) unit means.
    """
    numbers, index = regions_M.unique(return_inverse=True)
    sums = features_MC.new_zeros(len(numbers), features_MC.shape[1]).index_add_(0, index, features_MC)
    return numbers, F.normalize(sums / index.bincount()[:, None], dim=1)


def merge_regions(regions_hw: Tensor, features_MC: Tensor, *, eps: float = 0.2, offset: int = MERGED) -> Tensor:
    """Join regions whose mean features are alike, directly or through others.

    Two regions are alike when their cosine is at most ``eps`` below the largest entry of the matrix of cosines. With at
    most one region beside the unsegmented rest nothing happens.

    Args:
        regions_hw: (h, w) int64 on the vision model's grid.
        features_MC: (M, C) unit features, M = h * w.
        eps: see above.
        offset: number of the first merged region; they are numbered in the order of their smallest old number.

    Returns:
        (h, w) int64; the smallest number stays as it is.
    """
    numbers, means_RC = region_means(regions_hw.flatten(), features_MC)
    if len(numbers) <= _KEPT_AS_THEY_ARE:
        return regions_hw
    cosines_RR = means_RC[1:] @ means_RC[1:].T
    alike = (cosines_RR.max() - cosines_RR <= eps).cpu().numpy()
    _, component = connected_components(alike, directed=False)
    renamed = numbers.clone()
    renamed[1:] = torch.from_numpy(component).to(numbers) + offset
    return renamed[torch.searchsorted(numbers, regions_hw.flatten())].unflatten(0, tuple(regions_hw.shape))


def region_attention(regions_M: Tensor, cosines_MM: Tensor, *, temperature: float = 4.0) -> Tensor:
    """Attention within regions.

    Patches attend to each other in one region. Where one of two patches, or both, are in no region, they do if their
    cosine is above the image's mean.

    Args:
        regions_M: (M,) int64.
        cosines_MM: (M, M).
        temperature: factor of the cosines in the softmax.

    Returns:
        (M, M), rows sum to 1.
    """
    is_rest_M = regions_M == regions_M.min()
    same_MM = (regions_M[:, None] == regions_M) & ~is_rest_M
    loose_MM = (is_rest_M[:, None] | is_rest_M) & (cosines_MM > cosines_MM.mean())
    return masked_softmax(temperature * cosines_MM, same_MM | loose_MM)


def label_by_region(labels_HW: Tensor, regions_HW: Tensor) -> Tensor:
    """Give every region the most frequent label of its pixels, the smallest of equals; the rest stays.

    Args:
        labels_HW: (H, W) int64, 0 or more.
        regions_HW: (H, W) int64, not merged.

    Returns:
        (H, W) int64.
    """
    numbers, index = regions_HW.flatten().unique(return_inverse=True)
    classes = int(labels_HW.max()) + 1
    counts = (index * classes + labels_HW.flatten()).bincount(minlength=len(numbers) * classes).view(-1, classes)
    order = torch.arange(classes, 0, -1, device=labels_HW.device)  # makes the smaller label win among equals
    winner = (counts * (classes + 1) + order).argmax(1)
    voted = winner[index].unflatten(0, tuple(labels_HW.shape))
    return torch.where(regions_HW == numbers[0], labels_HW, voted)
