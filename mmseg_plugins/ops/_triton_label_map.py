"""The Triton tier of ``upsample_argmax``: enlarge logits and take the best class in one pass.

One program per run of pixels; the rows go by one after another, and nothing of the size rows x H x W exists.
"""

# ruff: noqa: ANN001, ANN202  kernel arguments are pointers and numbers that Triton types itself

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 512
_NUMBERS = (torch.float32, torch.bfloat16, torch.float16)


@triton.jit
def _torch_taps(i, scale, n_in, first, n_here):
    """Return the taps of ``interpolate``, whose source index is float32 arithmetic.

    They count from row ``first`` and are clamped to the ``n_here`` rows that are there: the last bit of a source index
    may differ from that on the device which chose the rows, and then the row that is missing weighs about nothing.
    """
    source = tl.maximum(scale * (i.to(tl.float32) + 0.5) - 0.5, 0.0)
    low = source.to(tl.int32)
    high = tl.minimum(low + 1, n_in - 1)
    weight = source - low.to(tl.float32)
    low = tl.minimum(tl.maximum(low - first, 0), n_here - 1)
    return low.to(tl.int64), tl.minimum(tl.maximum(high - first, 0), n_here - 1).to(tl.int64), weight


@triton.jit
def _add_exponential(largest, total, scaled):
    peak = tl.maximum(largest, scaled)
    return peak, total * tl.exp(largest - peak) + tl.exp(scaled - peak)


@triton.jit
def upsample_argmax_kernel(
    logits_ptr, classes_ptr, labels_ptr, score_ptr, margin_ptr, probability_ptr,
    rows, batch_stride, row_stride, y_stride, x_stride, h, w, H, W, full_h, first_h, first_H, y_scale, x_scale,
    tiles, logit_scale,
    HAS_CLASSES: tl.constexpr, SOFTMAX_ROWS: tl.constexpr, WANT_SCORE: tl.constexpr, WANT_MARGIN: tl.constexpr,
    WANT_PROBABILITY: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write labels, and what else is wanted, of one run of pixels. Classes do not decrease from row to row."""
    program = tl.program_id(0).to(tl.int64)
    image = program // tiles
    pixel = (program % tiles).to(tl.int32) * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < H * W
    y_low, y_high, down = _torch_taps(pixel // W + first_H, y_scale, full_h, first_h, h)
    x_low, x_high, right = _torch_taps(pixel % W, x_scale, w, 0, w)
    base = logits_ptr + image * batch_stride
    top, bottom = y_low * y_stride, y_high * y_stride
    best = tl.full((BLOCK,), float("-inf"), tl.float32)
    second = best
    label = tl.full((BLOCK,), -1, tl.int64)
    # Of the softmax: the running log-sum-exp, and the best row of the class that is not yet part of it.
    largest = best
    total = tl.zeros((BLOCK,), tl.float32)
    peak = best
    previous = tl.full((), -1, tl.int64)
    for row in range(rows):
        at = base + tl.cast(row, tl.int64) * row_stride
        upper = (1 - right) * tl.load(at + top + x_low * x_stride, mask=inside, other=0).to(tl.float32)
        upper += right * tl.load(at + top + x_high * x_stride, mask=inside, other=0).to(tl.float32)
        lower = (1 - right) * tl.load(at + bottom + x_low * x_stride, mask=inside, other=0).to(tl.float32)
        lower += right * tl.load(at + bottom + x_high * x_stride, mask=inside, other=0).to(tl.float32)
        # Rounded as interpolate rounds its result: classes that tie there must tie here.
        value = ((1 - down) * upper + down * lower).to(logits_ptr.dtype.element_ty).to(tl.float32)
        if HAS_CLASSES:
            its_class = tl.load(classes_ptr + row)
        else:
            its_class = tl.cast(row, tl.int64)
        same = label == its_class
        better = (value > best) | (label < 0)
        second = tl.where(same, second, tl.where(better, best, tl.maximum(second, value)))
        best = tl.where(better, value, best)
        label = tl.where(better, its_class, label)
        if WANT_PROBABILITY:
            if SOFTMAX_ROWS:
                largest, total = _add_exponential(largest, total, value * logit_scale)
            else:
                starts = its_class != previous
                new_largest, new_total = _add_exponential(largest, total, peak * logit_scale)
                is_closed = starts & (previous >= 0)
                largest = tl.where(is_closed, new_largest, largest)
                total = tl.where(is_closed, new_total, total)
                peak = tl.where(starts, value, tl.maximum(peak, value))
                previous = its_class
    place = image * H * W + pixel
    tl.store(labels_ptr + place, label, mask=inside)
    if WANT_SCORE:
        tl.store(score_ptr + place, best, mask=inside)
    if WANT_MARGIN:
        tl.store(margin_ptr + place, best - second, mask=inside)
    if WANT_PROBABILITY:
        if not SOFTMAX_ROWS:
            largest, total = _add_exponential(largest, total, peak * logit_scale)
        tl.store(probability_ptr + place, tl.exp(best * logit_scale - largest) / total, mask=inside)


def _float32_ratio(n_in: int, n_out: int) -> float:
    """Divide as torch does: both rounded to float32, and the quotient too."""
    return float(torch.tensor(n_in, dtype=torch.float32) / torch.tensor(n_out, dtype=torch.float32))


def upsample_argmax(
    logits: Tensor,
    size: tuple[int, int],
    band: tuple[int, ...],
    row_class: Tensor | None,
    logit_scale: float,
    softmax_rows: bool,
    want_score: bool,
    want_margin: bool,
    want_probability: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Operator ``upsample_argmax`` of ``_schema.py``, for float32, bfloat16 and float16 logits.

    Raises:
        TypeError: if the logits have another dtype.
    """
    if logits.dtype not in _NUMBERS:
        raise TypeError(f"The Triton label map takes float32, bfloat16 or float16 logits, but got {logits.dtype}.")
    batch, rows, height, width = logits.shape
    full_h, first_h, full_H, first_H = tuple(band) or (height, 0, size[0], 0)
    wanted = (want_score, want_margin, want_probability)
    labels = logits.new_empty((batch, *size), dtype=torch.int64)
    extras = [logits.new_empty((batch, *size) if want else 0, dtype=torch.float32) for want in wanted]
    tiles = triton.cdiv(size[0] * size[1], _BLOCK)
    if not batch:
        return labels, *extras
    with torch.cuda.device_of(logits):  # Triton launches on the current device
        upsample_argmax_kernel[(batch * tiles,)](
            logits,
            labels if row_class is None else row_class.contiguous(),
            labels,
            *extras,
            *(rows, *logits.stride(), height, width, *size, full_h, first_h, first_H),
            *(_float32_ratio(full_h, full_H), _float32_ratio(width, size[1]), tiles, logit_scale),
            HAS_CLASSES=row_class is not None,
            SOFTMAX_ROWS=softmax_rows,
            WANT_SCORE=want_score,
            WANT_MARGIN=want_margin,
            WANT_PROBABILITY=want_probability,
            BLOCK=_BLOCK,
        )
    return labels, *extras
