"""Mask pooling in plain PyTorch: the fallback of the operators, and the twice differentiable ``impl="eager"``.

The formulation is the fast one: masks are resized as single-channel maps, the product is one ``bmm`` over flattened
pixels, areas are summed before and the division comes last. ``_schema.py`` has the formulas and the letters.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from mmseg_plugins.ops._bits import pack_words, unpack_words
from mmseg_plugins.ops._precision import float32_product
from mmseg_plugins.ops._resize import resize_adjoint, resize_maps
from mmseg_plugins.ops._schema import DETACHED_MODES, GATED, HARD, KMAP, PROB, REDUCE_MEAN, SIGMOID

# Weights at mask resolution are made for this many bytes at a time: 100 masks of 1024 x 1024 are 400 MiB otherwise.
FOLD_BYTES = 64 << 20
_LARGEST_FLOAT_COUNT = 1 << 24


def accumulate_dtype(*tensors: Tensor) -> torch.dtype:
    """Return float64 if any tensor is float64, else float32."""
    return torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32


def mask_weights(r: Tensor, mode: int, threshold: float) -> tuple[Tensor, Tensor]:
    """Apply phi to (..., H, W) resized masks.

    Returns:
        weights: (..., H, W) of the dtype of ``r``; for ``kmap`` normalised to sum 1 over the map.
        area: (...) sum of phi.
    """
    if mode == HARD:
        weights = (r > threshold).to(r.dtype)
        # Counts stay exact in float32, and sum many times faster than booleans, as long as they fit.
        exact = r.shape[-2] * r.shape[-1] <= _LARGEST_FLOAT_COUNT
        return weights, weights.sum((-2, -1)) if exact else weights.sum((-2, -1), dtype=torch.float64).to(r.dtype)
    if mode == KMAP:
        weights = F.logsigmoid(r).flatten(-2).softmax(-1).reshape(r.shape)
        return weights, torch.sigmoid(r).sum((-2, -1))
    if mode == GATED:
        r = r.detach()
        weights = torch.where(r > threshold, r, 0)
    else:
        weights = torch.sigmoid(r) if mode == SIGMOID else r
    return weights, weights.sum((-2, -1))


def _fold_chunks(masks: Tensor, itemsize: int) -> Iterator[Tensor]:
    flat = masks.flatten(0, 1)
    per_mask = max(1, masks.shape[-2] * masks.shape[-1] * itemsize)
    return iter(flat.split(max(1, FOLD_BYTES // per_mask)))


def pooling_weights(
    masks: Tensor, size: tuple[int, int], mode: int, threshold: float, resize_features: bool, acc: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return the weights on the feature grid, (B, Q*K, N), and the areas, (B, Q*K), both of dtype ``acc``.

    With ``resize_features`` the weights are made on the mask grid and folded by the adjoint of the enlargement.
    """
    batch, queries = masks.shape[:2]
    if not resize_features:
        weights, area = mask_weights(resize_maps(masks.to(acc), size), mode, threshold)
        return weights.flatten(2), area
    folded, areas = [], []
    for chunk in _fold_chunks(masks, torch.finfo(acc).bits // 8):
        weights, area = mask_weights(chunk.to(acc), mode, threshold)
        folded.append(resize_adjoint(weights, size).flatten(1))
        areas.append(area)
    shape = (batch, queries, size[0] * size[1])
    return torch.cat(folded).reshape(shape), torch.cat(areas).reshape(batch, queries)


def weighted_mean(weights: Tensor, features: Tensor, divisor: Tensor | None, allow_tf32: bool) -> Tensor:
    """Return ``weights @ features / divisor``: (B, Q, N), (B, C, H, W), (B, Q) -> (B, Q, C), dtype of ``weights``."""
    with float32_product(weights, allow_tf32):
        total = torch.bmm(weights, features.to(weights.dtype).flatten(2).mT)
    return total if divisor is None else total / divisor.unsqueeze(-1)


def _average_maps(weights: Tensor, mode: int, maps_per_mask: int, reduce: int) -> Tensor:
    if mode == KMAP and reduce == REDUCE_MEAN and maps_per_mask > 1:
        return weights.unflatten(1, (-1, maps_per_mask)).mean(2) if weights.shape[1] else weights
    return weights


def pool(
    features: Tensor,
    masks: Tensor,
    mode: int,
    threshold: float,
    eps: float,
    maps_per_mask: int,
    reduce: int,
    resize_features: bool,
    allow_tf32: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Pool with ordinary differentiable operations.

    Returns:
        pooled: (B, Q, C), or (B, Q*K, C) for ``reduce`` none, in the accumulation dtype.
        area: (B, Q*K).
        weights: (B, Q*K, N), the weights on the feature grid.
    """
    acc = accumulate_dtype(features, masks)
    with float32_product(masks, allow_tf32=False):
        weights, area = pooling_weights(masks, features.shape[-2:], mode, threshold, resize_features, acc)
    averaged = _average_maps(weights, mode, maps_per_mask, reduce)
    divisor = None if mode == KMAP else area + eps
    return weighted_mean(averaged, features, divisor, allow_tf32), area, weights


def mask_pool_fwd(
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
    """Operator ``mask_pool_fwd``."""
    pooled, area, weights = pool(
        features, masks, mode, threshold, eps, maps_per_mask, reduce, resize_features, allow_tf32
    )
    saved = _saved(weights, masks, features.shape[-2:], mode, resize_features) if save else None
    if saved is None:
        dtype = torch.int32 if mode == HARD and not resize_features else area.dtype
        saved = area.new_empty(0, dtype=dtype)
    return pooled.to(out_dtype or features.dtype).contiguous(), area.contiguous(), saved


def _saved(weights: Tensor, masks: Tensor, size: tuple[int, int], mode: int, resize_features: bool) -> Tensor | None:
    if resize_features:
        return weights.contiguous()
    if mode == HARD:
        return pack_words(weights > 0)
    if mode == KMAP:
        ls = F.logsigmoid(resize_maps(masks.to(weights.dtype), size)).flatten(2)
        largest = ls.amax(-1)
        return torch.stack([largest, (ls - largest.unsqueeze(-1)).exp().sum(-1)], -1)
    return None


def mask_pool_bwd_features(
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
    feature_size: tuple[int, int],
    dtype: torch.dtype,
) -> Tensor:
    """Operator ``mask_pool_bwd_features``: (B, Q, C) or (B, Q*K, C) -> (B, C, H, W)."""
    acc, size = area.dtype, tuple(feature_size)
    if resize_features and saved.numel():
        weights = saved
    elif mode == HARD and saved.numel():
        weights = unpack_words(saved, size[0] * size[1]).to(acc)
    elif masks is None:  # no masks at all: Q or B is zero
        return grad.new_zeros((grad.shape[0], grad.shape[2], *size), dtype=dtype)
    else:
        with float32_product(masks, allow_tf32=False):
            weights, _ = pooling_weights(masks, size, mode, threshold, resize_features, acc)
    weights = _average_maps(weights, mode, maps_per_mask, reduce)
    return weighted_scatter(grad, weights, None if mode == KMAP else area + eps, size, dtype, allow_tf32)


def weighted_scatter(
    grad: Tensor, weights: Tensor, divisor: Tensor | None, size: tuple[int, int], dtype: torch.dtype, allow_tf32: bool
) -> Tensor:
    """Return ``(grad / divisor)^T @ weights``: (B, Q, C), (B, Q, N) -> (B, C, H, W) of ``dtype``."""
    scaled = grad.to(weights.dtype)
    if divisor is not None:
        scaled = scaled / divisor.unsqueeze(-1)
    with float32_product(weights, allow_tf32):
        result = torch.bmm(scaled.mT, weights)
    return result.to(dtype).reshape(grad.shape[0], grad.shape[2], *size)


def mask_pool_bwd_masks(
    grad: Tensor,
    features: Tensor,
    masks: Tensor,
    pooled: Tensor,
    saved: Tensor,
    area: Tensor,
    mode: int,
    threshold: float,
    eps: float,
    maps_per_mask: int,
    reduce: int,
    resize_features: bool,
    allow_tf32: bool,
) -> Tensor:
    """Operator ``mask_pool_bwd_masks``: gradient to the masks, (B, Q*K, h, w)."""
    if mode in DETACHED_MODES:
        return torch.zeros_like(masks, memory_format=torch.contiguous_format)
    acc, feature_size, mask_size = area.dtype, features.shape[-2:], masks.shape[-2:]
    grad = grad.to(acc)
    with float32_product(area, allow_tf32):
        dots = torch.bmm(grad, features.to(acc).flatten(2)).unflatten(-1, feature_size)
    if mode == KMAP and reduce == REDUCE_MEAN:
        dots = (dots / maps_per_mask).repeat_interleave(maps_per_mask, dim=1)
    if resize_features:
        r, dots = masks.to(acc), resize_maps(dots, mask_size)
    else:
        r = resize_maps(masks.to(acc), feature_size)
    if mode == KMAP:
        grad_r = _kmap_gradient(r, dots)
    else:
        centre = (grad * pooled.to(acc)).sum(-1)[..., None, None]
        slope = 1 if mode == PROB else torch.sigmoid(r) * torch.sigmoid(-r)
        grad_r = slope * (dots - centre) / (area + eps)[..., None, None]
    with float32_product(area, allow_tf32=False):
        return (grad_r if resize_features else resize_adjoint(grad_r, mask_size)).to(masks.dtype).contiguous()


def _kmap_gradient(r: Tensor, dots: Tensor) -> Tensor:
    v, _ = mask_weights(r, KMAP, 0.0)
    centre = (v * dots).sum((-2, -1), keepdim=True)
    return v * torch.sigmoid(-r) * (dots - centre)
