"""Pooling under bit-packed and run-length masks, and the packing itself.

Letters: B images, Q masks, C channels, ``H W`` feature grid, ``h w`` mask grid, S runs.
"""

import torch
from torch import Tensor

from mmseg_plugins.ops import _bits
from mmseg_plugins.ops._dispatch import Impl, Precision, call, use_tf32
from mmseg_plugins.ops._eager_segments import pool_bits, pool_runs
from mmseg_plugins.ops._precision import without_autocast
from mmseg_plugins.ops._validate import (
    INTEGER_DTYPES,
    MASK_DTYPES,
    check_features,
    check_option,
    check_same,
    check_size,
    check_tensor,
)
from mmseg_plugins.ops.mask_pool import RESIZES, Resize, check_common, mask_pool, with_area


def mask_pool_bits(
    features: Tensor,
    bits: Tensor,
    size: tuple[int, int],
    *,
    eps: float = 1e-8,
    resize: Resize = "features",
    return_area: bool = False,
    out_dtype: torch.dtype | None = None,
    precision: Precision = None,
    impl: Impl = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Pool dense features under bit-packed masks.

    Args:
        features: (B, C, H, W), float32, bfloat16, float16 or float64, any strides.
        bits: (B, Q, h, ceil(w / 8)) uint8, packed along w, least significant bit first (:func:`pack_bits`).
        size: (h, w) of the masks.
        eps: added to the area.
        resize: what is brought to the other's grid; ``mask`` sets every pixel that a set bit touches.
        return_area: return the areas as well.
        out_dtype: dtype of the result; that of the features by default.
        precision: whether float32 products on CUDA may use TF32; None follows torch's own setting.
        impl: tier that computes, as in :func:`mask_pool`.

    Returns:
        (B, Q, C) mask embeddings; with ``return_area`` also the float32 areas (B, Q).

    Raises:
        ValueError: if shapes, dtypes, devices or options do not fit.
        RuntimeError: if ``impl`` names a compiled tier that is not loaded.
    """
    check_features(features)
    check_tensor("bits", bits, "B Q h w/8", (torch.uint8,))
    check_same("bits", bits, features)
    height, width = check_size("size", size)
    if tuple(bits.shape[2:]) != (height, (width + 7) // 8):
        raise ValueError(
            f"Expected argument `bits` to have {height} rows of {(width + 7) // 8} bytes for size {height} x {width}, "
            f"but got shape {tuple(bits.shape)}."
        )
    check_option("resize", resize, RESIZES)
    check_common(features, eps, out_dtype, impl)
    if resize == "mask":
        masks = unpack_bits(bits, width)
        return mask_pool(
            features, masks, eps=eps, return_area=return_area, out_dtype=out_dtype, precision=precision, impl=impl
        )
    allow_tf32 = use_tf32(precision)
    if impl == "eager":
        with without_autocast(features):
            pooled, area = pool_bits(features, bits, (height, width), eps, allow_tf32)
        pooled = pooled.to(out_dtype or features.dtype)
    else:
        attributes = ((height, width), float(eps), allow_tf32, out_dtype)
        pooled, area = call(impl, "bits_pool_fwd", features, bits, *attributes)
    return with_area(pooled, area, return_area)


def mask_pool_rle(
    features: Tensor,
    counts: Tensor,
    offsets: Tensor,
    size: tuple[int, int],
    *,
    eps: float = 1e-8,
    return_area: bool = False,
    out_dtype: torch.dtype | None = None,
    precision: Precision = None,
    impl: Impl = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Pool dense features under run-length masks (uncompressed, COCO's order); the features go to the mask grid.

    Args:
        features: (B, C, H, W), float32, bfloat16, float16 or float64, any strides.
        counts: (S,) integers, the run lengths of all masks: column-major, each mask starting with a run of zeros.
        offsets: (B*Q + 1,) integers; mask q of image b has ``counts[offsets[b*Q + q]:offsets[b*Q + q + 1]]``.
        size: (h, w) of the masks.
        eps: added to the area.
        return_area: return the areas as well.
        out_dtype: dtype of the result; that of the features by default.
        precision: whether float32 products on CUDA may use TF32; None follows torch's own setting.
        impl: tier that computes, as in :func:`mask_pool`.

    Returns:
        (B, Q, C) mask embeddings; with ``return_area`` also the float32 areas (B, Q).

    Raises:
        ValueError: if shapes, dtypes, devices or options do not fit.
        RuntimeError: if ``impl`` names a compiled tier that is not loaded.
    """
    check_features(features)
    check_tensor("counts", counts, "S", INTEGER_DTYPES)
    check_tensor("offsets", offsets, "T+1", INTEGER_DTYPES)
    check_same("counts", counts, features, batch=False)
    check_same("offsets", offsets, features, batch=False)
    size = check_size("size", size)
    masks, batch = offsets.shape[0] - 1, features.shape[0]
    if masks < 0 or (masks % batch if batch else masks):
        raise ValueError(
            f"Expected argument `offsets` to have B*Q + 1 entries with B = {batch}, but got {offsets.shape[0]}. "
            f"Use mask_pool_ragged for unequal numbers of masks."
        )
    check_common(features, eps, out_dtype, impl)
    allow_tf32 = use_tf32(precision)
    counts, offsets = counts.long(), offsets.long()
    if impl == "eager":
        with without_autocast(features):
            pooled, area, _ = pool_runs(features, counts, offsets, size, eps, allow_tf32)
        pooled = pooled.to(out_dtype or features.dtype)
    else:
        attributes = (size, float(eps), allow_tf32, out_dtype)
        pooled, area, _ = call(impl, "rle_pool_fwd", features, counts, offsets, *attributes)
    return with_area(pooled, area, return_area)


def pack_bits(masks: Tensor, threshold: float = 0.0) -> Tensor:
    """Pack masks into bits along their last axis, least significant first.

    Args:
        masks: (..., h, w), any dtype of :func:`mask_pool`.
        threshold: a bit is set where the mask exceeds it.

    Returns:
        (..., h, ceil(w / 8)) uint8; the padding of each row is zero.

    Raises:
        ValueError: if the dtype does not fit or there is no axis to pack.
    """
    if not isinstance(masks, Tensor) or masks.dim() < 1 or masks.dtype not in MASK_DTYPES:
        raise ValueError(f"Expected argument `masks` to be a (..., h, w) mask tensor, but got {type(masks).__name__}.")
    return torch.ops.mmseg_plugins.pack_bits(masks, float(threshold))


def unpack_bits(bits: Tensor, width: int) -> Tensor:
    """Inverse of :func:`pack_bits`: (..., h, ceil(w / 8)) uint8 -> (..., h, w) bool.

    Raises:
        ValueError: if ``bits`` is not uint8 or its rows do not hold ``width`` bits.
    """
    if not isinstance(bits, Tensor) or bits.dtype != torch.uint8 or bits.shape[-1] != (width + 7) // 8:
        raise ValueError(f"Expected argument `bits` to be uint8 with rows of {(width + 7) // 8} bytes.")
    return _bits.unpack_last_axis(bits, width).bool()
