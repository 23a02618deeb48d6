"""Weighted sums of bilinear samples from several maps: the core of multi-scale deformable attention."""

# B batch, S tokens of all levels, N queries, A attention heads, d channels of a head, L levels, P points

from collections.abc import Callable, Sequence
from functools import cache
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from mmseg_plugins.masks.mask2former.deformable_gather import sample_by_gathering

Backend = Literal["auto", "grid_sample", "gather", "mmcv"]


def deformable_sample(
    value: Tensor,
    sizes: Sequence[tuple[int, int]],
    locations: Tensor,
    weights: Tensor,
    *,
    backend: Backend = "auto",
) -> Tensor:
    """Sum bilinear samples of every level, weighted, for every query and head.

    Sampling runs in float32 or better whatever the inputs' type and under autocast. Outside a map is zero
    (``align_corners=False``). The levels are accumulated one by one: no stack of all samples is kept.

    Args:
        value: (B, S, A, d), the maps' tokens row by row, level after level.
        sizes: (h, w) of each level, as numbers, so that nothing waits for the device.
        locations: (B, N, A, L, P, 2), x and y as fractions of the map: 0 its left or upper edge, 1 the other.
        weights: (B, N, A, L, P).
        backend: ``grid_sample`` and ``gather`` are always there, the latter is the faster one on a CPU; ``mmcv`` is the
            compiled operator for CUDA tensors. ``auto``: ``mmcv`` on CUDA where it is installed, ``gather`` on the CPU
            without gradient, else ``grid_sample``.

    Returns:
        (B, N, A * d), of the type of ``value``.

    Raises:
        ValueError: if the sizes do not add up to S, or ``backend`` is unknown.
        RuntimeError: if ``backend='mmcv'`` is not usable here.
    """
    _validate(value, sizes, locations, backend)
    with torch.autocast(value.device.type, enabled=False):
        precise = torch.promote_types(value.dtype, torch.float32)
        inputs = (value.to(precise), locations.to(precise), weights.to(precise))
        sampled = _SAMPLERS[_choose(backend, *inputs)](inputs[0], sizes, *inputs[1:])
    return sampled.to(value.dtype)


def _validate(value: Tensor, sizes: Sequence[tuple[int, int]], locations: Tensor, backend: str) -> None:
    if backend not in get_args(Backend):
        raise ValueError(f"backend must be one of {', '.join(get_args(Backend))}, but got {backend!r}.")
    tokens = sum(height * width for height, width in sizes)
    if tokens != value.shape[1] or len(sizes) != locations.shape[3]:
        raise ValueError(
            f"expected {value.shape[1]} tokens in {locations.shape[3]} levels, but the sizes {list(sizes)} "
            f"make {tokens} tokens in {len(sizes)} levels."
        )


def _choose(backend: Backend, value: Tensor, locations: Tensor, weights: Tensor) -> str:
    can_compile = value.is_cuda and backend in ("auto", "mmcv") and _compiled_function() is not None
    if backend == "mmcv" and not can_compile:
        raise RuntimeError(
            "backend='mmcv' needs a CUDA tensor and mmcv with compiled operators (mmcv.ops). "
            "Use backend='auto' or 'grid_sample': same result, slower."
        )
    if backend != "auto":
        return backend
    if can_compile:
        return "mmcv"
    needs_gradient = torch.is_grad_enabled() and any(x.requires_grad for x in (value, locations, weights))
    return "gather" if value.device.type == "cpu" and not needs_gradient else "grid_sample"


def _sample_by_level(value: Tensor, sizes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    batch, _, heads, width_of_head = value.shape
    queries = locations.shape[1]
    grids = (2 * locations - 1).transpose(1, 2).flatten(0, 1)  # (B*A, N, L, P, 2)
    shares = weights.transpose(1, 2).flatten(0, 1)  # (B*A, N, L, P)
    total = None
    for level, part in enumerate(value.split([height * width for height, width in sizes], dim=1)):
        maps = part.permute(0, 2, 3, 1).reshape(batch * heads, width_of_head, *sizes[level])
        samples = F.grid_sample(maps, grids[:, :, level], mode="bilinear", padding_mode="zeros", align_corners=False)
        summed = torch.einsum("bdnp,bnp->bnd", samples, shares[:, :, level])
        total = summed if total is None else total + summed
    return total.view(batch, heads, queries, width_of_head).transpose(1, 2).flatten(2)


@cache
def _compiled_function() -> Callable[..., Tensor] | None:
    """Return mmcv's operator, or None where mmcv has no compiled extension."""
    try:
        from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction
    except (ImportError, OSError):
        return None
    return MultiScaleDeformableAttnFunction.apply


def _sample_compiled(value: Tensor, sizes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    shapes = torch.tensor(sizes, dtype=torch.long, device=value.device)
    starts = torch.cat([shapes.new_zeros(1), shapes.prod(1).cumsum(0)[:-1]])
    images_per_step = value.shape[0]
    return _compiled_function()(
        value.contiguous(), shapes, starts, locations.contiguous(), weights.contiguous(), images_per_step
    )


_SAMPLERS = {"grid_sample": _sample_by_level, "gather": sample_by_gathering, "mmcv": _sample_compiled}
