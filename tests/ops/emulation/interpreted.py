"""Checks of the Triton operators in Triton's interpreter; started by ``test_triton.py`` with ``TRITON_INTERPRET=1``.

A process of its own, since Triton decides on import whether its kernels are interpreted.
"""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from mmseg_plugins.cases import Case
from mmseg_plugins.ops import _load
from mmseg_plugins.ops import _triton as OPS
from mmseg_plugins.ops._triton_label_map import upsample_argmax
from mmseg_plugins.ops.cases import compare, compute, load_case

FIXTURES = sorted((Path(__file__).parents[2] / "fixtures" / "mask_pooling").glob("*.json"))
MODES = {"hard": (0, 0.1), "sigmoid": (1, 0.0), "prob": (2, 0.0), "gated": (3, 0.2), "kmap": (4, 0.0)}

torch.manual_seed(0)


def attributes(mode, *, maps=1, reduce=0, resize_features=False, allow_tf32=False):
    return (*MODES[mode], 1e-8, maps, reduce, resize_features, allow_tf32)


def inputs_of(mode, *, batch=2, queries=3, channels=6, grid=(5, 7), mask_grid=(9, 11)):
    features, masks = torch.randn(batch, channels, *grid), torch.randn(batch, queries, *mask_grid)
    return features, masks.abs() if mode == "prob" else masks


def run_all(features, masks, attrs, grad, *, save=True, out_dtype=torch.float32, tier=OPS):
    pooled, area, saved = tier.mask_pool_fwd(features, masks, *attrs, save, out_dtype)
    kept = None if save and attrs[0] == 0 else masks
    size = tuple(features.shape[-2:])
    grad_features = tier.mask_pool_bwd_features(grad, kept, saved, area, *attrs, size, features.dtype)
    grad_masks = tier.mask_pool_bwd_masks(grad, features, masks, pooled, saved, area, *attrs)
    return pooled, area, grad_features, grad_masks


def exact(features, masks, attrs, grad):
    return run_all(features.double(), masks.double(), attrs, grad.double(), out_dtype=torch.float64, tier=_load.EAGER)


def close(ours, theirs, bound):
    assert ours.shape == theirs.shape
    scale = max(theirs.abs().max().item(), 1e-6) if theirs.numel() else 1.0
    assert bool(((ours.double() - theirs.double()).abs() <= bound * scale).all())


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.stem)
def test_fixture(path):
    prepared = load_case(Case.load(path))
    failed = [result for result in compare(prepared, compute(prepared, "triton"), "triton") if not result.passed]
    assert not failed


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["hard_down4", "sigmoid_down8", "prob_down", "kmap_resized", "gated_same"])
def test_fixture_in_half_precision(name, dtype):
    path = next(path for path in FIXTURES if path.stem == name)
    prepared = load_case(Case.load(path), dtype=dtype)
    failed = [result for result in compare(prepared, compute(prepared, "triton"), "triton") if not result.passed]
    assert not failed


@pytest.mark.parametrize(("mode", "save"), [*((mode, True) for mode in MODES), ("hard", False)])
def test_modes_with_several_tiles_and_splits(mode, save):
    maps = 2 if mode == "kmap" else 1
    for reduce in range(maps):
        queries = 10 if mode == "kmap" else 70  # maps are slow here
        features, masks = inputs_of(
            mode, batch=1, queries=queries * maps, channels=67, grid=(23, 24), mask_grid=(17, 31)
        )
        features = features.to(memory_format=torch.channels_last)
        attrs, grad = attributes(mode, maps=maps, reduce=reduce), torch.randn(1, queries * (1 + reduce), 67)
        ours = run_all(features, masks, attrs, grad, save=save)
        for got, want in zip(ours, exact(features, masks, attrs, grad), strict=True):
            close(got, want, 2e-5)


@pytest.mark.parametrize("mode", MODES)
def test_tf32_is_allowed_to_be_coarse_but_is_not_wrong(mode):
    features, masks = inputs_of(mode)
    attrs, grad = attributes(mode, allow_tf32=True), torch.randn(2, 3, 6)
    for got, want in zip(run_all(features, masks, attrs, grad), exact(features, masks, attrs, grad), strict=True):
        close(got, want, 1e-3)


@pytest.mark.parametrize("mode", ["hard", "kmap"])
def test_any_layout_gives_the_same_bits(mode):
    features, masks = inputs_of(mode)
    attrs, grad = attributes(mode), torch.randn(2, 3, 6)
    plain = run_all(features, masks, attrs, grad)
    wide = torch.randn(2, 7, 7, 9)
    wide[:, 1:, 1:-1, 2:] = features
    views = [
        features.to(memory_format=torch.channels_last),
        features.transpose(2, 3).contiguous().transpose(2, 3),
        wide[:, 1:, 1:-1, 2:],
    ]
    for view in views:
        others = run_all(view, masks.transpose(2, 3).contiguous().transpose(2, 3), attrs, grad)
        assert all(torch.equal(a, b) for a, b in zip(plain, others, strict=True))


def test_statistics_of_maps_that_were_kept_are_not_made_again():
    features, masks = inputs_of("kmap")
    attrs, grad = attributes("kmap"), torch.randn(2, 3, 6)
    _, area, saved = OPS.mask_pool_fwd(features, masks, *attrs, True, None)
    size = tuple(features.shape[-2:])
    plain = OPS.mask_pool_bwd_features(grad, masks, saved, area, *attrs, size, torch.float32)
    halved = saved * torch.tensor([1.0, 2.0])  # twice the sum of exponentials
    assert torch.equal(OPS.mask_pool_bwd_features(grad, masks, halved, area, *attrs, size, torch.float32), plain / 2)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float16])
def test_mask_types(dtype):
    features, masks = inputs_of("hard")
    masks = (masks > 0) if dtype == torch.bool else (masks.abs() * 3).to(dtype)
    pooled, area, _ = OPS.mask_pool_fwd(features, masks, *attributes("prob"), True, None)
    want, want_area, _ = _load.EAGER.mask_pool_fwd(features, masks, *attributes("prob"), True, None)
    close(pooled, want, 2e-6)
    close(area, want_area, 2e-6)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("batch", "queries"), [(0, 3), (2, 0)])
def test_empty(mode, batch, queries):
    features, masks = inputs_of(mode, batch=batch, queries=queries)
    pooled, area, grad_features, grad_masks = run_all(
        features, masks, attributes(mode), torch.zeros(batch, queries, 6), save=False
    )
    assert pooled.shape == (batch, queries, 6)
    assert area.shape == (batch, queries)
    assert torch.equal(grad_features, torch.zeros_like(features))
    assert grad_masks.shape == masks.shape


def test_a_nan_stays_in_its_row():
    features, masks = inputs_of("sigmoid", mask_grid=(5, 7))
    masks[0, 1, 2, 3] = float("nan")
    for mode in ("sigmoid", "prob", "kmap"):
        pooled, _, _ = OPS.mask_pool_fwd(features, masks, *attributes(mode), True, None)
        assert pooled[0, 1].isnan().all()
        assert pooled[0, [0, 2]].isfinite().all()
        assert pooled[1].isfinite().all()


def test_float64_and_features_on_the_mask_grid_are_eager():
    features, masks = inputs_of("hard")
    for inputs, on_mask_grid in [((features.double(), masks), False), ((features, masks), True)]:
        attrs = attributes("hard", resize_features=on_mask_grid)
        ours = OPS.mask_pool_fwd(*inputs, *attrs, True, None)
        theirs = _load.EAGER.mask_pool_fwd(*inputs, *attrs, True, None)
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("row_class", [None, [0, 0, 1, 2, 2, 2, 4]])
@pytest.mark.parametrize("softmax_rows", [False, True])
@pytest.mark.parametrize("size", [(14, 20), (31, 17), (4, 3), (6, 5)])
def test_upsample_argmax(dtype, row_class, softmax_rows, size):
    logits = torch.randn(2, 7, 6, 5).to(dtype).to(memory_format=torch.channels_last)
    enlarged = F.interpolate(logits, size, mode="bilinear").float()
    classes = torch.tensor(row_class or list(range(7)))
    absent = torch.full_like(enlarged[:, 0], float("-inf"))
    rows_of = [enlarged[:, classes == k] for k in range(int(classes[-1]) + 1)]
    scores = torch.stack([rows.amax(1) if rows.shape[1] else absent for rows in rows_of], 1)
    rows, wanted = classes if row_class else None, (True, True, True)
    labels, score, margin, probability = upsample_argmax(logits, size, (), rows, 2.5, softmax_rows, *wanted)
    best = scores.topk(2, 1).values
    summed = enlarged if softmax_rows else scores
    assert torch.equal(labels, scores.argmax(1))
    # One rounding of scores of size 4 in half precision; float32 source indices.
    step = max(torch.finfo(dtype).eps * 4, 4e-6)
    assert (score - best[:, 0]).abs().max() <= step
    assert (margin - (best[:, 0] - best[:, 1])).abs().max() <= 2 * step
    expected = (best[:, 0] * 2.5 - (summed * 2.5).logsumexp(1)).exp()
    assert (probability - expected).abs().max() <= 2.5 * step
    if size[0] > 12:
        half = size[0] // 2
        lower = logits[:, :, 2:], (size[0] - half, size[1]), (6, 2, size[0], half)
        band = upsample_argmax(*lower, rows, 2.5, softmax_rows, *wanted)
        assert torch.equal(band[0], labels[:, half:])
        assert torch.equal(band[1], score[:, half:])


def test_ties_go_to_the_lower_class():
    logits = torch.zeros(1, 5, 3, 3)
    logits[:, 2:] = 1.0
    assert (upsample_argmax(logits, (7, 7), (), None, 1.0, False, False, False, False)[0] == 2).all()
