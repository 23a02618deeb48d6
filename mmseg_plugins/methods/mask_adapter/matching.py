"""Which masks Mask-Adapter trains on: annotated ones, and predictions that match them well.

B images, Q predictions, n annotated masks of one image, h w grid of the predictions, H W grid of the images. Random
choices come from torch's global generator.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mmseg_plugins.classify.pooling import masks_on_grid
from mmseg_plugins.masks.targets import SegmentTargets

IGNORED = -1  # label of padding
_EPS = 1e-6


def logit(probability: float) -> float:
    """Return the logarithm of the odds."""
    return math.log(probability) - math.log1p(-probability)


@dataclass(frozen=True)
class AdapterMasks:
    """The masks of a training step, as many for each image.

    Attributes:
        masks: (B, N, H, W) float, 0 to 1; padding is all zero.
        labels: (B, N) int64; -1 for padding.
        pairs: (P, 2) int64, places of each matched prediction and of the annotated mask it matches, padding included.
        has_full_padding: whether some padding is all one instead, see :func:`mixed_masks`.
    """

    masks: Tensor
    labels: Tensor
    pairs: Tensor
    has_full_padding: bool = False

    @property
    def is_real(self) -> Tensor:
        """(B, N) bool: not padding."""
        return self.labels != IGNORED


@dataclass(frozen=True)
class MatchedPair:
    """Predictions of one image and the annotated masks they match.

    Attributes:
        queries: (p,) int64 indices of predictions.
        targets: (p,) int64 indices of annotated masks.
    """

    queries: Tensor
    targets: Tensor


def without_empty(targets: SegmentTargets) -> SegmentTargets:
    """Drop annotated masks without a pixel."""
    kept = targets.masks.flatten(1).any(1)
    return SegmentTargets(targets.labels[kept], targets.masks[kept])


def ground_truth_masks(targets: Sequence[SegmentTargets], count: int) -> AdapterMasks:
    """Choose up to ``count`` annotated masks of every image at random, all where they are no more.

    Args:
        targets: of B images, of one size.
        count: N at most; the result is only as wide as its fullest image needs.

    Returns:
        Masks without pairs.
    """
    chosen = [_subset(without_empty(item), count) for item in targets]
    width = max(1, *(len(item.labels) for item in chosen))
    return _padded(chosen, width)


def mask_iou(predicted_Qhw: Tensor, target_nhw: Tensor) -> Tensor:
    """Intersection over union of binary masks.

    Args:
        predicted_Qhw: bool.
        target_nhw: bool, on the same grid.

    Returns:
        (Q, n) float32; 0 where both are empty.
    """
    predicted_QP, target_nP = predicted_Qhw.flatten(1).float(), target_nhw.flatten(1).float()
    shared_Qn = predicted_QP @ target_nP.T
    union_Qn = predicted_QP.sum(1)[:, None] + target_nP.sum(1) - shared_Qn
    return shared_Qn / (union_Qn + _EPS)


def masks_on_stride(masks_nHW: Tensor, grid: tuple[int, int]) -> Tensor:
    """Bring annotated masks to the grid of the predictions: bilinear, then above a half. (n, h, w) bool."""
    return masks_on_grid(masks_nHW[None].float(), grid)[0] > 0.5 if len(masks_nHW) else masks_nHW.new_zeros((0, *grid))


def match_by_iou(iou_Qn: Tensor, threshold: float, count: int) -> MatchedPair:
    """Choose for every annotated mask one prediction at random among those that overlap it enough.

    A prediction may serve several masks. Where more than ``count`` find one, that many are kept at random, in the order
    of the annotated masks.

    Args:
        iou_Qn: see :func:`mask_iou`.
        threshold: the overlap must exceed it.
        count: pairs at most.
    """
    enough_nQ = (iou_Qn > threshold).T
    # the largest of independent uniform numbers falls on each of the candidates alike
    luck_nQ = torch.rand(enough_nQ.shape, device=iou_Qn.device).masked_fill(~enough_nQ, -1.0)
    matched = enough_nQ.any(1).nonzero().flatten() if enough_nQ.numel() else iou_Qn.new_zeros(0, dtype=torch.int64)
    if len(matched) > count:
        matched = matched[torch.randperm(len(matched), device=matched.device)[:count].sort().values]
    queries = luck_nQ[matched].argmax(1) if len(matched) else matched
    return MatchedPair(queries, matched)


def mixed_masks(
    targets: Sequence[SegmentTargets],
    mask_logits_BQhw: Tensor,
    pairs: Sequence[MatchedPair],
    *,
    num_gt: int,
    num_matched: int,
    threshold: float,
    full_padding: bool = False,
) -> AdapterMasks:
    """Put together the masks of the mixed phase: annotated ones, matched predictions, what these match.

    Predictions are binarised first and padded after that, so that padding is empty whatever the threshold. Both sides
    of a pair are on the predictions' grid, and enlarged to the images bilinearly.

    Args:
        targets: annotated masks (n, H, W) of B images.
        mask_logits_BQhw: predictions.
        pairs: of each image, at most ``num_matched``.
        num_gt: annotated masks for each image, a random subset where there are more.
        num_matched: pairs for each image.
        threshold: probability above which a place belongs to a prediction.
        full_padding: as in the published code, which pads logits with 0 and so gets full masks where the threshold is
            below 0.5.

    Returns:
        ``num_gt + 2 * num_matched`` masks for each image, in the order above.
    """
    size = tuple(targets[0].masks.shape[-2:])
    bound = logit(threshold)
    grid = tuple(mask_logits_BQhw.shape[-2:])
    parts = [
        _padded([_subset(item, num_gt) for item in targets], num_gt),
        _padded(
            [
                SegmentTargets(item.labels[pair.targets], _enlarged(logits[pair.queries] > bound, size))
                for item, logits, pair in zip(targets, mask_logits_BQhw, pairs, strict=True)
            ],
            num_matched,
        ),
        _padded(
            [
                SegmentTargets(
                    item.labels[pair.targets], _enlarged(masks_on_stride(item.masks[pair.targets], grid), size)
                )
                for item, pair in zip(targets, pairs, strict=True)
            ],
            num_matched,
        ),
    ]
    if full_padding and threshold < 0.5:
        parts[1].masks[~parts[1].is_real] = 1.0
    first = num_gt + torch.arange(num_matched, device=mask_logits_BQhw.device)
    return AdapterMasks(
        masks=torch.cat([part.masks for part in parts], dim=1),
        labels=torch.cat([part.labels for part in parts], dim=1),
        pairs=torch.stack([first, first + num_matched], dim=1),
        has_full_padding=full_padding and threshold < 0.5,
    )


def _subset(targets: SegmentTargets, count: int) -> SegmentTargets:
    if len(targets.labels) <= count:
        return targets
    chosen = torch.randperm(len(targets.labels), device=targets.labels.device)[:count]
    return SegmentTargets(targets.labels[chosen], targets.masks[chosen])


def _enlarged(masks_nhw: Tensor, size: tuple[int, int]) -> Tensor:
    if not len(masks_nhw):
        return masks_nhw.new_zeros((0, *size), dtype=torch.float32)
    return F.interpolate(masks_nhw[:, None].float(), size, mode="bilinear", align_corners=False)[:, 0]


def _padded(items: Sequence[SegmentTargets], width: int) -> AdapterMasks:
    size = items[0].masks.shape[-2:]
    labels = items[0].labels.new_full((len(items), width), IGNORED)
    masks = torch.zeros((len(items), width, *size), device=labels.device)
    for row, item in enumerate(items):
        labels[row, : len(item.labels)] = item.labels
        masks[row, : len(item.labels)] = item.masks.float()
    return AdapterMasks(masks, labels, labels.new_zeros((0, 2)))
