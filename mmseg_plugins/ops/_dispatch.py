"""Chooses the tier that runs a call: the dispatcher's choice, or the one that the caller names."""

from typing import Any, Literal

import torch
from torch import Tensor

from mmseg_plugins.ops import _load
from mmseg_plugins.ops._autograd import OPS, apply_forced
from mmseg_plugins.ops._precision import tf32_allowed, without_autocast
from mmseg_plugins.ops._validate import check_option

Impl = Literal["auto", "cuda", "cpu", "triton", "eager"]
Precision = Literal["ieee", "tf32"] | None

IMPLS = ("auto", "cuda", "cpu", "triton", "eager")
PRECISIONS = (None, "ieee", "tf32")


def check_impl(impl: str, features: Tensor) -> None:
    """Check that the named tier exists here and takes these features.

    Raises:
        ValueError: if the name is unknown, or the tier is for another device.
        RuntimeError: if the compiled library it needs is not loaded, with the reason.
    """
    check_option("impl", impl, IMPLS)
    if impl in ("cpu", "cuda"):
        if features.device.type != impl:
            raise ValueError(f"Expected `features` on {impl} for impl={impl!r}, but got {features.device}.")
        _require_library(impl)
    elif impl == "auto" and _load.DEMANDS_COMPILED and features.device.type in _load.STATUS:
        _require_library(features.device.type)


def _require_library(kind: str) -> None:
    status = _load.STATUS[kind]
    if not status.loaded:
        raise RuntimeError(f"The compiled {kind} ops are not loaded: {status.reason}")


def use_tf32(precision: Precision) -> bool:
    """Say whether float32 products may use TF32: as named, or as torch is set."""
    check_option("precision", precision, PRECISIONS)
    return tf32_allowed() if precision is None else precision == "tf32"


def _forced_tier(impl: str, tensors: tuple[Any, ...]) -> Any:
    """Return the tier to call directly, or None for the dispatcher's."""
    if impl == "triton":
        return _load.triton_tier()
    first = tensors[0]
    if first.is_cuda and any(isinstance(t, Tensor) and t.dtype == torch.float64 for t in tensors):
        return _load.EAGER  # the kernels for CUDA have no float64
    return None


def call(impl: str, name: str, *inputs: Any) -> tuple[Tensor, ...]:
    """Run a forward operator in the tier that ``impl`` names; "auto" leaves the choice to the dispatcher."""
    tier = _forced_tier(impl, inputs)
    if tier is None:
        return getattr(OPS, name)(*inputs)
    with without_autocast(inputs[0]):
        return apply_forced(tier, name, *inputs)
