"""Shapes and dtypes of the operators' results, from shapes and attributes only, for tracing and meta tensors."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mmseg_plugins.ops._eager import accumulate_dtype
from mmseg_plugins.ops._schema import HARD, KMAP, LIBRARY, NAMESPACE, REDUCE_MEAN


def _mask_pool_fwd(
    features: Tensor,
    masks: Tensor,
    mode: int,
    threshold: float,
    eps: float,
    maps_per_mask: int,
    reduce: int,
    resize_features: bool,
    allow_tf32: bool,
    save: bool,
    out_dtype: torch.dtype | None,
) -> tuple[Tensor, Tensor, Tensor]:
    batch, channels, height, width = features.shape
    rows = masks.shape[1]
    pooled_rows = rows // maps_per_mask if mode == KMAP and reduce == REDUCE_MEAN else rows
    acc = accumulate_dtype(features, masks)
    pooled = features.new_empty((batch, pooled_rows, channels), dtype=out_dtype or features.dtype)
    area = features.new_empty((batch, rows), dtype=acc)
    pixels = height * width
    saved_shape, saved_dtype = (0,), acc
    if resize_features:
        saved_shape = (batch, rows, pixels)
    elif mode == HARD:
        saved_shape, saved_dtype = (batch, rows, (pixels + 31) // 32), torch.int32
    elif mode == KMAP:
        saved_shape = (batch, rows, 2)
    return pooled, area, features.new_empty(saved_shape if save else (0,), dtype=saved_dtype)


def _mask_pool_bwd_features(
    grad: Tensor,
    masks: Tensor | None,
    saved: Tensor,
    area: Tensor,
    mode: int,
    threshold: float,
    eps: float,
    maps_per_mask: int,
    reduce: int,
    resize_features: bool,
    allow_tf32: bool,
    feature_size: Sequence[int],
    dtype: torch.dtype,
) -> Tensor:
    return grad.new_empty((grad.shape[0], grad.shape[2], *feature_size), dtype=dtype)


def _mask_pool_bwd_masks(grad: Tensor, features: Tensor, masks: Tensor, *_: object) -> Tensor:
    return masks.new_empty(masks.shape)


def _label_pool_fwd(
    features: Tensor,
    labels: Tensor,
    num_segments: int,
    ignore_index: int,
    eps: float,
    allow_tf32: bool,
    out_dtype: torch.dtype | None,
) -> tuple[Tensor, Tensor]:
    batch, channels = features.shape[:2]
    pooled = features.new_empty((batch, num_segments, channels), dtype=out_dtype or features.dtype)
    return pooled, features.new_empty((batch, num_segments), dtype=accumulate_dtype(features))


def _label_pool_bwd(
    grad: Tensor,
    labels: Tensor,
    area: Tensor,
    ignore_index: int,
    eps: float,
    allow_tf32: bool,
    feature_size: Sequence[int],
    dtype: torch.dtype,
) -> Tensor:
    return grad.new_empty((grad.shape[0], grad.shape[2], *feature_size), dtype=dtype)


def _bits_pool_fwd(
    features: Tensor, bits: Tensor, size: Sequence[int], eps: float, allow_tf32: bool, out_dtype: torch.dtype | None
) -> tuple[Tensor, Tensor]:
    batch, channels = features.shape[:2]
    pooled = features.new_empty((batch, bits.shape[1], channels), dtype=out_dtype or features.dtype)
    return pooled, features.new_empty((batch, bits.shape[1]), dtype=accumulate_dtype(features))


def _bits_pool_bwd(
    grad: Tensor,
    bits: Tensor,
    area: Tensor,
    size: Sequence[int],
    eps: float,
    allow_tf32: bool,
    feature_size: Sequence[int],
    dtype: torch.dtype,
) -> Tensor:
    return grad.new_empty((grad.shape[0], grad.shape[2], *feature_size), dtype=dtype)


def _rle_pool_fwd(
    features: Tensor,
    counts: Tensor,
    offsets: Tensor,
    size: Sequence[int],
    eps: float,
    allow_tf32: bool,
    out_dtype: torch.dtype | None,
) -> tuple[Tensor, Tensor, Tensor]:
    batch, channels, height, width = features.shape
    queries = (offsets.shape[0] - 1) // batch if batch else 0
    acc = accumulate_dtype(features)
    pooled = features.new_empty((batch, queries, channels), dtype=out_dtype or features.dtype)
    area = features.new_empty((batch, queries), dtype=acc)
    return pooled, area, features.new_empty((batch, queries, height * width), dtype=acc)


def _rle_to_bits(counts: Tensor, offsets: Tensor, size: Sequence[int]) -> Tensor:
    return counts.new_empty((offsets.shape[0] - 1, size[0], (size[1] + 7) // 8), dtype=torch.uint8)


def _pack_bits(masks: Tensor, threshold: float) -> Tensor:
    return masks.new_empty((*masks.shape[:-1], (masks.shape[-1] + 7) // 8), dtype=torch.uint8)


def _label_maps(source: Tensor, size: Sequence[int], wanted: Sequence[bool]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    shape = (source.shape[0], *size)
    acc = accumulate_dtype(source)
    extras = (source.new_empty(shape if want else (0,), dtype=acc) for want in wanted)
    return (source.new_empty(shape, dtype=torch.int64), *extras)


def _upsample_argmax(
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
    return _label_maps(logits, size, (want_score, want_margin, want_probability))


def _mask_argmax(
    weights: Tensor,
    mask_logits: Tensor,
    size: Sequence[int],
    band: Sequence[int],
    logit_scale: float,
    want_score: bool,
    want_margin: bool,
    want_probability: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _label_maps(mask_logits, size, (want_score, want_margin, want_probability))


FAKE_KERNELS: dict[str, Callable] = {
    "mask_pool_fwd": _mask_pool_fwd,
    "mask_pool_bwd_features": _mask_pool_bwd_features,
    "mask_pool_bwd_masks": _mask_pool_bwd_masks,
    "label_pool_fwd": _label_pool_fwd,
    "label_pool_bwd": _label_pool_bwd,
    "bits_pool_fwd": _bits_pool_fwd,
    "bits_pool_bwd": _bits_pool_bwd,
    "rle_pool_fwd": _rle_pool_fwd,
    "rle_to_bits": _rle_to_bits,
    "pack_bits": _pack_bits,
    "upsample_argmax": _upsample_argmax,
    "mask_argmax": _mask_argmax,
}


def register_fake_kernels() -> None:
    """Register every fake kernel."""
    for name, kernel in FAKE_KERNELS.items():
        torch.library.register_fake(f"{NAMESPACE}::{name}", kernel, lib=LIBRARY)
