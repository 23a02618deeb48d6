"""The Triton tier of mask pooling: stands in on CUDA where the compiled library is missing, and needs no compiler.

The functions have the signatures of the operators in ``_schema.py``. Masks brought to the feature grid are pooled here;
what pools on the mask grid (``resize_features``), and float64, is left to the eager functions. Under
``TRITON_INTERPRET=1`` the kernels run on the CPU, which is how they are tested without a GPU.

M masks or maps of all images, N = H*W pixels of the feature grid.
"""

import torch
from torch import Tensor

from mmseg_plugins.ops import _eager
from mmseg_plugins.ops import _triton_stages as stages
from mmseg_plugins.ops._schema import DETACHED_MODES, GATED, HARD, KMAP, REDUCE_MEAN

# The kernels' tap arithmetic is in 32 bits.
_LONGEST = 1 << 30
_NUMBERS = (torch.float32, torch.bfloat16, torch.float16)


def _runs_here(features_dtype: torch.dtype, masks: Tensor | None, size: tuple[int, int], resize_features: bool) -> bool:
    if resize_features or features_dtype not in _NUMBERS:
        return False
    if masks is None:
        return True
    fits = all(a * b < _LONGEST for a, b in zip(masks.shape[-2:], size, strict=True))
    return fits and masks.dtype in (*_NUMBERS, torch.bool, torch.uint8)


def _binary_or_soft(masks: Tensor, size: tuple[int, int], mode: int, threshold: float) -> stages.Weights:
    if mode == HARD:
        return stages.pack(masks, size, threshold)
    return stages.soft_weights(masks, size, mode, threshold)


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
    attributes = (mode, threshold, eps, maps_per_mask, reduce, resize_features, allow_tf32)
    size, dtype = tuple(features.shape[-2:]), out_dtype or features.dtype
    if not _runs_here(features.dtype, masks, size, resize_features) or dtype not in _NUMBERS:
        return _eager.mask_pool_fwd(features, masks, *attributes, save, out_dtype)
    masks = stages.readable(masks)
    saved = masks.new_empty(0, dtype=torch.int32 if mode == HARD else torch.float32)
    if mode == KMAP:
        statistics, area = stages.map_statistics(masks, size)
        values = stages.map_weights(masks, statistics, size, maps_per_mask if reduce == REDUCE_MEAN else 1)
        pooled, _ = stages.finish(
            stages.pool_parts(stages.Weights(values), features, allow_tf32, False), area, None, dtype
        )
        return pooled, area, statistics if save else saved
    weights = _binary_or_soft(masks, size, mode, threshold)
    parts = stages.pool_parts(weights, features, allow_tf32, mode == GATED)
    pooled, area = stages.finish(parts, weights.areas, eps, dtype)
    return pooled, area, weights.values if save and mode == HARD else saved


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
    """Operator ``mask_pool_bwd_features``."""
    attributes = (mode, threshold, eps, maps_per_mask, reduce, resize_features, allow_tf32)
    size = tuple(feature_size)
    has_bits = mode == HARD and saved.numel() > 0
    here = _runs_here(dtype, None if has_bits else masks, size, resize_features) and area.dtype == torch.float32
    if not here or (masks is None and not has_bits):
        return _eager.mask_pool_bwd_features(grad, masks, saved, area, *attributes, feature_size, dtype)
    if has_bits:
        weights = stages.Weights(saved.contiguous())
    elif mode == KMAP:
        masks = stages.readable(masks)
        statistics = saved.contiguous() if saved.numel() else stages.map_statistics(masks, size)[0]
        maps = maps_per_mask if reduce == REDUCE_MEAN else 1
        weights = stages.Weights(stages.map_weights(masks, statistics, size, maps))
    else:
        weights = _binary_or_soft(stages.readable(masks), size, mode, threshold)
    scaled = grad.float() if mode == KMAP else grad.float() / (area + eps).unsqueeze(-1)
    return stages.scatter(scaled.contiguous(), weights, size, dtype, allow_tf32 or dtype != torch.float32)


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
    """Operator ``mask_pool_bwd_masks``."""
    attributes = (mode, threshold, eps, maps_per_mask, reduce, resize_features, allow_tf32)
    size = tuple(features.shape[-2:])
    here = _runs_here(features.dtype, masks, size, resize_features) and area.dtype == torch.float32
    if not here or mode in DETACHED_MODES:
        return _eager.mask_pool_bwd_masks(grad, features, masks, pooled, saved, area, *attributes)
    grad = grad.float().contiguous()
    dots = stages.grad_dots(grad, features, allow_tf32)
    if mode != KMAP:
        centres = stages.rows_dot(grad, pooled.float().contiguous(), 1)
        return stages.mask_gradient(masks, dots, centres, area, area, size, 1, 1.0, eps, mode)
    share = maps_per_mask if reduce == REDUCE_MEAN else 1
    statistics = saved.contiguous() if saved.numel() else stages.map_statistics(masks, size)[0]
    centres = stages.rows_dot(stages.map_weights(masks, statistics, size, 1), dots, share)
    return stages.mask_gradient(masks, dots, centres, area, statistics, size, share, 1.0 / share, eps, mode)
