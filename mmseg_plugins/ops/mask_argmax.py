"""Semantic label maps from classified masks, without a tensor of all classes at full size.

Letters: B images, Q masks, K classes, ``h w`` mask logits, ``Hp Wp`` padded network input, ``H W`` result.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mmseg_plugins.ops._argmax_eager import band_taps, resize_band
from mmseg_plugins.ops._precision import without_autocast
from mmseg_plugins.ops._validate import FEATURE_DTYPES, check_option, check_same, check_size, check_tensor
from mmseg_plugins.ops.label_map import UpsampledArgmax

ORDERS = ("masks", "scores")

# Intermediate maps exist for about this many numbers at a time.
_ELEMENTS_PER_BAND = 8_000_000
# Neighbouring bands share an intermediate row; with fewer rows than this, that would be much of the work.
_LEAST_ROWS = 16


@dataclass(frozen=True)
class _Band:
    """Result rows, and the rows of the intermediate map that they need.

    Args:
        start: first result row.
        stop: one past the last.
        first: first intermediate row.
        rows: number of intermediate rows.
    """

    start: int
    stop: int
    first: int
    rows: int


def mask_argmax(
    weights: Tensor,
    mask_logits: Tensor,
    size: tuple[int, int],
    *,
    order: Literal["masks", "scores"] = "masks",
    padded_size: tuple[int, int] | None = None,
    crop: tuple[int, int] | None = None,
    logit_scale: float = 1.0,
    return_score: bool = False,
    return_margin: bool = False,
    return_probability: bool = False,
) -> Tensor | UpsampledArgmax:
    """Name the best class of every pixel from masks and the class weights of each mask.

    The class score of a pixel is ``sum_q weights[q, k] * sigmoid(mask_q)``. The published models resize at two places:

    * ``masks`` (panoptic or instance output is on): mask logits go to ``padded_size``, are cropped, go to ``size``, and
      then the sigmoid and the sum follow;
    * ``scores`` (semantic output only, and mmseg's own post-processing): mask logits go to ``padded_size``, the sigmoid
      and the sum follow, and the scores are cropped and go to ``size``.

    Everything runs in bands of rows; neither K x H x W nor Q x H x W exists.

    Args:
        weights: (B, Q, K) class weights of each mask, such as softmax scores without the void class.
        mask_logits: (B, Q, h, w) mask logits.
        size: (H, W) of the label map.
        order: what is resized to ``size``, see above.
        padded_size: (Hp, Wp) of the first resize; None leaves it out.
        crop: (height, width) of the image inside the padded input, from the top left corner; None keeps all.
        logit_scale: multiplies the scores inside the softmax of ``return_probability``.
        return_score: also return the winning class score.
        return_margin: also return its distance to the best other class.
        return_probability: also return its softmax probability among the classes.

    Returns:
        (B, H, W) int64 label map; ties go to the lower class. An ``UpsampledArgmax`` when any extra was asked for.

    Raises:
        ValueError: if shapes, dtypes, devices or options do not fit.

    Example:
        >>> masks = torch.tensor([[[[9.0, -9.0]], [[-9.0, 9.0]]]])
        >>> mask_argmax(torch.eye(2)[None], masks, (1, 4))
        tensor([[[0, 0, 1, 1]]])
    """
    size = _validate(weights, mask_logits, size, order)
    middle = tuple(mask_logits.shape[-2:]) if padded_size is None else check_size("padded_size", padded_size)
    crop = middle if crop is None else check_size("crop", crop)
    if crop[0] > middle[0] or crop[1] > middle[1]:
        raise ValueError(f"Expected argument `crop` to lie inside {middle}, but got {crop}.")
    if crop == size:
        order = "masks"  # nothing is left to resize, so both orders are one, and this one keeps no scores
    wanted = (return_score, return_margin, return_probability)
    per_row = (weights.shape[1] + weights.shape[2] * (order == "scores")) * middle[1] * max(1, weights.shape[0])
    parts = []
    for band in _bands(crop[0], size[0], per_row):
        # The intermediate map, the rows of this band only.
        part = [crop[0], band.first, size[0], band.start], [band.stop - band.start, size[1]]
        with without_autocast(mask_logits):
            maps = _middle_rows(mask_logits, middle, band)
            parts.append(_reduce(weights, maps[..., : crop[1]], part, order, logit_scale, wanted))
    labels, *extras = (torch.cat(columns, 1) if columns[0].dim() == 3 else None for columns in zip(*parts, strict=True))
    return UpsampledArgmax(labels, *extras) if any(wanted) else labels


def _middle_rows(maps: Tensor, size: tuple[int, int], band: _Band) -> Tensor:
    """Resize to the rows of a band, reading only the source rows that they need."""
    full = maps.shape[-2]
    i0, i1, _ = band_taps([full, 0, size[0], band.first], band.rows)
    first, last = int(i0.min()), int(i1.max())
    return resize_band(maps[..., first : last + 1, :], (band.rows, size[1]), [full, first, size[0], band.first])


def _reduce(
    weights: Tensor,
    maps: Tensor,
    part: tuple[list[int], list[int]],
    order: str,
    logit_scale: float,
    wanted: tuple[bool, bool, bool],
) -> Sequence[Tensor]:
    band, size = part
    if order == "masks":
        return torch.ops.mmseg_plugins.mask_argmax(weights, maps, size, band, logit_scale, *wanted)
    scores = (weights.float().mT @ maps.float().sigmoid().flatten(2)).unflatten(2, maps.shape[-2:])
    return torch.ops.mmseg_plugins.upsample_argmax(scores, size, band, None, logit_scale, True, *wanted)


def _bands(rows_in: int, rows_out: int, per_row: int) -> Iterator[_Band]:
    i0, i1, _ = band_taps([rows_in, 0, rows_out, 0], rows_out)
    first, last = i0.tolist(), i1.tolist()
    largest = max(_LEAST_ROWS, _ELEMENTS_PER_BAND // max(1, per_row))
    start = 0
    while start < rows_out:
        stop = start + 1
        while stop < rows_out and last[stop] - first[start] < largest:
            stop += 1
        yield _Band(start, stop, first[start], last[stop - 1] - first[start] + 1)
        start = stop


def _validate(weights: Tensor, mask_logits: Tensor, size: tuple[int, int], order: str) -> tuple[int, int]:
    check_tensor("weights", weights, "B Q K", FEATURE_DTYPES)
    check_tensor("mask_logits", mask_logits, "B Q h w", FEATURE_DTYPES)
    check_same("weights", weights, mask_logits)
    if weights.shape[1] != mask_logits.shape[1]:
        raise ValueError(
            f"Expected argument `weights` to have {mask_logits.shape[1]} rows, one for each mask, but got "
            f"{weights.shape[1]}."
        )
    if weights.shape[2] == 0 or 0 in mask_logits.shape[-2:]:
        raise ValueError(
            f"Expected classes and pixels, but got weights {tuple(weights.shape)} and mask_logits "
            f"{tuple(mask_logits.shape)}."
        )
    check_option("order", order, ORDERS)
    return check_size("size", size)
