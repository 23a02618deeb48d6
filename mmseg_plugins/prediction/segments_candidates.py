"""Best classes of pixels when there are many classes of which few can win anywhere, exactly.

The sums of a few candidates are compared with a bound on the sums of all other classes: one more column of weights, the
largest weight of each mask among these. Where the best candidate beats every other candidate and the bound by more than
rounding can move, no other class can win. The other pixels are computed again with all classes.

Q masks, K classes, C candidates, n pixels, H W result.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from mmseg_plugins.ops._argmax_eager import band_taps, resize_band
from mmseg_plugins.ops._precision import without_autocast
from mmseg_plugins.prediction.mask_bands import MaskGeometry, ResizeOrder, mask_bands, resized_rows

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
    if order == "scores" and _crop(mask_logits, geometry) == geometry.output_size:
        order = "masks"  # nothing is resized behind the sum
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
    strips = _mask_strips if order == "masks" else _score_strips
    for strip in strips(bounded_CQ, masks, geometry):
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
    [*strips] = _mask_strips(bounded_CQ, masks, MaskGeometry(output_size=coarse))
    return float(torch.cat([_winners(strip.sums)[2] for strip in strips]).float().mean())


def _winners(sums_Cn: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(n,) places of the winners, their sums, and whether another class might win."""
    best, place = sums_Cn.max(0)
    second = sums_Cn.scatter(0, place[None], float("-inf")).amax(0)
    is_sure = (place < len(sums_Cn) - 1) & (best - second > _ROUNDING * best)
    return place, best, ~is_sure


def _crop(mask_logits: Tensor, geometry: MaskGeometry) -> tuple[int, int]:
    return geometry.image_size or geometry.padded_size or tuple(mask_logits.shape[-2:])


@dataclass(frozen=True)
class _Strip:
    """A few rows of the result, n pixels.

    Attributes:
        rows: which.
        sums: (C + 1, n) of the candidates and the bound.
        sums_of: from (K, Q) weights and places among the n pixels to (K, places) sums.
    """

    rows: slice
    sums: Tensor
    sums_of: Callable[[Tensor, Tensor], Tensor]


def _mask_strips(bounded_CQ: Tensor, masks: Tensor, geometry: MaskGeometry) -> Iterator[_Strip]:
    """Strips in the order ``masks``."""
    for band in mask_bands(masks, geometry, per_pixel=len(bounded_CQ)):
        inside_Qn = band.logits.sigmoid().flatten(1)
        yield _Strip(band.rows, bounded_CQ @ inside_Qn, partial(_sums_at, inside_Qn))


def _sums_at(inside_Qn: Tensor, weights_KQ: Tensor, pixels: Tensor) -> Tensor:
    return weights_KQ @ inside_Qn[:, pixels]


def _score_strips(bounded_CQ: Tensor, masks: Tensor, geometry: MaskGeometry) -> Iterator[_Strip]:
    """Strips in the order ``scores``: sums on the padded input, resized."""
    crop, (height, width) = _crop(masks, geometry), geometry.output_size
    padded = geometry.padded_size or tuple(masks.shape[-2:])
    step = max(1, _SUMS_AT_A_TIME // (max(len(masks), len(bounded_CQ)) * max(padded[1], width)))
    for start in range(0, height, step):
        rows = min(step, height - start)
        band = (crop[0], 0, height, start)
        top, bottom, _ = band_taps(band, rows)
        first, last = int(top.min()), int(bottom.max())
        inside_QRW = resized_rows(masks, padded, first, last - first + 1)[..., : crop[1]].sigmoid()
        band = (crop[0], first, height, start)
        sums_CRW = (bounded_CQ @ inside_QRW.flatten(1)).unflatten(1, inside_QRW.shape[1:])
        sums_of = partial(_sums_between, inside_QRW, band, (rows, width))
        yield _Strip(slice(start, start + rows), resize_band(sums_CRW, (rows, width), band).flatten(1), sums_of)


def _sums_between(
    inside_QRW: Tensor, band: tuple[int, int, int, int], size: tuple[int, int], weights_KQ: Tensor, pixels: Tensor
) -> Tensor:
    """Sums at the four places of the padded input around each pixel, then between them: columns first, then rows."""
    top, bottom, down = band_taps(band, size[0])
    left, right, across = band_taps((inside_QRW.shape[-1], 0, size[1], 0), size[1])
    row, column = pixels // size[1], pixels % size[1]
    upper, lower = (
        torch.lerp(
            weights_KQ @ inside_QRW[:, rows[row], left[column]],
            weights_KQ @ inside_QRW[:, rows[row], right[column]],
            across[column],
        )
        for rows in (top, bottom)
    )
    return torch.lerp(upper, lower, down[row])
