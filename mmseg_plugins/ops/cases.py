"""Runs the mask-pooling reference cases in every tier of this machine, within the bounds of the numerics contract.

A case states exact results for its inputs, and scale arrays to which the bounds are relative
(``docs/mask_pooling.md``).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmseg_plugins.cases import Case, StageResult
from mmseg_plugins.ops import _load
from mmseg_plugins.ops._precision import tf32_allowed
from mmseg_plugins.ops._schema import KMAP, MODES, PROB, SIGMOID
from mmseg_plugins.ops.mask_pool import label_pool, mask_pool
from mmseg_plugins.ops.packed_masks import mask_pool_bits, mask_pool_rle

# Relative bounds of (pooled vectors, gradients).
_FLOAT32 = (2e-6, 5e-6)
_FLOAT32_ODD_RATIO = (5e-6, 2e-5)
_FLOAT32_TF32 = (1e-3, 2e-3)
_SOFT_HALF = {torch.bfloat16: (4e-3, 8e-3), torch.float16: (1e-3, 2e-3)}
# Rounding a gradient to the dtype of its tensor comes on top, half a unit in the last place: relative, and absolute
# below the normal range. Pooled vectors are asked for in float32.
_ROUNDING = {torch.bfloat16: (2.0**-8, 0.0), torch.float16: (2.0**-11, 2.0**-25)}
_TINY = 1e-30

Pooling = Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class PoolingCase:
    """A mask-pooling case, ready to call.

    Attributes:
        inputs: features and masks (or labels), and bits and run lengths of the same masks where the case has them.
        options: keyword options of the public function.
        grad_out: cotangent of the pooled vectors.
        expected: output name -> exact result and its elementwise bound, both float64.
        mask_gradient: whether the masks have a gradient.
    """

    inputs: dict[str, Tensor]
    options: dict[str, Any]
    grad_out: Tensor
    expected: dict[str, tuple[Tensor, Tensor]]
    mask_gradient: bool


def load_case(case: Case, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> PoolingCase:
    """Prepare a case: cast the inputs, translate the parameters, and find results and bounds.

    Args:
        case: a case of ``mask_pooling``.
        device: where the tensors go.
        dtype: dtype of features and masks. float32 means what the case says; for another one the exact results are
            computed again from the rounded inputs, in float64.
    """
    stated = getattr(torch, case.spec.get("cast_inputs_to") or "float32")
    cast = stated if dtype == torch.float32 else dtype
    inputs = {name: _input(case, name, device, cast) for name in _INPUTS if name in case.arrays}
    options, grad_out = _options(case), case.tensor("grad_out", device)
    exact = {name: torch.as_tensor(case.arrays[name]).double().to(device) for name in _EXACT if name in case.arrays}
    if cast != stated:
        exact |= _exact_again(inputs, options, grad_out, "grad_masks" in exact)
    if "pooled_maps" in exact:
        exact["maps_scale"] = _scale_of_maps(inputs, options)
    return PoolingCase(inputs, options, grad_out, _expected(case, inputs, exact, cast), "grad_masks" in exact)


_INPUTS = ("features", "masks", "labels", "bits", "rle_counts", "rle_offsets")
_EXACT = ("pooled", "area", "abs_scale", "grad_features", "grad_masks", "grad_masks_scale", "pooled_maps")


def _input(case: Case, name: str, device: str, cast: torch.dtype) -> Tensor:
    value = case.tensor(name, device)
    return value.to(cast) if value.is_floating_point() else value


def _options(case: Case) -> dict[str, Any]:
    params, variant = case.spec["params"], case.spec["variant"]
    options: dict[str, Any] = {"resize": params.get("resize", "features" if variant == "label" else "mask")}
    if params.get("eps") is not None:
        options["eps"] = params["eps"]
    if variant == "label":
        ignored = params.get("ignore_index")
        # No label to ignore: a negative one belongs to no segment in any case.
        return options | {"num_segments": params["num_segments"], "ignore_index": -1 if ignored is None else ignored}
    options |= {"mode": variant, "threshold": params.get("threshold")}
    if variant == "kmap":
        options |= {"maps_per_mask": params.get("K", 1), "reduce": params.get("reduce", "mean")}
    return options


def _pool(features: Tensor, masks: Tensor, options: dict[str, Any]) -> tuple[Tensor, Tensor]:
    function = label_pool if "num_segments" in options else mask_pool
    return function(features, masks, return_area=True, **options)


def _masks_of(inputs: dict[str, Tensor]) -> Tensor:
    return inputs["labels"] if "labels" in inputs else inputs["masks"]


def _leaf(value: Tensor, wants_grad: bool) -> Tensor:
    return value.detach().clone().requires_grad_(wants_grad)


def _exact_again(
    inputs: dict[str, Tensor], options: dict[str, Any], grad_out: Tensor, mask_gradient: bool
) -> dict[str, Tensor]:
    """Compute what a case states, in float64, from inputs that were rounded."""
    masks = _masks_of(inputs)
    features = _leaf(inputs["features"].double(), True)
    masks = _leaf(masks.double() if masks.is_floating_point() else masks, mask_gradient)
    options = options | {"impl": "eager"}
    with torch.enable_grad():
        pooled, area = _pool(features, masks, options)
        pooled.backward(grad_out.double())
    scale, _ = _pool(features.detach().abs(), masks.detach(), options)
    exact = {"pooled": pooled.detach(), "area": area.double(), "abs_scale": scale, "grad_features": features.grad}
    if options.get("mode") == "kmap":
        exact["pooled_maps"], _ = _pool(features.detach(), masks.detach(), options | {"reduce": "none"})
    return exact | ({"grad_masks": masks.grad} if mask_gradient else {})


def _scale_of_maps(inputs: dict[str, Tensor], options: dict[str, Any]) -> Tensor:
    magnitude = inputs["features"].double().abs()
    return _pool(magnitude, inputs["masks"].double(), options | {"reduce": "none", "impl": "eager"})[0]


def _relative_bounds(case: Case, inputs: dict[str, Tensor], cast: torch.dtype) -> tuple[float, float]:
    features = inputs["features"]
    if cast in _SOFT_HALF and MODES.get(case.spec["variant"]) in (SIGMOID, PROB, KMAP):
        return _SOFT_HALF[cast]
    if cast == torch.float32 and features.is_cuda and tf32_allowed():
        return _FLOAT32_TF32
    sizes = zip(_masks_of(inputs).shape[-2:], features.shape[-2:], strict=True)
    return _FLOAT32_ODD_RATIO if any(max(pair) % min(pair) for pair in sizes) else _FLOAT32


def _expected(
    case: Case, inputs: dict[str, Tensor], exact: dict[str, Tensor], cast: torch.dtype
) -> dict[str, tuple[Tensor, Tensor]]:
    pooled_bound, grad_bound = _relative_bounds(case, inputs, cast)
    rounding, subnormal = _ROUNDING.get(cast, (0.0, 0.0))
    # Areas of binary weights are counts, and counts are exact.
    area_bound = 0.0 if case.spec["variant"] in ("hard", "label") else pooled_bound
    largest = exact["grad_features"].abs().amax() if exact["grad_features"].numel() else 0.0
    bounds = {
        "pooled": pooled_bound * exact["abs_scale"] + _TINY,
        "area": area_bound * exact["area"].abs() + _TINY,
        "grad_features": grad_bound * largest + rounding * exact["grad_features"].abs() + max(subnormal, _TINY),
    }
    if "pooled_maps" in exact:
        bounds["pooled_maps"] = pooled_bound * exact["maps_scale"] + _TINY
    if "grad_masks" in exact:
        scale = exact["grad_masks_scale"][..., None, None]
        bounds["grad_masks"] = grad_bound * scale + rounding * exact["grad_masks"].abs() + max(subnormal, _TINY)
    return {name: (exact[name], bound) for name, bound in bounds.items()}


def tiers(device: str = "cpu") -> dict[str, str]:
    """Return the tiers that run on this machine for a device: name -> ``impl``.

    ``eager`` is the twice differentiable version; ``eager op`` the same functions behind the dispatcher, with their
    own gradients, where no compiled library is loaded.
    """
    kind = torch.device(device).type
    found = {"eager": "eager"}
    if kind in _load.STATUS and _load.STATUS[kind].loaded:
        found["compiled"] = kind
    elif kind != "cuda" or not _load.triton_serves_cuda():
        found["eager op"] = "auto"
    if _load.triton_reason() is None:
        found["triton"] = "triton"
    return found


def _forms(prepared: PoolingCase, impl: str) -> dict[str, Pooling]:
    """Return the ways to state the masks of a case: a suffix for the output names -> how to pool."""
    inputs, common = prepared.inputs, {"out_dtype": torch.float32, "impl": impl}
    forms: dict[str, Pooling] = {"": lambda f, m: _pool(f, m, prepared.options | common)}
    if "bits" not in inputs and "rle_counts" not in inputs:
        return forms
    size = tuple(inputs["masks"].shape[-2:])
    options = common | {"return_area": True, "eps": prepared.options.get("eps", 1e-8)}
    if "bits" in inputs:
        forms[" (bits)"] = lambda f, _: mask_pool_bits(f, inputs["bits"], size, **options)
    if "rle_counts" in inputs:
        runs = inputs["rle_counts"], inputs["rle_offsets"]
        forms[" (run lengths)"] = lambda f, _: mask_pool_rle(f, *runs, size, **options)
    return forms


def compute(prepared: PoolingCase, impl: str) -> dict[str, Tensor]:
    """Compute every output of a case in one tier.

    Returns:
        Output name (with a suffix for another form of the masks) -> tensor.
    """
    outputs = {}
    for suffix, pooling in _forms(prepared, impl).items():
        features = _leaf(prepared.inputs["features"], True)
        masks = _leaf(_masks_of(prepared.inputs), prepared.mask_gradient)
        with torch.enable_grad():
            pooled, area = pooling(features, masks)
            pooled.backward(prepared.grad_out.to(pooled.dtype))
        outputs |= {f"pooled{suffix}": pooled.detach(), f"area{suffix}": area, f"grad_features{suffix}": features.grad}
        if prepared.mask_gradient:
            outputs["grad_masks"] = masks.grad
    if "pooled_maps" in prepared.expected:
        options = prepared.options | {"reduce": "none", "out_dtype": torch.float32, "impl": impl}
        outputs["pooled_maps"], _ = _pool(prepared.inputs["features"], prepared.inputs["masks"], options)
    return outputs


def compare(prepared: PoolingCase, outputs: dict[str, Tensor], tier: str) -> list[StageResult]:
    """Compare outputs with the exact results; one that was not produced fails."""
    results = []
    for name in {**dict.fromkeys(prepared.expected), **outputs}:
        want, bound = prepared.expected[name.partition(" ")[0]]
        results.append(_compare_one(f"{tier}: {name}", want, bound, outputs.get(name)))
    return results


def _compare_one(name: str, want: Tensor, bound: Tensor, got: Tensor | None) -> StageResult:
    text = f"bound {float(bound.max()) if bound.numel() else 0.0:.2g}"
    if got is None:
        return StageResult(name, float("nan"), text, False, "not produced")
    if got.shape != want.shape:
        return StageResult(name, float("nan"), text, False, f"shape {tuple(got.shape)}, expected {tuple(want.shape)}")
    # What the dtype cannot hold is infinite: clamped on both sides.
    largest = torch.finfo(got.dtype).max
    difference = (got.double().clamp(-largest, largest) - want.clamp(-largest, largest)).abs()
    # Not (difference > bound): a NaN must fail.
    wrong = int((~(difference <= bound)).sum())
    largest = float(difference.max()) if difference.numel() else 0.0
    return StageResult(name, largest, text, wrong == 0, f"{wrong} of {want.numel()} entries differ" if wrong else "")


def run(case: Case, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> list[StageResult]:
    """Run a case in every tier of this machine; one result per tier and output."""
    prepared = load_case(case, device=device, dtype=dtype)
    results = []
    for tier, impl in tiers(device).items():
        results += compare(prepared, compute(prepared, impl), tier)
    return results
