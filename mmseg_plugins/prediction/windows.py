"""Sliding windows: the grid mmseg uses, windows in batches, and their logits added in place.

B batch, N prompt rows or classes, H W image size, ``ch cw`` window size, ``h w`` size of a window's logits.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

logger = logging.getLogger(__name__)

RowLogits = Callable[[Tensor], Tensor]
"""The network: (b, 3, H, W) normalised images to (b, N, h, w) logits, at any resolution."""


class Box(NamedTuple):
    """One window in pixels; ``bottom`` and ``right`` lie one past the last pixel."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Row and column slices of the window."""
        return slice(self.top, self.bottom), slice(self.left, self.right)


@dataclass(frozen=True)
class Windows:
    """How an image is cut into overlapping windows.

    Args:
        crop: (height, width) of a window in pixels. A shorter image side gives one shorter window.
        stride: (height, width) step between windows in pixels.
        batch_size: windows per network call; halved by itself when memory runs out.
        pad_multiple: zero-pad every window to multiples of this number before the network and crop the enlarged
            logits back, half of the padding in front (rounded down), the rest behind. None: windows go in as they are.

    Raises:
        ValueError: if a number is below 1, or a stride is larger than the window (pixels would be left out).
    """

    crop: tuple[int, int]
    stride: tuple[int, int]
    batch_size: int = 8
    pad_multiple: int | None = None

    def __post_init__(self) -> None:
        numbers = (*self.crop, *self.stride, self.batch_size, self.pad_multiple or 1)
        if min(numbers) < 1:
            raise ValueError(f"window crop, stride, batch_size and pad_multiple must be at least 1, but got {self}.")
        if self.stride[0] > self.crop[0] or self.stride[1] > self.crop[1]:
            raise ValueError(
                f"window stride {self.stride} is larger than the window {self.crop}, which would leave pixels "
                "without any prediction. Use a stride of at most the crop."
            )


def window_grid(size: tuple[int, int], crop: tuple[int, int], stride: tuple[int, int]) -> list[Box]:
    """List the windows over an image in mmseg's order: row by row, the last ones moved back inside.

    Args:
        size: (H, W) of the image in pixels.
        crop: (height, width) of a window.
        stride: (height, width) step.

    Returns:
        Boxes that cover every pixel, all of one size: ``min(crop, size)`` per axis.
    """
    rows, columns = (_starts(*axis) for axis in zip(size, crop, stride, strict=True))
    height, width = min(crop[0], size[0]), min(crop[1], size[1])
    return [Box(top, left, top + height, left + width) for top in rows for left in columns]


def _starts(length: int, crop: int, stride: int) -> list[int]:
    count = max(length - crop + stride - 1, 0) // stride + 1
    return [max(min(index * stride, length - crop), 0) for index in range(count)]


def run_windows(network: RowLogits, image: Tensor, boxes: Sequence[Box], *, batch_size: int = 8) -> Tensor:
    """Run the network on every window, several at a time.

    Args:
        network: (b, 3, ch, cw) to (b, N, h, w).
        image: (B, 3, H, W), normalised.
        boxes: windows of one size, as from ``window_grid``.
        batch_size: windows (of all images together) per call. When memory runs out it is halved, down to one, and
            stays halved for the rest of the image.

    Returns:
        (len(boxes), B, N, h, w) logits as the network gave them, in the order of ``boxes``.

    Raises:
        torch.OutOfMemoryError: if not even a single window fits.
    """
    crops = [image[(slice(index, index + 1), ..., *box.slices)] for box in boxes for index in range(len(image))]
    outputs: list[Tensor] = []
    done = 0
    while done < len(crops):
        try:
            outputs.append(network(torch.cat(crops[done : done + batch_size])))
            done += len(outputs[-1])
            continue
        except RuntimeError as error:
            if batch_size == 1 or not is_out_of_memory(error):
                raise
        # Only here, behind the handler, is what the failed call held free again.
        batch_size = max(1, min(batch_size, len(crops) - done) // 2)
        logger.warning("out of memory: going on with %d window(s) at a time", batch_size)
        _free_cached_memory(image.device)
    logits = torch.cat(outputs)
    return logits.unflatten(0, (len(boxes), len(image)))


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory ran out, on a GPU or on the CPU."""
    text = str(error).lower()
    return isinstance(error, torch.cuda.OutOfMemoryError) or "out of memory" in text or "allocate memory" in text


def _free_cached_memory(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()


def accumulate_windows(window_logits: Sequence[Tensor], boxes: Sequence[Box], size: tuple[int, int]) -> Tensor:
    """Average window logits on the image, added in place on each window's slice.

    Bit-equal in float32 to mmseg's ``slide_inference``, which adds a zero-padded copy of the whole image per window:
    the same sums in the same order, without the copies.

    Args:
        window_logits: one (..., ch, cw) tensor per window, already at the window's size; a stacked tensor works too.
        boxes: the windows, as from ``window_grid``.
        size: (H, W) of the image.

    Returns:
        (..., H, W) sums divided by the number of windows that see each pixel.

    Raises:
        ValueError: if there are not as many logits as boxes, or the boxes leave a pixel out.
    """
    if len(window_logits) != len(boxes):
        raise ValueError(f"expected one tensor of logits per window, but got {len(window_logits)} for {len(boxes)}.")
    total = window_logits[0].new_zeros((*window_logits[0].shape[:-2], *size))
    for logits, box in zip(window_logits, boxes, strict=True):
        total[(..., *box.slices)] += logits
    return total.div_(count_visits(boxes, size, total))


def count_visits(boxes: Sequence[Box], size: tuple[int, int], like: Tensor) -> Tensor:
    """Count how many windows see each pixel.

    Args:
        boxes: the windows.
        size: (H, W) of the image.
        like: a tensor whose dtype and device the counts take.

    Returns:
        (H, W) counts, all at least one.

    Raises:
        ValueError: if a pixel is in no window.
    """
    visits = like.new_zeros(size)
    for box in boxes:
        visits[box.slices] += 1
    if not visits.all():
        raise ValueError(f"{int((visits == 0).sum())} pixels of the {size} image lie in no window.")
    return visits


def slide_logits(network: RowLogits, image: Tensor, windows: Windows) -> Tensor:
    """Compute full-size logits with sliding windows, the counterpart of mmseg's ``slide_inference``.

    Holds N x H x W; label maps come from ``predict_label_map``, which does not.

    Args:
        network: (b, 3, ch, cw) to (b, N, h, w); enlarged to the window's size here (bilinear, align_corners False).
        image: (B, 3, H, W), normalised.
        windows: the settings.

    Returns:
        (B, N, H, W) logits.
    """
    size = tuple(image.shape[-2:])
    boxes = window_grid(size, windows.crop, windows.stride)
    logits = run_windows(padded_network(network, windows.pad_multiple), image, boxes, batch_size=windows.batch_size)
    enlarge = window_enlarger(boxes[0], windows.pad_multiple)
    total = image.new_zeros((len(image), logits.shape[2], *size), dtype=sum_dtype(logits))
    for window, box in zip(logits, boxes, strict=True):
        total[(..., *box.slices)] += enlarge(window)
    return total.div_(count_visits(boxes, size, total))


def sum_dtype(logits: Tensor) -> torch.dtype:
    """Return the precision that windows are added in: at least float32, as in mmseg under mixed precision."""
    return torch.promote_types(logits.dtype, torch.float32)


def padded_network(network: RowLogits, multiple: int | None) -> RowLogits:
    """Wrap a network so that its input is zero-padded to multiples, see ``Windows.pad_multiple``."""
    if not multiple:
        return network
    return lambda crops: network(F.pad(crops, window_padding(tuple(crops.shape[-2:]), multiple)))


def window_enlarger(box: Box, multiple: int | None) -> Callable[[Tensor], Tensor]:
    """Return the function that takes a window's logits (b, N, h, w) to the window's size, padding removed."""
    size = (box.bottom - box.top, box.right - box.left)
    left, right, top, bottom = window_padding(size, multiple)
    padded = (size[0] + top + bottom, size[1] + left + right)

    def enlarge(logits: Tensor) -> Tensor:
        if tuple(logits.shape[-2:]) != padded:
            logits = F.interpolate(logits, padded, mode="bilinear", align_corners=False)
        return logits[..., top : top + size[0], left : left + size[1]]

    return enlarge


def window_padding(size: tuple[int, int], multiple: int | None) -> tuple[int, int, int, int]:
    """Return the (left, right, top, bottom) zeros that bring a size to multiples, the smaller half in front."""
    multiple = multiple or 1
    missing_h, missing_w = -size[0] % multiple, -size[1] % multiple
    return missing_w // 2, missing_w - missing_w // 2, missing_h // 2, missing_h - missing_h // 2
