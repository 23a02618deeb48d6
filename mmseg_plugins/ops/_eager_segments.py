"""Label, bit-mask and run-length pooling in plain PyTorch; ``_schema.py`` has the formulas and the letters."""

import torch
from torch import Tensor

from mmseg_plugins.ops._bits import decode_runs, unpack_last_axis
from mmseg_plugins.ops._eager import (
    FOLD_BYTES,
    accumulate_dtype,
    pooling_weights,
    weighted_mean,
    weighted_scatter,
)
from mmseg_plugins.ops._precision import float32_product
from mmseg_plugins.ops._resize import resize_adjoint
from mmseg_plugins.ops._schema import HARD


def label_folded(
    labels: Tensor, size: tuple[int, int], num_segments: int, ignore_index: int, acc: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return the weights of every segment on the feature grid, (B, S, N), and the areas, (B, S).

    One-hot maps are made for a few segments at a time, so that S maps of the label grid never exist together.
    """
    known = torch.where(labels == ignore_index, -1, labels)
    per_segment = max(1, labels.numel() * torch.finfo(acc).bits // 8)
    segments = torch.arange(num_segments, device=labels.device)
    folded, areas = [], []
    for part in segments.split(max(1, FOLD_BYTES // per_segment)):
        inside = known.unsqueeze(1) == part[:, None, None]
        folded.append(resize_adjoint(inside.to(acc), size).flatten(2))
        areas.append(inside.sum((-2, -1)).to(acc))
    return torch.cat(folded, 1), torch.cat(areas, 1)


def pool_labels(
    features: Tensor, labels: Tensor, num_segments: int, ignore_index: int, eps: float, allow_tf32: bool
) -> tuple[Tensor, Tensor]:
    """Pool with ordinary differentiable operations: (B, S, C) and (B, S) in the accumulation dtype."""
    acc = accumulate_dtype(features)
    with float32_product(features, allow_tf32=False):
        weights, area = label_folded(labels, features.shape[-2:], num_segments, ignore_index, acc)
    return weighted_mean(weights, features, area + eps, allow_tf32), area


def label_pool_fwd(
    features: Tensor,
    labels: Tensor,
    num_segments: int,
    ignore_index: int,
    eps: float,
    allow_tf32: bool,
    out_dtype: torch.dtype | None,
) -> tuple[Tensor, Tensor]:
    """Operator ``label_pool_fwd``."""
    pooled, area = pool_labels(features, labels, num_segments, ignore_index, eps, allow_tf32)
    return pooled.to(out_dtype or features.dtype), area


def label_pool_bwd(
    grad: Tensor,
    labels: Tensor,
    area: Tensor,
    ignore_index: int,
    eps: float,
    allow_tf32: bool,
    feature_size: tuple[int, int],
    dtype: torch.dtype,
) -> Tensor:
    """Operator ``label_pool_bwd``: (B, S, C) -> (B, C, H, W).

    Every pixel takes the row of its segment, so this is an indexed read followed by the adjoint of the enlargement.
    """
    scaled = grad.to(area.dtype) / (area + eps).unsqueeze(-1)
    segments = grad.shape[1]
    known = (labels >= 0) & (labels < segments) & (labels != ignore_index)
    rows = torch.cat([scaled, scaled.new_zeros(scaled.shape[0], 1, scaled.shape[2])], 1)
    index = torch.where(known, labels, segments).flatten(1).long()
    pixels = rows.mT.gather(2, index.unsqueeze(1).expand(-1, rows.shape[2], -1)).unflatten(2, labels.shape[-2:])
    with float32_product(area, allow_tf32=False):
        return resize_adjoint(pixels, tuple(feature_size)).to(dtype).contiguous()


def _bit_weights(bits: Tensor, width: int, size: tuple[int, int], acc: torch.dtype) -> tuple[Tensor, Tensor]:
    with float32_product(bits, allow_tf32=False):
        return pooling_weights(unpack_last_axis(bits, width), size, HARD, 0.0, True, acc)


def pool_bits(
    features: Tensor, bits: Tensor, size: tuple[int, int], eps: float, allow_tf32: bool
) -> tuple[Tensor, Tensor]:
    """Pool with ordinary differentiable operations: (B, Q, C) and (B, Q) in the accumulation dtype."""
    weights, area = _bit_weights(bits, size[1], features.shape[-2:], accumulate_dtype(features))
    return weighted_mean(weights, features, area + eps, allow_tf32), area


def bits_pool_fwd(
    features: Tensor, bits: Tensor, size: tuple[int, int], eps: float, allow_tf32: bool, out_dtype: torch.dtype | None
) -> tuple[Tensor, Tensor]:
    """Operator ``bits_pool_fwd``."""
    pooled, area = pool_bits(features, bits, tuple(size), eps, allow_tf32)
    return pooled.to(out_dtype or features.dtype), area


def bits_pool_bwd(
    grad: Tensor,
    bits: Tensor,
    area: Tensor,
    size: tuple[int, int],
    eps: float,
    allow_tf32: bool,
    feature_size: tuple[int, int],
    dtype: torch.dtype,
) -> Tensor:
    """Operator ``bits_pool_bwd``: (B, Q, C) -> (B, C, H, W)."""
    weights, _ = _bit_weights(bits, size[1], tuple(feature_size), area.dtype)
    return weighted_scatter(grad, weights, area + eps, tuple(feature_size), dtype, allow_tf32)


def pool_runs(
    features: Tensor, counts: Tensor, offsets: Tensor, size: tuple[int, int], eps: float, allow_tf32: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Pool with ordinary differentiable operations: (B, Q, C), (B, Q) and the folded weights (B, Q, N)."""
    acc = accumulate_dtype(features)
    batch = features.shape[0]
    queries = (offsets.shape[0] - 1) // batch if batch else 0
    masks = decode_runs(counts, offsets, tuple(size)).reshape(batch, queries, size[0], size[1])
    with float32_product(features, allow_tf32=False):
        weights, area = pooling_weights(masks, features.shape[-2:], HARD, 0.0, True, acc)
    return weighted_mean(weights, features, area + eps, allow_tf32), area, weights


def rle_pool_fwd(
    features: Tensor,
    counts: Tensor,
    offsets: Tensor,
    size: tuple[int, int],
    eps: float,
    allow_tf32: bool,
    out_dtype: torch.dtype | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Operator ``rle_pool_fwd``."""
    pooled, area, weights = pool_runs(features, counts, offsets, size, eps, allow_tf32)
    return pooled.to(out_dtype or features.dtype), area, weights
