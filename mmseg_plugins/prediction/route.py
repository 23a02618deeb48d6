"""The way of logits to the original image: enlarge, average windows, remove padding, undo the flip, resize, refine.

c rows at a time, H W network input, H0 W0 original image, h w logits.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmseg_plugins.ops._row_reduction import Enlarge, interpolator
from mmseg_plugins.prediction.windows import Box, count_visits, sum_dtype, window_padding

Refine = Callable[[Tensor], Tensor]
"""A refinement that treats every row alike: (c, H0, W0) logits to the same shape (for example PAMR)."""

_FLIPPED_AXIS = {"horizontal": 2, "vertical": 1}


@dataclass(frozen=True)
class Route:
    """How rows of logits of one image come to the size of the original image; every row for itself.

    Args:
        input_size: (H, W) of the network's input, padding included.
        ori_shape: (H0, W0); None: the input size without padding.
        padding: (left, right, top, bottom) pixels to remove; None: none.
        flip: "horizontal", "vertical" or None.
        boxes: sliding windows; None: the logits are those of the whole image.
        pad_multiple: what windows were padded to, see ``Windows``.
        is_direct: enlarge once instead of to the input size first; only without windows and padding.
        refine: applied at the end.

    Raises:
        ValueError: if the padding leaves nothing, a size is empty, or the flip is unknown.
    """

    input_size: tuple[int, int]
    ori_shape: tuple[int, int] | None = None
    padding: tuple[int, int, int, int] | None = None
    flip: str | None = None
    boxes: Sequence[Box] | None = None
    pad_multiple: int | None = None
    is_direct: bool = False
    refine: Refine | None = None

    def __post_init__(self) -> None:
        if min(self.unpadded_size) < 1 or min(self.padding or (0,)) < 0:
            raise ValueError(f"padding {self.padding} (left, right, top, bottom) does not fit input {self.input_size}.")
        if len(self.output_size) != 2 or min(self.output_size) < 1:
            raise ValueError(f"ori_shape must be (H, W), at least one pixel each, but got {self.ori_shape}.")
        if self.flip is not None and self.flip not in _FLIPPED_AXIS:
            raise ValueError(f'flip must be "horizontal", "vertical" or None, but got {self.flip!r}.')

    @property
    def unpadded_size(self) -> tuple[int, int]:
        """(H, W) of the input without padding."""
        left, right, top, bottom = self.padding or (0, 0, 0, 0)
        return self.input_size[0] - top - bottom, self.input_size[1] - left - right

    @property
    def output_size(self) -> tuple[int, int]:
        """(H0, W0) of the label map."""
        return self.unpadded_size if self.ori_shape is None else tuple(int(side) for side in self.ori_shape[:2])

    @property
    def most_pixels(self) -> int:
        """The largest number of pixels a row has on the way."""
        return max(self.input_size[0] * self.input_size[1], self.output_size[0] * self.output_size[1])

    @property
    def is_single_resize(self) -> bool:
        """Whether one bilinear resize of the logits is all there is to do."""
        if self.boxes is not None or self.flip is not None or self.refine is not None or self._is_padded:
            return False
        return self.is_direct or self.output_size == tuple(self.input_size)

    @property
    def _is_padded(self) -> bool:
        return self.unpadded_size != tuple(self.input_size)

    def enlarger(self, rows: Tensor) -> Enlarge:
        """Return the function that takes a few of ``rows`` all the way.

        Args:
            rows: all rows, (N, h, w), or (N, number of windows, h, w) with windows.

        Returns:
            (c, ...) to (c, H0, W0); the result may be overwritten by the next call.
        """
        to_output = _RowResizer(self.output_size)
        if self.boxes is not None:
            to_input = _WindowAverage(self.boxes, self.input_size, self.pad_multiple)
        elif self.is_direct and not self._is_padded:
            to_input, to_output = _nothing, interpolator(self.output_size, rows[None])
        else:
            to_input = interpolator(tuple(self.input_size), rows[None])

        def enlarge(some: Tensor) -> Tensor:
            full = to_output(self._without_padding(to_input(some)))
            return full if self.refine is None else self.refine(full)

        return enlarge

    def _without_padding(self, rows: Tensor) -> Tensor:
        left, _, top, _ = self.padding or (0, 0, 0, 0)
        height, width = self.unpadded_size
        rows = rows[:, top : top + height, left : left + width]
        return rows if self.flip is None else rows.flip(_FLIPPED_AXIS[self.flip])


def _nothing(rows: Tensor) -> Tensor:
    return rows


class _RowResizer:
    """Bilinear resize of (c, h, w) rows to one size, where the rows' size shows only when they come."""

    def __init__(self, size: tuple[int, int]) -> None:
        self._size = size
        self._enlarge: Enlarge | None = None

    def __call__(self, rows: Tensor) -> Tensor:
        if self._enlarge is None:
            self._enlarge = interpolator(self._size, rows[None])
        return self._enlarge(rows)


class _WindowAverage:
    """Average of window logits (c, number of windows, h, w) on the image, (c, H, W), the sums of mmseg in its order."""

    def __init__(self, boxes: Sequence[Box], size: tuple[int, int], pad_multiple: int | None) -> None:
        self._boxes = boxes
        self._window = (boxes[0].bottom - boxes[0].top, boxes[0].right - boxes[0].left)
        self._left, right, self._top, bottom = window_padding(self._window, pad_multiple)
        padded = (self._window[0] + self._top + bottom, self._window[1] + self._left + right)
        self._resize = _RowResizer(padded)
        self._size = size
        self._visits: Tensor | None = None

    def __call__(self, rows: Tensor) -> Tensor:
        total = rows.new_zeros((len(rows), *self._size), dtype=sum_dtype(rows))
        if self._visits is None:
            self._visits = count_visits(self._boxes, self._size, total)
        for index, box in enumerate(self._boxes):
            window = self._resize(rows[:, index])
            window = window[:, self._top : self._top + self._window[0], self._left : self._left + self._window[1]]
            total[(slice(None), *box.slices)] += window
        return torch.div(total, self._visits, out=total)
