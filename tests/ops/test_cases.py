"""Every reference case in every tier of this machine, for every memory layout and every choice of gradients."""

import dataclasses
from pathlib import Path

import pytest
import torch

from mmseg_plugins.cases import Case, verify
from mmseg_plugins.ops import cases, label_pool, mask_pool

FIXTURES = sorted((Path(__file__).parents[1] / "fixtures" / "mask_pooling").glob("*.json"))
NAMES = [path.stem for path in FIXTURES]


def load(name):
    return Case.load(FIXTURES[NAMES.index(name)])


def transposed(x):
    return x.transpose(-1, -2).contiguous().transpose(-1, -2)


def channels_last(x):
    return x.movedim(1, -1).contiguous().movedim(-1, 1) if x.dim() == 4 else x


def offset(x):
    storage = x.new_empty(x.numel() + 7)
    view = storage[7:].view(x.shape)
    return view.copy_(x)


def gaps(x):
    wide = x.new_empty((*x.shape[:-1], 2 * x.shape[-1] + 1))
    return wide[..., 1::2].copy_(x)


LAYOUTS = {"contiguous": torch.Tensor.contiguous, "transposed": transposed, "channels_last": channels_last,
           "offset": offset, "gaps": gaps}  # fmt: skip


def failures(results):
    return [f"{r.name}: {r.difference:.3g} ({r.tolerance}) {r.detail}" for r in results if not r.passed]


def test_all_cases_are_here():
    assert len(FIXTURES) >= 42


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_case_holds_in_every_layout(name, layout, impl):
    prepared = cases.load_case(load(name))
    change = LAYOUTS[layout]
    with_layout = {key: change(value) if value.dim() > 2 else value for key, value in prepared.inputs.items()}
    prepared = dataclasses.replace(prepared, inputs=with_layout)
    assert not failures(cases.compare(prepared, cases.compute(prepared, impl), impl))


@pytest.mark.parametrize("name", NAMES)
def test_case_holds_for_an_expanded_batch(name, impl):
    prepared = cases.load_case(load(name))
    if prepared.grad_out.shape[0] == 0:
        pytest.skip("no image to repeat")
    masks = "labels" if "labels" in prepared.inputs else "masks"
    repeated = {key: prepared.inputs[key][:1].expand(3, *prepared.inputs[key].shape[1:]) for key in ("features", masks)}
    expected = {}
    for key, (want, bound) in prepared.expected.items():
        expected[key] = tuple(value[:1].expand(3, *value.shape[1:]) for value in (want, bound))
    grad_out = prepared.grad_out[:1].expand(3, *prepared.grad_out.shape[1:])
    prepared = dataclasses.replace(prepared, inputs=repeated, expected=expected, grad_out=grad_out)
    assert not failures(cases.compare(prepared, cases.compute(prepared, impl), impl))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("wanted", ["neither", "features", "masks", "both"])
def test_gradients_are_right_whichever_are_wanted(name, wanted, impl):
    prepared = cases.load_case(load(name))
    features = prepared.inputs["features"].clone().requires_grad_(wanted in ("features", "both"))
    masks = prepared.inputs["labels" if "labels" in prepared.inputs else "masks"].clone()
    masks.requires_grad_(wanted in ("masks", "both") and masks.is_floating_point())
    function = label_pool if "labels" in prepared.inputs else mask_pool
    pooled = function(features, masks, impl=impl, out_dtype=torch.float32, **prepared.options)
    assert not failures([cases._compare_one("pooled", *prepared.expected["pooled"], pooled.detach())])
    if not (features.requires_grad or masks.requires_grad) or not pooled.requires_grad:
        assert not pooled.requires_grad or wanted == "masks"
        return
    pooled.backward(prepared.grad_out)
    if features.requires_grad:
        assert not failures([cases._compare_one("grad_features", *prepared.expected["grad_features"], features.grad)])
    else:
        assert features.grad is None
    if masks.requires_grad and prepared.mask_gradient:
        assert not failures([cases._compare_one("grad_masks", *prepared.expected["grad_masks"], masks.grad)])
    else:
        # Detached masks get None, not zeros.
        assert masks.grad is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["hard_down8", "sigmoid_oddratio", "kmap_k16", "prob_features_up", "gated_same"])
def test_case_holds_in_half_precision(name, dtype, impl):
    prepared = cases.load_case(load(name), dtype=dtype)
    assert not failures(cases.compare(prepared, cases.compute(prepared, impl), impl))


def test_verify_reports_every_tier_and_output():
    results = verify(load("sigmoid_same"))
    outputs = {result.name.partition(": ")[2] for result in results}
    assert outputs == {"pooled", "area", "grad_features", "grad_masks"}
    assert {result.name.partition(": ")[0] for result in results} == set(cases.tiers())
    assert all(result.passed for result in results)


def test_bits_and_run_lengths_are_verified_too():
    names = {result.name for result in verify(load("rle_bits"))}
    assert {"eager: pooled", "eager: pooled (bits)", "eager: grad_features (run lengths)"} <= names


def test_a_case_may_have_run_lengths_alone_or_no_label_to_ignore():
    case = load("rle_bits")
    del case.arrays["bits"]
    results = verify(case)
    assert not failures(results)
    assert {"eager: pooled", "eager: pooled (run lengths)"} <= {result.name for result in results}
    case = load("label_many")  # no label equals the one it ignores
    case.spec["params"]["ignore_index"] = None
    assert not failures(verify(case))


def spoil(name, **changes):
    """Compute a case with other options than it states."""
    prepared = cases.load_case(load(name))
    wrong = dataclasses.replace(prepared, options=prepared.options | changes)
    return cases.compare(prepared, cases.compute(wrong, "eager"), "spoilt")


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("hard_threshold", {"threshold": 0.0}),
        ("sigmoid_extreme", {"eps": 0.0}),
        ("sigmoid_down8", {"mode": "hard"}),
        ("prob_features_up", {"resize": "mask"}),
        ("prob_down", {"resize": "features"}),
        ("kmap_k1", {"mode": "prob"}),
        ("label_many", {"ignore_index": 0}),
    ],
)
def test_cases_tell_wrong_options_apart(name, changes):
    assert failures(spoil(name, **changes))


def test_a_missing_output_fails():
    prepared = cases.load_case(load("hard_same"))
    results = cases.compare(prepared, {}, "nothing")
    assert results
    assert all("not produced" in result.detail for result in results)


def test_nan_fails():
    prepared = cases.load_case(load("hard_same"))
    outputs = cases.compute(prepared, "eager")
    outputs["pooled"][0, 0, 0] = float("nan")
    assert failures(cases.compare(prepared, outputs, "nan"))
