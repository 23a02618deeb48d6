"""Gradients of the operators: which tensors are kept, and which backward operator is called.

The same two functions per operator serve the dispatcher (``torch.library.register_autograd``) and a forced tier
(:func:`apply_forced`), which calls the functions of one tier directly.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmseg_plugins.ops._precision import without_autocast
from mmseg_plugins.ops._schema import DETACHED_MODES, HARD, LIBRARY, NAMESPACE


class _DispatchedOps:
    """The operators as the dispatcher runs them, under the same names as a tier's functions."""

    def __getattr__(self, name: str) -> Callable:
        return getattr(getattr(torch.ops, NAMESPACE), name).default


OPS = _DispatchedOps()

_SECOND_ORDER = (
    "The gradient of {name} is not differentiable. Call the function with impl='eager', whose operations are "
    "ordinary PyTorch ones and can be differentiated twice."
)


def _tier(ctx: Any) -> Any:
    return getattr(ctx, "tier", OPS)


def _wants_grad(ctx: Any, index: int) -> bool:
    return ctx.needs_input_grad[index + getattr(ctx, "shift", 0)]


def _mask_pool_setup(ctx: Any, inputs: tuple, output: tuple) -> None:
    features, masks, *attributes, save, _ = inputs
    pooled, area, saved = output
    mode, resize_features = attributes[0], attributes[5]
    mask_grad = mode not in DETACHED_MODES and _wants_grad(ctx, 1)
    keep_masks = mask_grad or not (save and (mode == HARD or resize_features))
    ctx.save_for_backward(
        masks if keep_masks else None, saved, area, features if mask_grad else None, pooled if mask_grad else None
    )
    ctx.attributes = attributes
    ctx.feature_size, ctx.feature_dtype = features.shape[-2:], features.dtype
    ctx.mask_grad = mask_grad


def _mask_pool_backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple:
    masks, saved, area, features, pooled = ctx.saved_tensors
    grad_features = grad_masks = None
    if _wants_grad(ctx, 0):
        grad_features = _tier(ctx).mask_pool_bwd_features(
            grad, masks, saved, area, *ctx.attributes, ctx.feature_size, ctx.feature_dtype
        )
    if ctx.mask_grad:
        grad_masks = _tier(ctx).mask_pool_bwd_masks(grad, features, masks, pooled, saved, area, *ctx.attributes)
    return grad_features, grad_masks, *[None] * 9


def _label_pool_setup(ctx: Any, inputs: tuple, output: tuple) -> None:
    features, labels, _, *ctx.attributes, _ = inputs
    ctx.save_for_backward(labels, output[1])
    ctx.feature_size, ctx.feature_dtype = features.shape[-2:], features.dtype


def _label_pool_backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple:
    labels, area = ctx.saved_tensors
    grad_features = None
    if _wants_grad(ctx, 0):
        grad_features = _tier(ctx).label_pool_bwd(
            grad, labels, area, *ctx.attributes, ctx.feature_size, ctx.feature_dtype
        )
    return grad_features, *[None] * 6


def _bits_pool_setup(ctx: Any, inputs: tuple, output: tuple) -> None:
    features, bits, *ctx.attributes, _ = inputs
    ctx.save_for_backward(bits, output[1])
    ctx.feature_size, ctx.feature_dtype = features.shape[-2:], features.dtype


def _bits_pool_backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple:
    bits, area = ctx.saved_tensors
    grad_features = None
    if _wants_grad(ctx, 0):
        grad_features = _tier(ctx).bits_pool_bwd(grad, bits, area, *ctx.attributes, ctx.feature_size, ctx.feature_dtype)
    return grad_features, *[None] * 5


def _rle_pool_setup(ctx: Any, inputs: tuple, output: tuple) -> None:
    features, _, _, _, eps, allow_tf32, _ = inputs
    ctx.save_for_backward(output[2], output[1])
    ctx.attributes = (HARD, 0.0, eps, 1, 0, True, allow_tf32)
    ctx.feature_size, ctx.feature_dtype = features.shape[-2:], features.dtype


def _rle_pool_backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple:
    folded, area = ctx.saved_tensors
    grad_features = None
    if _wants_grad(ctx, 0):
        grad_features = _tier(ctx).mask_pool_bwd_features(
            grad, None, folded, area, *ctx.attributes, ctx.feature_size, ctx.feature_dtype
        )
    return grad_features, *[None] * 6


_RULES: dict[str, tuple[Callable, Callable]] = {
    "mask_pool_fwd": (_mask_pool_setup, _mask_pool_backward),
    "label_pool_fwd": (_label_pool_setup, _label_pool_backward),
    "bits_pool_fwd": (_bits_pool_setup, _bits_pool_backward),
    "rle_pool_fwd": (_rle_pool_setup, _rle_pool_backward),
}

_BACKWARD_OPS = ("mask_pool_bwd_features", "mask_pool_bwd_masks", "label_pool_bwd", "bits_pool_bwd")


def _refuse_second_order(name: str) -> Callable:
    def backward(ctx: Any, *grads: Tensor) -> None:
        raise NotImplementedError(_SECOND_ORDER.format(name=name))

    return backward


def register_autograd_rules() -> None:
    """Register the gradients of the forward operators, and the refusal of second-order gradients."""
    for name, (setup, backward) in _RULES.items():
        torch.library.register_autograd(f"{NAMESPACE}::{name}", backward, setup_context=setup, lib=LIBRARY)
    for name in _BACKWARD_OPS:
        torch.library.register_autograd(f"{NAMESPACE}::{name}", _refuse_second_order(name), lib=LIBRARY)


class _Forced(torch.autograd.Function):
    """One operator through the functions of one tier, whatever the dispatcher would choose."""

    @staticmethod
    def forward(ctx: Any, tier: Any, name: str, *inputs: Any) -> tuple[Tensor, ...]:
        output = getattr(tier, name)(*inputs)
        ctx.tier, ctx.name, ctx.shift = tier, name, 2
        ctx.mark_non_differentiable(*output[1:])
        _RULES[name][0](ctx, inputs, output)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple:
        with without_autocast(grads[0]):
            return None, None, *_RULES[ctx.name][1](ctx, *grads)


def apply_forced(tier: Any, name: str, *inputs: Any) -> tuple[Tensor, ...]:
    """Run operator ``name`` with the functions of ``tier``, differentiable once.

    Args:
        tier: object with a function for every operator that is needed, under the operator's name.
        name: a forward operator.
        inputs: its arguments.
    """
    return _Forced.apply(tier, name, *inputs)
