"""Weighted sums of masks at the original size, a few rows at a time, in both orders of resizing.

Q masks, C sums, K classes, n pixels of a strip, H W result.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from mmseg_plugins.ops._argmax_eager import band_taps, resize_band
from mmseg_plugins.prediction.mask_bands import MaskGeometry, ResizeOrder, mask_bands, resized_rows

_SUMS_AT_A_TIME = 2_000_000


def crop_size(mask_logits: Tensor, geometry: MaskGeometry) -> tuple[int, int]:
    """Return the size of what is resized to the original size in the order ``scores``."""
    return geometry.image_size or geometry.padded_size or tuple(mask_logits.shape[-2:])


@dataclass(frozen=True)
class Strip:
    """Sums of a few rows of the result, n pixels.

    Attributes:
        rows: which.
        sums: (C, n).
        sums_of: from (K, Q) weights and places among the n pixels to (K, places) sums.
    """

    rows: slice
    sums: Tensor
    sums_of: Callable[[Tensor, Tensor], Tensor]


def sum_strips(weights_CQ: Tensor, masks: Tensor, geometry: MaskGeometry, order: ResizeOrder) -> Iterator[Strip]:
    """Sum masks by weights at the original size, a few rows at a time.

    Args:
        weights_CQ: weight of each mask in each sum.
        masks: (Q, h, w) logits.
        geometry: where the masks lie.
        order: what is resized to the original size.

    Yields:
        Strips from top to bottom; together all rows.
    """
    if order == "masks" or crop_size(masks, geometry) == geometry.output_size:  # nothing is resized behind the sum
        yield from _mask_strips(weights_CQ, masks, geometry)
    else:
        yield from _score_strips(weights_CQ, masks, geometry)


def _mask_strips(weights_CQ: Tensor, masks: Tensor, geometry: MaskGeometry) -> Iterator[Strip]:
    """Strips in the order ``masks``."""
    for band in mask_bands(masks, geometry, per_pixel=len(weights_CQ)):
        inside_Qn = band.logits.sigmoid_().flatten(1)
        yield Strip(band.rows, weights_CQ @ inside_Qn, partial(_sums_at, inside_Qn))


def _sums_at(inside_Qn: Tensor, weights_KQ: Tensor, pixels: Tensor) -> Tensor:
    return weights_KQ @ inside_Qn[:, pixels]


def _score_strips(weights_CQ: Tensor, masks: Tensor, geometry: MaskGeometry) -> Iterator[Strip]:
    """Strips in the order ``scores``: sums on the padded input, resized."""
    crop, (height, width) = crop_size(masks, geometry), geometry.output_size
    padded = geometry.padded_size or tuple(masks.shape[-2:])
    step = max(1, _SUMS_AT_A_TIME // (max(len(masks), len(weights_CQ)) * max(padded[1], width)))
    for start in range(0, height, step):
        rows = min(step, height - start)
        band = (crop[0], 0, height, start)
        top, bottom, _ = band_taps(band, rows)
        first, last = int(top.min()), int(bottom.max())
        inside_QRW = resized_rows(masks, padded, first, last - first + 1)[..., : crop[1]].sigmoid()
        band = (crop[0], first, height, start)
        sums_CRW = (weights_CQ @ inside_QRW.flatten(1)).unflatten(1, inside_QRW.shape[1:])
        sums_of = partial(_sums_between, inside_QRW, band, (rows, width))
        yield Strip(slice(start, start + rows), resize_band(sums_CRW, (rows, width), band).flatten(1), sums_of)


def _sums_between(
    inside_QRW: Tensor, band: tuple[int, int, int, int], size: tuple[int, int], weights_KQ: Tensor, pixels: Tensor
) -> Tensor:
    """Sums at the four places of the padded input around each pixel, then between them: columns first, then rows."""
    top, bottom, down = band_taps(band, size[0])
    left, right, across = band_taps((inside_QRW.shape[-1], 0, size[1], 0), size[1])
    row, column = pixels // size[1], pixels % size[1]
    across, down = across[column], down[row]
    upper, lower = (
        (weights_KQ @ inside_QRW[:, rows[row], left[column]]) * (1 - across)
        + (weights_KQ @ inside_QRW[:, rows[row], right[column]]) * across
        for rows in (top, bottom)
    )
    return upper * (1 - down) + lower * down
