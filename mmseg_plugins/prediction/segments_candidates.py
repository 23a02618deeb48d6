"""Best classes of pixels when there are many classes of which few can win anywhere, exactly.

The sums of a few candidates are compared with a bound on the sums of all other classes: one more column of weights, the
largest weight of each mask among these. Where the best candidate beats every other candidate and the bound by more than
rounding can move, no other class can win. The other pixels are computed again with all classes.

Q masks, K classes, C candidates, n pixels, H W result.
"""

import torch
from torch import Tensor

from mmseg_plugins.ops._precision import without_autocast
from mmseg_plugins.prediction.mask_bands import MaskGeometry, ResizeOrder
from mmseg_plugins.prediction.mask_sums import crop_size, sum_strips

_FEWEST_CLASSES = 128  # with fewer, the sums over masks are not what costs
_CLASSES_PER_CANDIDATE = 6
# Relative distance that rounding cannot bridge: sums of at most thousands of float32 products that are not negative.
_ROUNDING = 1e-3
# Share of pixels up to which computing them again pays; of 'scores', each needs four places of the padded input.
_MOST_UNDECIDED = {"masks": 0.2, "scores": 0.05}
_SUMS_AT_A_TIME = 8_000_000


def best_of_candidates(
    weights_QK: Tensor, mask_logits: Tensor, geometry: MaskGeometry, order: ResizeOrder
) -> tuple[Tensor, Tensor] | None:
    """Name every pixel, if few classes can win.

    Args:
        weights_QK: share of each class in each mask, not negative.
        mask_logits: (Q, h, w).
        geometry: where the masks lie.
        order: what is resized to the original size.

    Returns:
        (H, W) int64 classes and their float32 sums, the same as those of all classes; None where this would not pay.
    """
    num_classes = weights_QK.shape[1]
    if num_classes < _FEWEST_CLASSES or mask_logits.device.type != "cpu" or not weights_QK.isfinite().all():
        return None
    if order == "scores" and crop_size(mask_logits, geometry) == geometry.output_size:
        order = "masks"
    with without_autocast(mask_logits):
        return _best_of_candidates(weights_QK.float(), mask_logits.float(), geometry, order)


def _best_of_candidates(
    weights_QK: Tensor, masks: Tensor, geometry: MaskGeometry, order: ResizeOrder
) -> tuple[Tensor, Tensor] | None:
    candidates, bounded_CQ = _candidates(weights_QK)
    if _share_undecided(bounded_CQ, masks) > _MOST_UNDECIDED[order]:
        return None
    labels = torch.empty(geometry.output_size, dtype=torch.int64)
    winning = torch.empty(geometry.output_size)
    for strip in sum_strips(bounded_CQ, masks, geometry, order):
        place, best, undecided = _winners(strip.sums)
        named = candidates[place.clamp(max=len(candidates) - 1)]
        pixels = undecided.nonzero().flatten()
        for some in pixels.split(max(1, _SUMS_AT_A_TIME // weights_QK.shape[1])):
            best[some], named[some] = strip.sums_of(weights_QK.mT, some).max(0)
        width = geometry.output_size[1]
        labels[strip.rows], winning[strip.rows] = named.unflatten(0, (-1, width)), best.unflatten(0, (-1, width))
    return labels, winning


def _candidates(weights_QK: Tensor) -> tuple[Tensor, Tensor]:
    """(C,) classes with the largest weights, in order, and (C + 1, Q) their weights with the bound behind them."""
    num_classes = weights_QK.shape[1]
    largest_K = weights_QK.amax(0)
    candidates = largest_K.topk(num_classes // _CLASSES_PER_CANDIDATE).indices.sort().values
    rest = torch.ones(num_classes, dtype=torch.bool)
    rest[candidates] = False
    bound_Q1 = weights_QK[:, rest].amax(1, keepdim=True)
    return candidates, torch.cat([weights_QK[:, candidates], bound_Q1], dim=1).T.contiguous()


def _share_undecided(bounded_CQ: Tensor, masks: Tensor) -> float:
    """Share of the places of a coarse grid where another class might win."""
    coarse = tuple(max(1, side // 2) for side in masks.shape[-2:])
    strips = sum_strips(bounded_CQ, masks, MaskGeometry(output_size=coarse), "masks")
    return float(torch.cat([_winners(strip.sums)[2] for strip in strips]).float().mean())


def _winners(sums_Cn: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(n,) places of the winners, their sums, and whether another class might win."""
    best, place = sums_Cn.max(0)
    second = sums_Cn.scatter(0, place[None], float("-inf")).amax(0)
    is_sure = (place < len(sums_Cn) - 1) & (best - second > _ROUNDING * best)
    return place, best, ~is_sure
