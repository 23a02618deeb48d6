"""The operators ``upsample_argmax`` and ``mask_argmax`` in plain PyTorch; ``_schema.py`` has the agreement.

Letters: B images, N rows of logits, K classes, Q masks, ``h w`` logits, ``H W`` result, R rows of a band.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mmseg_plugins.ops._eager import accumulate_dtype
from mmseg_plugins.ops._resize import resize_maps
from mmseg_plugins.ops._row_reduction import Reducer, RowOrder, Winners, reduce_rows
from mmseg_plugins.ops._upsample_argmax_eager import upsample_argmax_eager

# Mask probabilities and class scores exist for about this many numbers at a time.
_ELEMENTS_PER_BAND = 4_000_000


def band_taps(band: Sequence[int], rows: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
    """Return the two source rows of every row of a band and the weight of the second, as torch's interpolate has them.

    Args:
        band: ``[full_h, first_h, full_H, first_H]``, see ``_schema.py``.
        rows: number of rows in the band.
        device: where the tables go.

    Returns:
        ``i0`` and ``i1`` (rows,) int64, counted from ``first_h``, and ``lam`` (rows,) float32.
    """
    full_in, first_in, full_out, first_out = band
    scale = torch.tensor(full_in, dtype=torch.float32) / torch.tensor(full_out, dtype=torch.float32)
    index = torch.arange(first_out, first_out + rows, device=device, dtype=torch.float32)
    source = ((index + 0.5) * scale.to(device) - 0.5).clamp_(min=0)
    i0 = source.long().clamp_(max=full_in - 1)
    return i0 - first_in, (i0 + 1).clamp(max=full_in - 1) - first_in, (source - i0).clamp_(0, 1)


def resize_band(maps: Tensor, size: Sequence[int], band: Sequence[int]) -> Tensor:
    """Resize (..., h, w) maps to the rows of a band, (..., R, W) with (R, W) = ``size``; an empty band is all."""
    if not band:
        return resize_maps(maps, (size[0], size[1]))
    i0, i1, lam = band_taps(band, size[0], maps.device)
    lam = lam.to(maps.dtype).unsqueeze(1)
    columns = resize_maps(maps, (maps.shape[-2], size[1]))
    return columns.index_select(-2, i0) * (1 - lam) + columns.index_select(-2, i1) * lam


def _results(
    winners: Sequence[Winners],
    like: Tensor,
    size: Sequence[int],
    logit_scale: float,
    wanted: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    acc = accumulate_dtype(like)

    def stack(want: bool, read: Callable[[Winners], Tensor]) -> Tensor:
        if not want:
            return like.new_empty(0, dtype=acc)
        if not winners:
            return like.new_empty((0, *size), dtype=acc)
        return torch.stack([read(image).to(acc) for image in winners]).contiguous()

    labels = [image.labels for image in winners]
    return (
        torch.stack(labels).contiguous() if labels else like.new_empty((0, *size), dtype=torch.int64),
        stack(wanted[0], lambda image: image.score),
        stack(wanted[1], lambda image: image.score - image.second),
        stack(wanted[2], lambda image: image.probability(logit_scale)),
    )


def upsample_argmax(
    logits: Tensor,
    size: Sequence[int],
    band: Sequence[int],
    row_class: Tensor | None,
    logit_scale: float,
    softmax_rows: bool,
    want_score: bool,
    want_margin: bool,
    want_probability: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Operator ``upsample_argmax``."""
    logits = logits.to(accumulate_dtype(logits))
    if row_class is None:
        row_class = torch.arange(logits.shape[1], device=logits.device)
    sharing = "rows" if softmax_rows else "classes"
    options = {
        "logit_scale": logit_scale,
        "log_sum": sharing if want_probability else None,
        "want_second": want_margin,
    }
    size = (size[0], size[1])
    if not band:
        winners = upsample_argmax_eager(logits, size, row_class, **options)
    else:
        order = RowOrder.of(row_class)
        pixels = max(size[0], logits.shape[-2]) * size[1]
        winners = [
            reduce_rows(image, lambda rows: resize_band(rows, size, band), order, pixels=pixels, **options)
            for image in logits
        ]
    return _results(winners, logits, size, logit_scale, (want_score, want_margin, want_probability))


def mask_argmax(
    weights: Tensor,
    mask_logits: Tensor,
    size: Sequence[int],
    band: Sequence[int],
    logit_scale: float,
    want_score: bool,
    want_margin: bool,
    want_probability: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Operator ``mask_argmax``."""
    acc = accumulate_dtype(weights, mask_logits)
    weights, mask_logits = weights.to(acc), mask_logits.to(acc)
    full = tuple(band) if band else (mask_logits.shape[-2], 0, size[0], 0)
    per_row = max(1, (weights.shape[1] + weights.shape[2]) * size[1])
    step = max(1, _ELEMENTS_PER_BAND // per_row)
    classes = torch.arange(weights.shape[2], device=weights.device)
    winners = []
    for image_weights, image_masks in zip(weights, mask_logits, strict=True):
        bands = []
        for start in range(0, size[0], step):
            rows = min(step, size[0] - start)
            part = (full[0], full[1], full[2], full[3] + start)
            probabilities = resize_band(image_masks, (rows, size[1]), part).sigmoid()
            reducer = Reducer(
                False,
                logit_scale=logit_scale,
                log_sum="classes" if want_probability else None,
                want_second=want_margin,
            )
            reducer.add((image_weights.mT @ probabilities.flatten(1)).unflatten(1, (rows, size[1])), classes)
            bands.append(reducer.finish())
        winners.append(Winners.stack(bands))
    return _results(winners, mask_logits, size, logit_scale, (want_score, want_margin, want_probability))
