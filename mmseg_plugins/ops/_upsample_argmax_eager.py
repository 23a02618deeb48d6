"""Plain PyTorch version of ``upsample_argmax``: identical labels to ``F.interpolate`` + ``argmax``, in little memory.

The usual way is band by band. All output rows between two rows of logits mix the same two lines, so the columns are
interpolated once per line, and a row of output costs one multiplication and one addition per class. Classes that lie
below some other class at both lines of a band, in every column, are left out of it.

PyTorch rounds in an order of its own, and labels must not differ by it. So a few classes are computed both ways first;
if a single bit differs (another processor, another build), PyTorch's own kernel does all of it, a few classes at a
time.

N prompt rows, K classes, h w logits, H W label map, c classes at a time, R output rows of a band.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mmseg_plugins.ops._row_reduction import Reducer, RowOrder, Winners, interpolator, is_finite, reduce_rows

# Output rows of a band, if the ratio allows: enough work per call, and still inside the second-level cache.
_BAND_ROWS = 32
_ELEMENTS_PER_STEP = 600_000
_ROWS_CHECKED = 4
# Below this enlargement the two lines of a band make too few rows to pay for interpolating the columns apart.
_SMALLEST_RATIO = 2
# Up to this sum of output sides PyTorch takes its other kernel, and lines alone could come below it.
_SMALL_OUTPUT = 128


@dataclass(frozen=True)
class _Lines:
    """How output rows mix lines of logits: row i is ``upper[i]`` * line ``first[i]`` + ``lower[i]`` * the next one."""

    first: list[int]
    upper: Tensor
    lower: Tensor

    @classmethod
    def between(cls, lines: int, rows: int, like: Tensor) -> "_Lines":
        """Read PyTorch's own weights off interpolated unit vectors."""
        units = torch.eye(lines, dtype=like.dtype, device=like.device)[None, :, :, None]
        weights = _resize(units, (rows, 1))[0, :, :, 0].T
        first = (weights != 0).to(torch.uint8).argmax(1)
        following = (first + 1).clamp(max=lines - 1)
        index = torch.arange(rows, device=like.device)
        lower = torch.where(following > first, weights[index, following], 0)
        return cls(first.tolist(), weights[index, first][:, None], lower[:, None])

    def bands(self, rows: int) -> Iterator[tuple[int, int, int, int]]:
        """Cut the output rows into bands: yield first row, end row, first line, end line (may pass the last one)."""
        for start in range(0, rows, _BAND_ROWS):
            stop = min(start + _BAND_ROWS, rows)
            yield start, stop, self.first[start], self.first[stop - 1] + 2

    def groups(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """Yield (line, first row, end row) for the output rows of a band that mix the same two lines."""
        while start < stop:
            end = start + 1
            while end < stop and self.first[end] == self.first[start]:
                end += 1
            yield self.first[start], start, end
            start = end


def upsample_argmax_eager(
    logits: Tensor,
    size: tuple[int, int],
    row_class: Tensor,
    *,
    logit_scale: float = 1.0,
    log_sum: Literal["rows", "classes"] | None = None,
    want_second: bool = False,
) -> list[Winners]:
    """Reduce every image of a batch; arguments are those of ``upsample_argmax``, checked by the caller.

    Args:
        logits: (B, N, h, w).
        size: (H, W).
        row_class: (N,) long, on the device of the logits.
        logit_scale: multiplies logits inside the log-sum-exp.
        log_sum: what the log-sum-exp runs over; None: not wanted.
        want_second: keep the best score of any other class.

    Returns:
        The winners of each image.
    """
    order = RowOrder.of(row_class)
    options = {"logit_scale": logit_scale, "log_sum": log_sum, "want_second": want_second}
    pixels = max(size[0] * size[1], logits.shape[-2] * logits.shape[-1])
    results = []
    for image in logits.detach():
        if _can_go_by_bands(logits, image, size):
            results.append(_reduce_bands(image, size, order, **options))
        else:
            results.append(reduce_rows(image, interpolator(size, logits), order, pixels=pixels, **options))
    return results


def _can_go_by_bands(logits: Tensor, image: Tensor, size: tuple[int, int]) -> bool:
    """Decide from the sizes, then from a few rows computed both ways."""
    if logits.device.type != "cpu" or size[0] < _SMALLEST_RATIO * image.shape[-2] or size[1] <= _SMALL_OUTPUT:
        return False
    if len(image) <= _ROWS_CHECKED or not is_finite(image):
        return False
    some = image[:_ROWS_CHECKED]
    exact = interpolator(size, logits)(some)
    lines = _Lines.between(image.shape[-2], size[0], image)
    columns = _Columns(some, size[1])
    return all(
        torch.equal(_mix(columns(top, bottom), lines, start, stop, top), exact[:, start:stop])
        for start, stop, top, bottom in lines.bands(size[0])
    )


def _reduce_bands(image: Tensor, size: tuple[int, int], order: RowOrder, **options: object) -> Winners:
    """Reduce (N, h, w) finite logits band by band."""
    lines = _Lines.between(image.shape[-2], size[0], image)
    columns = _Columns(image, size[1])
    can_leave_out = options["log_sum"] is None and not options["want_second"]
    bands = []
    for start, stop, top, bottom in lines.bands(size[0]):
        values = columns(top, bottom)
        band_order = order.only(_can_win(values)) if can_leave_out else order
        reducer = Reducer(band_order.is_grouped, **options)
        step = max(_ROWS_CHECKED, _ELEMENTS_PER_STEP // ((stop - start) * size[1]))
        for row in range(0, len(band_order.classes), step):
            mixed = _mix(band_order.select(values, row, row + step), lines, start, stop, top)
            reducer.add(mixed, band_order.classes[row : row + step])
        bands.append(reducer.finish())
    return Winners.stack(bands)


class _Columns:
    """Interpolates the columns of a few lines of (N, h, w) rows to the full width, always into the same memory."""

    def __init__(self, rows: Tensor, width: int) -> None:
        self._rows, self._width = rows, width
        self._memory = rows.new_empty(0)

    def __call__(self, top: int, bottom: int) -> Tensor:
        """Return lines ``top`` to ``bottom`` (may pass the last one), (N, m, W); overwritten by the next call."""
        lines = self._rows[:, top:bottom].contiguous()
        shape = (*lines.shape[:2], self._width)
        if self._memory.numel() < math.prod(shape):
            self._memory = lines.new_empty(math.prod(shape) * (bottom - top + 1) // (bottom - top))
        columns = self._memory[: math.prod(shape)].view(shape)
        torch.ops.aten.upsample_bilinear2d.out(lines[None], list(shape[1:]), False, out=columns[None])
        return columns


def _mix(values: Tensor, lines: _Lines, start: int, stop: int, top: int) -> Tensor:
    """Mix lines (c, from ``top``, W) to the output rows of a band, (c, stop - start, W)."""
    mixed = values.new_empty((len(values), stop - start, values.shape[-1]))
    for line, first, end in lines.groups(start, stop):
        upper = values[:, line - top, None]
        lower = values[:, min(line - top + 1, values.shape[1] - 1), None]
        part = mixed[:, first - start : end - start]
        torch.mul(lower, lines.lower[first:end], out=part)
        part.addcmul_(upper, lines.upper[first:end])
    return mixed


def _can_win(values: Tensor) -> Tensor:
    """Tell which rows (N,) are the best somewhere, from the lines (N, m, W) between which they are interpolated.

    An interpolated value lies between the two it is made from. So a row cannot win where its larger one is below the
    smaller one of some other row.
    """
    ceiling, floor = values.amax(1), values.amin(1)
    slack = 8 * torch.finfo(values.dtype).eps * torch.maximum(ceiling.amax(), -floor.amin())  # rounding, generously
    return (ceiling >= floor.amax(0) - slack).any(1)


def _resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(image, size, mode="bilinear", align_corners=False)
