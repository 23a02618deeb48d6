"""Where masks lie, and mask logits at full size, a few rows at a time.

Q masks, h w mask logits, H W original image.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from mmseg_plugins.ops._argmax_eager import band_taps, resize_band
from mmseg_plugins.ops._precision import without_autocast
from mmseg_plugins.ops._resize import resize_maps

ResizeOrder = Literal["masks", "scores"]
RESIZE_ORDERS: tuple[str, ...] = get_args(ResizeOrder)

# Masks at full size exist for about this many numbers at a time: what a CPU's caches hold, enough work for a GPU.
# Several CPU threads meet after every operation, which costs the more the busier the machine: fewer, larger bands.
_ELEMENTS_PER_BAND, _ELEMENTS_PER_BAND_THREADS, _ELEMENTS_PER_BAND_GPU = 1_000_000, 4_000_000, 32_000_000


@dataclass(frozen=True, kw_only=True)
class MaskGeometry:
    """How masks come to the original image.

    Attributes:
        output_size: (H, W) of the result.
        padded_size: (Hp, Wp) of the padded network input, which the masks cover; None: the masks cover the image
            itself, without padding, and are resized once.
        image_size: (height, width) of the image inside the padded input, from the top left corner; None: all of it.

    Raises:
        ValueError: if a size is empty, or the image does not lie inside the input.
    """

    output_size: tuple[int, int]
    padded_size: tuple[int, int] | None = None
    image_size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        for name in ("output_size", "padded_size", "image_size"):
            size = getattr(self, name)
            if size is None:
                continue
            object.__setattr__(self, name, (int(size[0]), int(size[1])))
            if len(size) != 2 or min(size) < 1:
                raise ValueError(f"Expected {name} to be (height, width), at least one pixel each, but got {size}.")
        inner, outer = self.image_size, self.padded_size
        if inner is not None and (outer is None or inner[0] > outer[0] or inner[1] > outer[1]):
            raise ValueError(f"Expected image_size to lie inside padded_size {outer}, but got {inner}.")


@dataclass(frozen=True)
class MaskBand:
    """A few rows of all masks at the original size.

    Attributes:
        start: first row.
        logits: (Q, rows, W) float32 mask logits.
    """

    start: int
    logits: Tensor

    @property
    def rows(self) -> slice:
        """The rows of the result that the band covers."""
        return slice(self.start, self.start + self.logits.shape[1])


def mask_bands(
    mask_logits: Tensor, geometry: MaskGeometry, *, elements: int | None = None, per_pixel: int = 1
) -> Iterator[MaskBand]:
    """Bring masks to the original size (order ``masks``), a few rows at a time.

    Args:
        mask_logits: (Q, h, w).
        geometry: where they go.
        elements: about how many numbers a band has; None: a million on one CPU thread, four on several, 32 elsewhere.
        per_pixel: how many numbers per pixel are made of a band; counts where there are fewer masks.

    Yields:
        Bands from top to bottom; together all rows.
    """
    height, width = geometry.output_size
    elements = elements or _usual_elements(mask_logits)
    step = max(1, elements // (max(per_pixel, len(mask_logits)) * width))
    for start in range(0, height, step):
        with without_autocast(mask_logits):
            rows = _output_rows(mask_logits, geometry, start, min(step, height - start))
        yield MaskBand(start, rows)


def _usual_elements(masks: Tensor) -> int:
    if masks.device.type != "cpu":
        return _ELEMENTS_PER_BAND_GPU
    return _ELEMENTS_PER_BAND_THREADS if torch.get_num_threads() > 1 else _ELEMENTS_PER_BAND


def _output_rows(masks: Tensor, geometry: MaskGeometry, start: int, rows: int) -> Tensor:
    height, width = geometry.output_size
    if geometry.padded_size is None:
        return resized_rows(masks, (height, width), start, rows)
    crop = geometry.image_size or geometry.padded_size
    if crop == geometry.output_size:
        return resized_rows(masks, geometry.padded_size, start, rows)[..., :width]
    band = (crop[0], 0, height, start)
    i0, i1, _ = band_taps(band, rows)
    first, last = int(i0.min()), int(i1.max())
    padded = resized_rows(masks, geometry.padded_size, first, last - first + 1)[..., : crop[1]]
    return resize_band(padded, (rows, width), (crop[0], first, height, start))


def resized_rows(masks: Tensor, size: tuple[int, int], start: int, rows: int) -> Tensor:
    """Float32 rows ``start``... of the masks at another size, reading only the source rows that they need."""
    full = masks.shape[-2]
    i0, i1, lam = band_taps((full, 0, size[0], start), rows, masks.device)
    first, last = int(i0.min()), int(i1.max())
    columns = resize_maps(masks[..., first : last + 1, :].float(), (last - first + 1, size[1]))
    # In place: the passes over memory are what costs.
    upper = columns.index_select(-2, i0 - first).mul_(1 - lam[:, None])
    return upper.add_(columns.index_select(-2, i1 - first).mul_(lam[:, None]))


def full_masks(mask_logits: Tensor, geometry: MaskGeometry) -> Tensor:
    """Return (Q, H, W) mask logits at the original size; this does hold them all."""
    return torch.cat([band.logits for band in mask_bands(mask_logits, geometry)], dim=1)


def check_order(order: str) -> None:
    """Raise unless there is such an order of resizing.

    Raises:
        ValueError: naming the choices.
    """
    if order not in RESIZE_ORDERS:
        raise ValueError(f"Expected argument `order` to be one of {RESIZE_ORDERS}, but got {order!r}.")
