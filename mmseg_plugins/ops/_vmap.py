"""vmap rules: the mapped axis is folded into the batch axis, which every operator has."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mmseg_plugins.ops._schema import LIBRARY, NAMESPACE

# Which arguments carry a batch axis; the others are attributes.
_BATCHED = {
    "mask_pool_fwd": (0, 1),
    "mask_pool_bwd_features": (0, 1, 2, 3),
    "mask_pool_bwd_masks": (0, 1, 2, 3, 4, 5),
    "label_pool_fwd": (0, 1),
    "label_pool_bwd": (0, 1, 2),
    "bits_pool_fwd": (0, 1),
    "bits_pool_bwd": (0, 1, 2),
    "pack_bits": (0,),
    "upsample_argmax": (0,),
    "mask_argmax": (0, 1),
}


def _fold(value: Tensor | None, dim: int | None, size: int) -> Tensor | None:
    # One axis only: the empty ``saved`` of an operator that has nothing to keep. It has no batch.
    if value is None or (dim is None and value.dim() == 1):
        return value
    mapped = value.unsqueeze(0).expand(size, *value.shape) if dim is None else value.movedim(dim, 0)
    return mapped.flatten(0, 1)


def _rule(name: str) -> Callable:
    batched = _BATCHED[name]

    def rule(info: Any, in_dims: Sequence[int | None], *args: Any) -> tuple[Any, Any]:
        size = info.batch_size
        folded = [_fold(arg, in_dims[i], size) if i in batched else arg for i, arg in enumerate(args)]
        result = getattr(getattr(torch.ops, NAMESPACE), name)(*folded)
        if isinstance(result, Tensor):
            return result.unflatten(0, (size, -1)), 0
        # (0,): a result that was not asked for; it stays without a batch.
        dims = tuple(None if part.shape == (0,) else 0 for part in result)
        parts = (part if dim is None else part.unflatten(0, (size, -1)) for part, dim in zip(result, dims, strict=True))
        return tuple(parts), dims

    return rule


def register_vmap_rules() -> None:
    """Register every rule; torch before 2.5 has no such registration, and vmap over the operators then fails there."""
    if not hasattr(torch.library, "register_vmap"):
        return
    for name in _BATCHED:
        torch.library.register_vmap(f"{NAMESPACE}::{name}", _rule(name), lib=LIBRARY)
