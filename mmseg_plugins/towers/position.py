"""Grids: padding an image to whole patches, and position tables for a grid other than the trained one."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Grid = tuple[int, int]
PositionResize = Literal["size", "scale_factor", "antialias", "bilinear"]
PositionMatch = Literal["grid", "count"]
Padding = Literal["corner", "floor"]

POSITION_RESIZES = ("size", "scale_factor", "antialias", "bilinear")
_SCALE_FACTOR_OFFSET = 0.1  # keeps floor(g * factor) at the wanted size in DINO's and SCLIP's code
_CACHED_SIZES = 16


def to_map(tokens_BNC: Tensor, grid: Grid) -> Tensor:
    """Lay tokens out on their grid: (B, h * w, C) -> (B, C, h, w)."""
    return tokens_BNC.transpose(1, 2).unflatten(2, grid)


def pad_image(image_B3HW: Tensor, multiple: int, padding: Padding = "corner") -> Tensor:
    """Bring an image to whole patches.

    Args:
        image_B3HW: (B, 3, H, W), normalised.
        multiple: patch side, or stride of a convolutional tower, in pixels.
        padding: ``corner`` adds zeros at the bottom and right up to the next multiple; ``floor`` drops the remainder
            at the bottom and right.

    Returns:
        (B, 3, H', W') with both sides multiples of ``multiple`` and at least that large.

    Raises:
        ValueError: if ``floor`` leaves nothing of a side.
    """
    height, width = image_B3HW.shape[-2:]
    if padding == "floor":
        if min(height, width) < multiple:
            raise ValueError(
                f"Image of {height} x {width} pixels is smaller than one patch of {multiple}. "
                f"Enlarge it, or use padding='corner'."
            )
        return image_B3HW[..., : height - height % multiple, : width - width % multiple]
    bottom, right = -height % multiple, -width % multiple
    return F.pad(image_B3HW, (0, right, 0, bottom)) if bottom or right else image_B3HW


def resize_positions(
    table_PW: Tensor, grid_in: Grid, grid_out: Grid, mode: PositionResize = "size", *, match: PositionMatch = "grid"
) -> Tensor:
    """Resize the patch rows of a position table; rows in front of them (class token) stay as they are.

    Args:
        table_PW: (prefix + h * w, W), the rows of the grid last, in row-major order.
        grid_in: (h, w) that the table was trained for.
        grid_out: (h', w') that is wanted.
        mode: ``size`` bicubic to the given size (MaskCLIP, CLIP-DINOiser); ``scale_factor`` bicubic with the sampling
            step of factor (h' + 0.1) / h (SCLIP and its family, DINO); ``antialias`` bicubic with antialiasing (GEM,
            open_clip); ``bilinear`` (CLIP Surgery, ExCEL). None moves the corners (align_corners False).
        match: when nothing is to be done: ``grid`` when the grids are equal; ``count`` when they have as many cells,
            as published code has it, which leaves a table unresized for another grid of the same count.

    Returns:
        (prefix + h' * w', W).

    Raises:
        ValueError: if the table has fewer rows than its grid, or the mode is unknown.
    """
    cells = grid_in[0] * grid_in[1]
    prefix = table_PW.shape[0] - cells
    if prefix < 0:
        raise ValueError(f"Position table has {table_PW.shape[0]} rows, fewer than its grid {grid_in} needs.")
    if mode not in POSITION_RESIZES:
        raise ValueError(f"Expected argument `mode` to be one of {POSITION_RESIZES}, but got {mode!r}.")
    if grid_in == grid_out or (match == "count" and cells == grid_out[0] * grid_out[1]):
        return table_PW
    grid_1Whw = table_PW[prefix:].T.reshape(1, -1, *grid_in)
    resized = _resize_grid(grid_1Whw, grid_in, grid_out, mode)
    return torch.cat([table_PW[:prefix], resized.flatten(2)[0].T])


def _resize_grid(grid_1Whw: Tensor, grid_in: Grid, grid_out: Grid, mode: PositionResize) -> Tensor:
    if mode == "scale_factor":
        factors = tuple((wanted + _SCALE_FACTOR_OFFSET) / had for wanted, had in zip(grid_out, grid_in, strict=True))
        return F.interpolate(grid_1Whw, scale_factor=factors, mode="bicubic")
    if mode == "bilinear":
        return F.interpolate(grid_1Whw, size=grid_out, mode="bilinear", align_corners=False)
    return F.interpolate(grid_1Whw, size=grid_out, mode="bicubic", align_corners=False, antialias=mode == "antialias")


def stretch_positions(table_LW: Tensor, keep: int = 20) -> Tensor:
    """Make Long-CLIP's position table out of CLIP's: four positions for each, but for the first ``keep``.

    Args:
        table_LW: (L, W), L above ``keep``.
        keep: positions at the start that stay.

    Returns:
        (4 L - 3 keep, W): between neighbours linear, behind the last one continued.

    Raises:
        ValueError: if the table is not longer than ``keep``.
    """
    if table_LW.shape[0] < max(keep + 1, 2):
        raise ValueError(f"A table of {table_LW.shape[0]} positions cannot keep {keep} and stretch the rest.")
    # One position further, along the last step, so that the last one has a neighbour too.
    extended = torch.cat([table_LW, 2 * table_LW[-1:] - table_LW[-2:-1]])
    here, following = extended[keep:-1, None], extended[keep + 1 :, None]
    step = torch.arange(4, dtype=table_LW.dtype, device=table_LW.device)[None, :, None]
    stretched = ((4 - step) * here + step * following) / 4
    return torch.cat([table_LW[:keep], stretched.flatten(0, 1)])


class PositionCache:
    """Remembers resized tables by grid and rule, as long as the table itself does not change.

    Only used where no gradient flows; the oldest entry goes when there are more than sixteen.
    """

    def __init__(self) -> None:
        self._entries: dict[tuple, Tensor] = {}

    def get(
        self, table: nn.Parameter, grid_in: Grid, grid_out: Grid, mode: PositionResize, match: PositionMatch
    ) -> Tensor:
        """Return :func:`resize_positions` of these arguments, from memory where it is known."""
        key = (
            grid_out,
            mode,
            match,
            table.data_ptr(),
            0 if table.is_inference() else table._version,
            table.dtype,
            table.device,
        )
        if key not in self._entries:
            while len(self._entries) >= _CACHED_SIZES:
                del self._entries[next(iter(self._entries))]
            self._entries[key] = resize_positions(table.detach(), grid_in, grid_out, mode, match=match)
        return self._entries[key]
