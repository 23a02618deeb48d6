"""The two losses of MAFT+ that reach CLIP's trunk: representation compensation and the mask-aware loss."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmseg_plugins.ops import mask_pool

# B batch, C channels of the dense map or classes, Q masks, n ground-truth masks of an image, h w grid, H W image

RC_SCALES = (1, 2, 4)
_AREA_EPS = 1e-7
_RANGE_EPS = 1e-8
_POOL_EPS = 1e-8


def pooled_descriptor(features_BChw: Tensor, scales: Sequence[int] = RC_SCALES) -> Tensor:
    """Describe a map by its sums along rows and columns of coarser copies.

    A map that is not square is first resized to one of its longer side. Cells of scale s are ``width // s`` wide and
    high with the width *before* that resize, so a portrait gives more than s of them: the published code does so.

    Args:
        features_BChw: a dense map.
        scales: cells per side, one copy each.

    Returns:
        (B, n) in float32: for every scale the sums over rows (C x columns), then those over columns (C x rows).

    Raises:
        ValueError: if the map is narrower than the largest scale, so that a cell would be empty.
    """
    height, width = features_BChw.shape[2:]
    if width < max(scales):
        raise ValueError(
            f"representation compensation needs a dense map at least {max(scales)} wide, but got {height} x {width}. "
            f"With a stride of 32 images must be {32 * max(scales)} pixels wide or more: enlarge or pad them, or set "
            "compensation_scales."
        )
    features = features_BChw.float()
    if height != width:
        features = F.interpolate(features, [max(height, width)] * 2, mode="bilinear", align_corners=False)
    parts = []
    for scale in scales:
        cells = F.avg_pool2d(features, width // scale)
        parts += [cells.sum(2).flatten(1), cells.sum(3).flatten(1)]
    return torch.cat(parts, dim=1)


def compensation_loss(student_BChw: Tensor, teacher_BChw: Tensor, scales: Sequence[int] = RC_SCALES) -> Tensor:
    """Keep the trunk near its frozen copy: smooth L1 between the descriptors of both maps, negative values cut off.

    Args:
        student_BChw: dense map of the trunk in training.
        teacher_BChw: that of the frozen copy.
        scales: see :func:`pooled_descriptor`.

    Returns:
        The mean over all entries.

    Raises:
        ValueError: see :func:`pooled_descriptor`.
    """
    student, teacher = (pooled_descriptor(map_.float().clamp(min=0), scales) for map_ in (student_BChw, teacher_BChw))
    return F.smooth_l1_loss(student, teacher)


def mask_aware_loss(
    class_logits: Sequence[Tensor], mask_logits: Sequence[Tensor], labels: Sequence[Tensor], masks: Sequence[Tensor]
) -> Tensor:
    """Let the probability of a ground-truth mask's class follow, over the proposals, how well each covers the mask.

    Only the class logits get a gradient. The overlaps are products of the small probability maps with the ground truth
    brought down by the transposed resize; (masks x proposals x H x W), which the published code builds, never exists.

    Args:
        class_logits: per image (Q, C) of the CLIP branch, without void; a (B, Q, C) tensor will do.
        mask_logits: per image (Q, h, w), at any resolution.
        labels: per image (n,) int64 classes.
        masks: per image (n, H, W) bool or uint8, padded to the batch's size.

    Returns:
        Smooth L1 between probability and overlap, the latter stretched to 0..1 over the proposals, mean over all pairs
        of ground truth and proposal of the batch; 0, with a gradient of 0, where there is none.
    """
    got, wanted = [], []
    for logits, proposals, classes, truth in zip(class_logits, mask_logits, labels, masks, strict=True):
        if len(classes) and len(logits):
            probabilities = logits.float().softmax(-1)
            got.append(probabilities[:, classes.to(logits.device)].T)
            wanted.append(_stretch(soft_overlap(proposals.detach().float().sigmoid(), truth)))
    if not got:
        return sum(logits.float().sum() for logits in class_logits) * 0.0
    shared = torch.cat([pairs.flatten() for pairs in got]), torch.cat([pairs.flatten() for pairs in wanted])
    return F.smooth_l1_loss(*shared)


@torch.no_grad()
def soft_overlap(maps_Qhw: Tensor, masks_nHW: Tensor) -> Tensor:
    """Return the soft IoU of probability maps, enlarged bilinearly to the masks' size, with binary masks, (n, Q)."""
    everything = torch.ones_like(masks_nHW[:1], dtype=torch.uint8)
    regions = torch.cat([masks_nHW.to(torch.uint8), everything]).to(maps_Qhw.device)
    means, areas = mask_pool(
        maps_Qhw[None], regions[None], mode="prob", resize="features", eps=_POOL_EPS, return_area=True
    )
    sums_nQ = means[0] * (areas[0] + _POOL_EPS)[:, None]
    shared, total_1Q, truth_n1 = sums_nQ[:-1], sums_nQ[-1:], areas[0, :-1, None]
    return shared / (total_1Q + truth_n1 - shared + _AREA_EPS)


def _stretch(overlap_nQ: Tensor) -> Tensor:
    low, high = overlap_nQ.amin(1, keepdim=True), overlap_nQ.amax(1, keepdim=True)
    return (overlap_nQ - low) / (high - low + _RANGE_EPS)
