"""The running reduction that all label maps are made with.

A few rows of logits at a time are brought to full size and reduced; nothing of the size rows x H x W exists. Labels are
those of ``F.interpolate`` + ``argmax`` exactly, because the very same kernel computes the same numbers.

N prompt rows, K classes, H W full size, c rows at a time.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

# About what stays in the processor's cache between writing the rows and reducing them (float32: 24 MB).
_ELEMENTS_PER_STEP = 6_000_000
# PyTorch's CPU kernels round differently for up to three channels than for four and more.
_FEWEST_ROWS = 4
# Its vectorised kernel (channels-last input, or small output) rounds the channels behind the last whole vector
# differently. Steps of whole vectors leave every row where it would be without steps.
_WHOLE_VECTORS = 32

Enlarge = Callable[[Tensor], Tensor]
"""Brings rows (c, ...) to full size (c, H, W), each row for itself."""


@dataclass(frozen=True)
class RowOrder:
    """Which rows take part, sorted by class.

    Args:
        rows: (n,) long, row indices into the logits; None: all rows, in their own order.
        classes: (n,) long, class of each of these rows, not decreasing.
        is_grouped: whether some class has several rows.
    """

    rows: Tensor | None
    classes: Tensor
    is_grouped: bool

    @classmethod
    def of(cls, row_class: Tensor) -> "RowOrder":
        """Sort all rows by class; ``row_class`` is (N,) long, on the device of the logits."""
        rows = torch.argsort(row_class, stable=True)
        classes = row_class[rows]
        return cls(None if bool((rows[1:] > rows[:-1]).all()) else rows, classes, _has_repeats(classes))

    def only(self, keep: Tensor) -> "RowOrder":
        """Leave out the rows n for which ``keep`` (N,) is false."""
        rows = torch.arange(len(keep), device=keep.device) if self.rows is None else self.rows
        is_kept = keep[rows]
        return self if bool(is_kept.all()) else RowOrder(rows[is_kept], self.classes[is_kept], self.is_grouped)

    def select(self, logits: Tensor, start: int, stop: int) -> Tensor:
        """Take rows ``start`` to ``stop`` of the order from logits (N, ...)."""
        return logits[start:stop] if self.rows is None else logits.index_select(0, self.rows[start:stop])


def _has_repeats(classes: Tensor) -> bool:
    return bool((classes[1:] == classes[:-1]).any())


@dataclass
class Winners:
    """What won at every pixel.

    Args:
        score: (H, W) best class score.
        labels: (H, W) int64, its class.
        second: (H, W) best score of any other class, where margins were wanted.
        log_sum: (H, W) float32 log-sum-exp of the scaled scores, where probabilities were wanted.
    """

    score: Tensor
    labels: Tensor
    second: Tensor | None = None
    log_sum: Tensor | None = None

    @classmethod
    def stack(cls, bands: list["Winners"]) -> "Winners":
        """Put bands of rows on top of each other."""
        columns = [[getattr(band, field.name) for band in bands] for field in fields(cls)]
        return cls(*[None if parts[0] is None else torch.cat(parts) for parts in columns])

    def probability(self, logit_scale: float) -> Tensor:
        """Return the (H, W) float32 softmax probability of the winner."""
        return (self.score.float() * logit_scale).sub_(self.log_sum).exp_()


@torch.no_grad()
def reduce_rows(
    logits: Tensor,
    enlarge: Enlarge,
    order: RowOrder,
    *,
    pixels: int,
    logit_scale: float = 1.0,
    log_sum: Literal["rows", "classes"] | None = None,
    want_second: bool = False,
) -> Winners:
    """Bring rows to full size a few at a time, and keep what wins.

    Args:
        logits: (N, ...) rows at low resolution.
        enlarge: takes (c, ...) of them to (c, H, W); its result is read before it is called again.
        order: rows that take part and their classes. Ties go to the lower class; NaN wins, as for ``torch.argmax``.
        pixels: largest number of pixels that a row has on the way; decides how many rows are taken at a time.
        logit_scale: multiplies scores inside the log-sum-exp.
        log_sum: what the log-sum-exp runs over; None: not wanted.
        want_second: keep the best score of any other class.

    Returns:
        The winners over all rows that take part.
    """
    step = rows_per_step(pixels, logits)
    reducer = Reducer(
        order.is_grouped,
        logit_scale=logit_scale,
        log_sum=log_sum,
        want_second=want_second,
        has_nan=not is_finite(logits),  # infinity times a zero weight is NaN
    )
    for start in range(0, len(order.classes), step):
        classes = order.classes[start : start + step]
        rows = order.select(logits, start, start + step)
        reducer.add(enlarge_some(rows, enlarge, len(logits)), classes)
    return reducer.finish()


def rows_per_step(pixels: int, logits: Tensor) -> int:
    """Return how many rows to bring to full size at a time.

    Args:
        pixels: largest number of pixels that a row has on the way.
        logits: (N, ...) all rows; channels-last ones go in whole vectors.

    Returns:
        A number of whole vectors, or at least a few rows.
    """
    rows = max(_FEWEST_ROWS, _ELEMENTS_PER_STEP // max(pixels, 1))
    if logits.ndim == 3 and logits[None].is_contiguous(memory_format=torch.channels_last):
        rows = max(rows, _WHOLE_VECTORS)
    return rows - rows % (_WHOLE_VECTORS if rows >= _WHOLE_VECTORS else _FEWEST_ROWS)


def is_finite(logits: Tensor) -> bool:
    """Tell whether no value is infinite or NaN; unlike ``isfinite().all()`` this needs no memory of their size."""
    smallest, largest = torch.aminmax(logits)
    return bool(smallest.isfinite() & largest.isfinite())


def enlarge_some(rows: Tensor, enlarge: Enlarge, num_rows: int) -> Tensor:
    """Enlarge rows with the kernel that all ``num_rows`` together would get, whatever their own number."""
    missing = min(_FEWEST_ROWS, num_rows) - len(rows)
    if missing <= 0:
        return enlarge(rows)
    filler = rows[:1].expand(missing, *rows.shape[1:])
    return enlarge(torch.cat([rows, filler]))[: len(rows)]


class Reducer:
    """The running state of ``reduce_rows``: full-size rows go in sorted by class, the winners come out.

    Args:
        is_grouped: whether some class has several rows.
        logit_scale: multiplies scores inside the log-sum-exp.
        log_sum: what the log-sum-exp runs over; None: not wanted.
        want_second: keep the best score of any other class.
        has_nan: whether scores may be NaN, which then win as for ``torch.argmax``.
    """

    def __init__(
        self,
        is_grouped: bool,
        *,
        logit_scale: float = 1.0,
        log_sum: Literal["rows", "classes"] | None = None,
        want_second: bool = False,
        has_nan: bool = False,
    ) -> None:
        self.is_grouped = is_grouped
        self.logit_scale = logit_scale
        self.log_sum = log_sum
        self.want_second = want_second
        self.has_nan = has_nan
        self.winners: Winners | None = None
        self.sums: Tensor | None = None
        # A class whose rows may go on in the next step: its best score so far (1, H, W), and its index (1,).
        self.open_class: tuple[Tensor, Tensor] | None = None

    def add(self, rows: Tensor, classes: Tensor) -> None:
        """Take the next rows (c, H, W) and their classes (c,)."""
        if self.log_sum == "rows":
            self._sum(rows)
        if self.is_grouped:
            rows, classes = self._merge_rows(rows, classes)
        if len(rows):
            self._compete(rows, classes)

    def finish(self) -> Winners:
        """Return what won over all rows."""
        if self.open_class is not None:
            self._compete(*self.open_class)
        self.winners.log_sum = self.sums
        return self.winners

    def _sum(self, scores: Tensor) -> None:
        part = torch.logsumexp(scores.float() * self.logit_scale, 0)
        self.sums = part if self.sums is None else torch.logaddexp(self.sums, part)

    def _merge_rows(self, rows: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Reduce every class's rows to their maximum and hold the last class back."""
        classes, counts = torch.unique_consecutive(classes, return_counts=True)
        scores = torch.stack([part.amax(0) for part in rows.split(counts.tolist())])
        if self.open_class is not None:
            if self.open_class[1] == classes[0]:
                scores[0] = torch.maximum(scores[0], self.open_class[0][0])
            else:
                self._compete(*self.open_class)
        self.open_class = scores[-1:].clone(), classes[-1:]
        return scores[:-1], classes[:-1]

    def _compete(self, scores: Tensor, classes: Tensor) -> None:
        if self.log_sum == "classes":
            self._sum(scores)
        classes = classes.to(scores.device)
        if self.winners is None:
            score, index = scores.max(0)
            second = self._runner_up(scores, index) if self.want_second else None
            self.winners = Winners(score, classes[index], second)
        elif self.want_second or scores.is_cuda:
            self._replace(scores, classes)
        else:
            self._replace_few(scores, classes)

    def _replace(self, scores: Tensor, classes: Tensor) -> None:
        best = self.winners
        peak, index = scores.max(0)
        if self.want_second:
            loser = torch.minimum(best.score, peak)
            best.second = torch.maximum(torch.maximum(best.second, loser), self._runner_up(scores, index))
        best.labels = torch.where(self._is_better(peak), classes[index], best.labels)
        best.score = torch.maximum(best.score, peak)

    def _replace_few(self, scores: Tensor, classes: Tensor) -> None:
        """Do as ``_replace``; finds the best value first and its class only where it won, faster on a CPU."""
        best = self.winners
        peak = scores.amax(0)
        pixels = self._is_better(peak).flatten().nonzero().flatten()
        if len(pixels):
            winner = scores.flatten(1).index_select(1, pixels).max(0).indices  # several times faster than argmax(0)
            best.labels.view(-1)[pixels] = classes[winner]
            torch.maximum(best.score, peak, out=best.score)

    def _is_better(self, peak: Tensor) -> Tensor:
        is_better = peak > self.winners.score
        return is_better | (peak.isnan() & ~self.winners.score.isnan()) if self.has_nan else is_better

    @staticmethod
    def _runner_up(scores: Tensor, index: Tensor) -> Tensor:
        return scores.scatter(0, index[None], float("-inf")).amax(0)


def interpolator(size: tuple[int, int], like: Tensor) -> Enlarge:
    """Return the function that enlarges rows exactly as ``F.interpolate`` enlarges all of them together.

    Args:
        size: (H, W).
        like: (1, N, h, w) logits that the rows are taken from; their memory layout decides PyTorch's kernel.

    Returns:
        (c, h, w) to (c, H, W), bilinear, align_corners False. The result is overwritten by the next call.
    """
    if tuple(like.shape[-2:]) == tuple(size):
        return lambda rows: rows
    if like.is_contiguous(memory_format=torch.channels_last):
        # A clone, since a view with an axis added in front only looks channels-last to half of PyTorch.
        return lambda rows: _resize(rows[None].clone(memory_format=torch.channels_last), size)[0]
    buffer = like.new_empty((0,))

    def enlarge(rows: Tensor) -> Tensor:
        nonlocal buffer
        if buffer.shape[:1] != rows.shape[:1]:
            buffer = rows.new_empty((len(rows), *size))
        # The overload with a result reuses its memory: fresh pages cost more than the interpolation itself.
        torch.ops.aten.upsample_bilinear2d.out(rows.contiguous()[None], list(size), False, out=buffer[None])
        return buffer

    return enlarge


def _resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(image, size, mode="bilinear", align_corners=False)
