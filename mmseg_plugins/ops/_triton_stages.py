"""What the Triton operators are put together from: each function allocates a result and launches the kernels for it.

M masks or maps of all images, N = H*W pixels of the feature grid.
"""

from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from mmseg_plugins.ops import _triton_product as product
from mmseg_plugins.ops import _triton_weights as weights_kernels

# Tile of a product: rows, columns, and half of the depth that one step takes.
_TILE = {"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 32}
# Pixels that one program of an elementwise kernel handles, and words of 32 pixels that a packing one does.
_BLOCK, _BLOCK_WORDS = 1024, 32
# Enough programs for two on each of 132 multiprocessors, and the fewest steps worth a split. Constants, so that the
# order of sums, and with it every bit of a result, is a matter of shapes alone.
_PROGRAMS, _STEPS_PER_SPLIT, _MOST_SPLITS = 264, 4, 64
_IS_INTERPRETED = isinstance(product.product_kernel, triton.runtime.interpreter.InterpretedFunction)


@dataclass(frozen=True)
class Weights:
    """Weights on the feature grid.

    Attributes:
        values: int32 (B, rows, ceil(N / 32)) packed bits, or float32 (B, rows, N).
        areas: (M, parts) areas in parts.
    """

    values: Tensor
    areas: Tensor | None = None

    @property
    def is_packed(self) -> bool:
        return self.values.dtype == torch.int32


@dataclass(frozen=True)
class _Operand:
    """A matrix (rows, depth) per image, as `product_kernel` takes it, in so many bfloat16 terms."""

    tensor: Tensor
    batch: int
    row: int
    k: int
    layout: int
    terms: int


def _launch(kernel: Any, programs: int, *arguments: Any, **constants: Any) -> None:
    if programs:
        with torch.cuda.device_of(arguments[0]):  # Triton launches on the current device
            kernel[(programs,)](*arguments, **constants)


def _stored(dtype: torch.dtype) -> torch.dtype:
    """Return what a kernel writes for results of ``dtype``; the interpreter cannot round to bfloat16, torch can."""
    return torch.float32 if _IS_INTERPRETED else dtype


def _mask_arguments(masks: Tensor, size: tuple[int, int]) -> tuple:
    return (masks.shape[1], *masks.stride(), *masks.shape[-2:], *size)


def readable(masks: Tensor) -> Tensor:
    return masks.view(torch.uint8) if masks.dtype == torch.bool else masks


def pack(masks: Tensor, size: tuple[int, int], threshold: float) -> Weights:
    words = triton.cdiv(size[0] * size[1], 32)
    tiles, count = triton.cdiv(words, _BLOCK_WORDS), masks.shape[0] * masks.shape[1]
    values = masks.new_empty((*masks.shape[:2], words), dtype=torch.int32)
    areas = masks.new_empty((count, tiles), dtype=torch.int32)
    arguments = (values, areas, *_mask_arguments(masks, size), words, tiles, threshold)
    _launch(weights_kernels.pack_kernel, count * tiles, masks, *arguments, BLOCK_WORDS=_BLOCK_WORDS)
    return Weights(values, areas)


def soft_weights(masks: Tensor, size: tuple[int, int], mode: int, threshold: float) -> Weights:
    pixels = size[0] * size[1]
    tiles, count = triton.cdiv(pixels, _BLOCK), masks.shape[0] * masks.shape[1]
    values = masks.new_empty((*masks.shape[:2], pixels), dtype=torch.float32)
    areas = masks.new_empty((count, tiles), dtype=torch.float32)
    arguments = (values, areas, *_mask_arguments(masks, size), tiles, threshold)
    _launch(weights_kernels.soft_kernel, count * tiles, masks, *arguments, MODE=mode, BLOCK=_BLOCK)
    return Weights(values, areas)


def map_statistics(masks: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return (B, Q*K, 2) statistics and (B, Q*K) areas of maps."""
    statistics = masks.new_empty((*masks.shape[:2], 2), dtype=torch.float32)
    areas = masks.new_empty(masks.shape[:2], dtype=torch.float32)
    arguments = (statistics, areas, *_mask_arguments(masks, size))
    _launch(weights_kernels.map_statistics_kernel, areas.numel(), masks, *arguments, BLOCK=_BLOCK)
    return statistics, areas


def map_weights(masks: Tensor, statistics: Tensor, size: tuple[int, int], maps: int) -> Tensor:
    """Return the normalised weights, averaged over ``maps`` maps: (B, Q*K / maps, N)."""
    pixels, rows = size[0] * size[1], masks.shape[1] // maps
    tiles = triton.cdiv(pixels, _BLOCK)
    values = masks.new_empty((masks.shape[0], rows, pixels), dtype=torch.float32)
    arguments = (statistics, values, *_mask_arguments(masks, size), tiles, maps)
    _launch(weights_kernels.map_kernel, masks.shape[0] * rows * tiles, masks, *arguments, BLOCK=_BLOCK)
    return values


def _terms(dtype: torch.dtype, allow_tf32: bool) -> int:
    """Return how many bfloat16 terms hold a number of this type: all of it, or as much as TF32 asks for."""
    if dtype == torch.float32:
        return 2 if allow_tf32 else 3
    return 2 if dtype == torch.float16 else 1


def _flat(features: Tensor) -> tuple[Tensor, tuple[int, int, int]]:
    """Return features and their strides as (B, C, N); only what no such view has (a crop) is copied."""
    flat = features.flatten(2)
    return flat, flat.stride()


def _multiply(a: _Operand, b: _Operand, shape: tuple[int, int, int, int], out: Tensor, splits: int, half: bool) -> None:
    """Write the products of ``shape`` (B, rows, columns, depth) to ``out``, contiguous (splits, B, rows, columns)."""
    batch, rows, columns, depth = shape
    row_tiles, column_tiles = triton.cdiv(rows, _TILE["BLOCK_M"]), triton.cdiv(columns, _TILE["BLOCK_N"])
    _launch(
        product.product_kernel,
        batch * splits * row_tiles * column_tiles,
        *(a.tensor, b.tensor, out, rows, columns, depth, row_tiles, column_tiles, splits),
        *(a.batch, a.row, a.k, b.batch, b.row, b.k, batch * rows * columns, rows * columns, columns),
        A_LAYOUT=a.layout,
        B_LAYOUT=b.layout,
        TERMS_A=a.terms,
        TERMS_B=b.terms,
        HALF=half,
        CAST=not _IS_INTERPRETED,
        **_TILE,
    )


def _splits(batch: int, rows: int, columns: int, depth: int) -> int:
    tiles = batch * triton.cdiv(rows, _TILE["BLOCK_M"]) * triton.cdiv(columns, _TILE["BLOCK_N"])
    possible = depth // (2 * _TILE["BLOCK_K"] * _STEPS_PER_SPLIT)
    return max(1, min(triton.cdiv(_PROGRAMS, max(tiles, 1)), possible, _MOST_SPLITS))


def pool_parts(weights: Weights, features: Tensor, allow_tf32: bool, exact_weights: bool) -> Tensor:
    """Return parts of ``weights @ features``: float32 (splits, B, rows, C).

    ``exact_weights`` keeps all bits of float32 weights even against 16-bit features.
    """
    flat, (batch_stride, channel_stride, pixel_stride) = _flat(features)
    batch, channels, pixels = flat.shape
    rows, dtype = weights.values.shape[1], features.dtype
    splits = _splits(batch, rows, channels, pixels)
    parts = weights.values.new_empty((splits, batch, rows, channels), dtype=torch.float32)
    half = weights.is_packed and dtype == torch.float16
    right_terms = 1 if half else _terms(dtype, allow_tf32)
    right = _Operand(flat, batch_stride, channel_stride, pixel_stride, product.NUMBERS, right_terms)
    if weights.is_packed:
        words = weights.values.shape[2]
        left = _Operand(weights.values, rows * words, words, 0, product.BITS_ALONG_DEPTH, 1)
    else:
        left_terms = _terms(torch.float32, allow_tf32 or (dtype != torch.float32 and not exact_weights))
        left = _Operand(weights.values, rows * pixels, pixels, 1, product.NUMBERS, left_terms)
    _multiply(left, right, (batch, rows, channels, pixels), parts, splits, half)
    return parts


def finish(parts: Tensor, areas: Tensor, eps: float | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return pooled (B, rows, C) and areas (B, rows); no division where ``eps`` is None."""
    splits, batch, rows, channels = parts.shape
    pooled = parts.new_empty((batch, rows, channels), dtype=_stored(dtype))
    area = parts.new_empty((batch, rows))
    arguments = (parts, areas, pooled, area, batch * rows, channels, splits, areas.shape[-1], eps or 0.0)
    _launch(product.finish_kernel, batch * rows, *arguments, DIVIDE=eps is not None, BLOCK=256, BLOCK_PARTS=64)
    return pooled.to(dtype), area


def scatter(grad: Tensor, weights: Weights, size: tuple[int, int], dtype: torch.dtype, coarse: bool) -> Tensor:
    """Return ``grad^T @ weights``: float32 (B, rows, C), (B, rows, N) -> (B, C, H, W) of ``dtype``."""
    batch, rows, channels = grad.shape
    pixels = size[0] * size[1]
    result = grad.new_empty((batch, channels, *size), dtype=_stored(dtype))
    left = _Operand(grad, rows * channels, 1, channels, product.NUMBERS, 2 if coarse else 3)
    if weights.is_packed:
        words = weights.values.shape[2]
        right = _Operand(weights.values, rows * words, 0, words, product.BITS_ALONG_ROWS, 1)
    else:
        right = _Operand(weights.values, rows * pixels, 1, pixels, product.NUMBERS, 2 if coarse else 3)
    _multiply(left, right, (batch, channels, pixels, rows), result, 1, False)
    return result.to(dtype)


def grad_dots(grad: Tensor, features: Tensor, allow_tf32: bool) -> Tensor:
    """Return ``grad @ features``: float32 (B, rows, C), (B, C, H, W) -> float32 (B, rows, N)."""
    flat, (batch_stride, channel_stride, pixel_stride) = _flat(features)
    batch, rows, channels = grad.shape
    dots = grad.new_empty((batch, rows, flat.shape[2]))
    coarse = allow_tf32 or features.dtype != torch.float32
    left = _Operand(grad, rows * channels, channels, 1, product.NUMBERS, 2 if coarse else 3)
    right = _Operand(
        flat, batch_stride, pixel_stride, channel_stride, product.NUMBERS, _terms(features.dtype, allow_tf32)
    )
    _multiply(left, right, (batch, rows, flat.shape[2], channels), dots, 1, False)
    return dots


def rows_dot(a: Tensor, b: Tensor, share: int) -> Tensor:
    """Return ``sums[row] = sum_i a[row, i] b[row // share, i]``: (B, rows, L), (B, rows / share, L) -> (B * rows,)."""
    sums = a.new_empty(a.shape[0] * a.shape[1])
    _launch(weights_kernels.rows_dot_kernel, len(sums), a, b, sums, share, a.shape[2], BLOCK=_BLOCK)
    return sums


def mask_gradient(
    masks: Tensor,
    dots: Tensor,
    centres: Tensor,
    area: Tensor,
    statistics: Tensor,
    size: tuple[int, int],
    share: int,
    scale: float,
    eps: float,
    mode: int,
) -> Tensor:
    count, pixels = masks.shape[0] * masks.shape[1], size[0] * size[1]
    slopes = dots.new_empty((count, pixels))
    tiles = triton.cdiv(pixels, _BLOCK)
    inputs = (masks, dots, centres, area.contiguous(), statistics, slopes)
    _launch(
        weights_kernels.slope_kernel,
        count * tiles,
        *inputs,
        *(*_mask_arguments(masks, size), tiles, share, scale, eps),
        MODE=mode,
        BLOCK=_BLOCK,
    )
    grad_masks = dots.new_empty(masks.shape, dtype=_stored(masks.dtype))
    tiles = triton.cdiv(masks.shape[-2] * masks.shape[-1], _BLOCK)
    gather = weights_kernels.gather_kernel
    _launch(gather, count * tiles, slopes, grad_masks, *masks.shape[-2:], *size, tiles, BLOCK=_BLOCK)
    return grad_masks.to(masks.dtype)
