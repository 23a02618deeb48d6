"""Checks of the CUDA operators as the emulator runs them on the CPU; started by ``test_cuda_emulation.py``.

A process of its own: here the emulated kernels take the place of the CPU operators for good.
"""

import ctypes
import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from mmseg_plugins.cases import Case
from mmseg_plugins.ops import _load
from mmseg_plugins.ops.cases import compare, compute, load_case

FIXTURES = sorted((Path(__file__).parents[2] / "fixtures" / "mask_pooling").glob("*.json"))
EAGER, OPS = _load.EAGER, torch.ops.mmseg_plugins
HARD, SIGMOID, PROB, GATED, KMAP = range(5)
# mode, threshold, eps, maps_per_mask, reduce, resize_features, allow_tf32
MODES = {
    "hard": (HARD, 0.1),
    "sigmoid": (SIGMOID, 0.0),
    "prob": (PROB, 0.0),
    "gated": (GATED, 0.2),
    "kmap": (KMAP, 0.0),
}

LIBRARY = os.environ["MMSEG_PLUGINS_EMULATED"]
torch.ops.load_library(LIBRARY)
torch.manual_seed(0)


def attributes(mode, *, maps=1, reduce=0, resize_features=False, allow_tf32=False):
    return (*MODES[mode], 1e-8, maps, reduce, resize_features, allow_tf32)


def inputs_of(mode, *, batch=2, queries=3, channels=6, grid=(5, 7), mask_grid=(9, 11), seed=0):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(batch, channels, *grid, generator=generator)
    masks = torch.randn(batch, queries, *mask_grid, generator=generator)
    return features, masks.abs() if mode == "prob" else masks


def close(ours, theirs, bound):
    scale = theirs.abs().max().item() if theirs.numel() else 1.0
    assert ours.shape == theirs.shape
    assert not ours.isnan().any()
    assert (ours.double() - theirs.double()).abs().max().item() <= bound * max(scale, 1e-6) if ours.numel() else True


def run_all(features, masks, attrs, grad, *, save=True, out_dtype=torch.float32, tier=OPS):
    """Run forward and both backwards; returns all results."""
    pooled, area, saved = tier.mask_pool_fwd(features, masks, *attrs, save, out_dtype)
    keeps_masks = not (save and (attrs[0] == HARD or attrs[5]))
    grad_features = tier.mask_pool_bwd_features(
        grad, masks if keeps_masks else None, saved, area, *attrs, list(features.shape[-2:]), features.dtype
    )
    if not masks.is_floating_point():
        return pooled, area, grad_features
    grad_masks = tier.mask_pool_bwd_masks(grad, features, masks, pooled, saved, area, *attrs)
    return pooled, area, grad_features, grad_masks


def test_the_emulated_kernels_are_the_operators():
    for name in (*_load.OP_NAMES,):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"mmseg_plugins::{name}", "CPU"), name


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.stem)
def test_fixture(path):
    prepared = load_case(Case.load(path))
    failed = [result for result in compare(prepared, compute(prepared, "auto"), "emulated") if not result.passed]
    assert not failed


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "name", ["hard_down4", "sigmoid_down8", "prob_down", "kmap_resized", "gated_same", "label_same"]
)
def test_fixture_in_half_precision(name, dtype):
    path = next(path for path in FIXTURES if path.stem == name)
    prepared = load_case(Case.load(path), dtype=dtype)
    failed = [result for result in compare(prepared, compute(prepared, "auto"), "emulated") if not result.passed]
    assert not failed


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("resize_features", [False, True])
@pytest.mark.parametrize("save", [False, True])
def test_modes_on_both_grids(mode, resize_features, save):
    maps = 2 if mode == "kmap" else 1
    for reduce in range(maps):
        features, masks = inputs_of(mode, queries=3 * maps, mask_grid=(13, 17))
        attrs = attributes(mode, maps=maps, reduce=reduce, resize_features=resize_features)
        grad = torch.randn(2, 3 if reduce == 0 else 6, 6)
        ours = run_all(features, masks, attrs, grad, save=save)
        theirs = run_all(features.double(), masks.double(), attrs, grad.double(), out_dtype=torch.float64, tier=EAGER)
        for got, want in zip(ours, theirs, strict=True):
            close(got, want, 2e-5)


@pytest.mark.parametrize("mode", MODES)
def test_many_tiles_and_splits(mode):
    """Two tiles of rows and of columns, and a depth that is split; channels last."""
    maps = 2 if mode == "kmap" else 1
    features, masks = inputs_of(mode, batch=1, queries=130 * maps, channels=67, grid=(23, 24), mask_grid=(23, 24))
    features = features.to(memory_format=torch.channels_last)
    attrs, grad = attributes(mode, maps=maps), torch.randn(1, 130, 67)
    theirs = run_all(features.double(), masks.double(), attrs, grad.double(), out_dtype=torch.float64, tier=EAGER)
    for got, want in zip(run_all(features, masks, attrs, grad), theirs, strict=True):
        close(got, want, 1e-5)


def same_in_all_orders(run):
    set_order = ctypes.CDLL(LIBRARY).emulation_order
    results = []
    for order in range(5):
        set_order(order)
        results.append(run())
    set_order(0)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("resize_features", [False, True])
def test_results_do_not_depend_on_the_order_of_threads(mode, resize_features):
    features, masks = inputs_of(mode, queries=4, channels=40, grid=(9, 8), mask_grid=(15, 8))
    attrs = attributes(mode, maps=2 if mode == "kmap" else 1, resize_features=resize_features)
    grad = torch.ones(2, 2 if mode == "kmap" else 4, 40)
    same_in_all_orders(lambda: run_all(features, masks, attrs, grad))


def test_other_operators_do_not_depend_on_the_order_of_threads():
    features, labels = torch.randn(2, 5, 6, 7), torch.randint(0, 9, (2, 11, 13))
    counts, offsets = torch.ones(700, dtype=torch.int64), torch.tensor([0, 300, 700])
    masks, weights = torch.randn(1, 40, 4, 5), torch.rand(1, 40, 70)
    same_in_all_orders(lambda: OPS.label_pool_fwd(features, labels, 9, 3, 1e-8, False, None))
    same_in_all_orders(lambda: [OPS.rle_to_bits(counts, offsets, [20, 20])])
    same_in_all_orders(lambda: OPS.mask_argmax(weights, masks, [6, 9], [], 1.5, True, True, True))


def layouts(tensor):
    padded = torch.empty(tensor.shape[0], tensor.shape[1] + 1, tensor.shape[2] + 2, tensor.shape[3] + 3)
    crop = padded[:, 1:, 1:-1, 2:-1]
    crop.copy_(tensor)
    return {
        "channels_last": tensor.to(memory_format=torch.channels_last),
        "transposed": tensor.transpose(2, 3).contiguous().transpose(2, 3),
        "crop": crop,
        "batch last": tensor.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
    }


@pytest.mark.parametrize("mode", ["hard", "kmap"])
@pytest.mark.parametrize("resize_features", [False, True])
def test_any_layout_gives_the_same_bits(mode, resize_features):
    features, masks = inputs_of(mode)
    attrs, grad = attributes(mode, resize_features=resize_features), torch.randn(2, 3, 6)
    plain = run_all(features, masks, attrs, grad)
    for layout, other_masks in layouts(masks).items():
        others = run_all(layouts(features)[layout], other_masks, attrs, layouts(grad[None])[layout][0])
        assert all(torch.equal(a, b) for a, b in zip(plain, others, strict=True)), layout


def test_expanded_batch():
    features, masks = inputs_of("hard", batch=1)
    both = [x.expand(3, *x.shape[1:]) for x in (features, masks)]
    pooled, _, _ = OPS.mask_pool_fwd(*both, *attributes("hard"), True, None)
    alone, _, _ = OPS.mask_pool_fwd(features, masks, *attributes("hard"), True, None)
    assert torch.equal(pooled, alone.expand_as(pooled))


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float16, torch.bfloat16])
def test_mask_types(dtype):
    features, masks = inputs_of("hard")
    masks = (masks > 0) if dtype == torch.bool else (masks.abs() * 3).to(dtype)
    attrs = (PROB, 0.0, 1e-8, 1, 0, False, False)
    pooled, area, _ = OPS.mask_pool_fwd(features, masks, *attrs, True, None)
    want, want_area, _ = EAGER.mask_pool_fwd(features, masks, *attrs, True, None)
    close(pooled, want, 2e-6)
    close(area, want_area, 2e-6)


def test_tf32_is_allowed_to_be_coarse_but_is_not_wrong():
    for mode in MODES:
        features, masks = inputs_of(mode)
        attrs, grad = attributes(mode, allow_tf32=True), torch.randn(2, 3, 6)
        theirs = run_all(features.double(), masks.double(), attrs, grad.double(), out_dtype=torch.float64, tier=EAGER)
        for got, want in zip(run_all(features, masks, attrs, grad), theirs, strict=True):
            close(got, want, 1e-3)


def test_a_nan_stays_in_its_row_and_infinities_next_door_do_no_harm():
    features, masks = inputs_of("sigmoid", mask_grid=(5, 7))
    masks[0, 1, 2, 3], masks[1, 2, 0, 0] = float("nan"), float("-inf")
    for mode in ("sigmoid", "prob", "kmap"):
        pooled, _, _ = OPS.mask_pool_fwd(features, masks, *attributes(mode), True, None)
        assert pooled[0, 1].isnan().all()
        assert pooled[0, [0, 2]].isfinite().all()
        assert mode == "prob" or pooled[1].isfinite().all()
    pooled, area, _ = OPS.mask_pool_fwd(features, masks, *attributes("hard"), True, None)
    assert pooled.isfinite().all()
    assert area[0, 1] == (masks[0, 1] > 0.1).sum()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("batch", "queries"), [(0, 3), (2, 0)])
def test_empty(mode, batch, queries):
    features, masks = inputs_of(mode, batch=batch, queries=queries)
    for resize_features in (False, True):
        attrs = attributes(mode, resize_features=resize_features)
        pooled, area, grad_features, grad_masks = run_all(features, masks, attrs, torch.zeros(batch, queries, 6))
        assert pooled.shape == (batch, queries, 6)
        assert area.shape == (batch, queries)
        assert torch.equal(grad_features, torch.zeros_like(features))
        assert grad_masks.shape == masks.shape


@pytest.mark.parametrize("size", [(12, 13), (33, 41), (4, 5)])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_labels(size, dtype):
    features, grad = torch.randn(2, 5, 12, 13), torch.randn(2, 40, 5)
    labels = torch.randint(-2, 45, (2, *size)).to(dtype)
    labels[:, :, :3] = 7
    options = (40, 3, 1e-8, False)
    pooled, area = OPS.label_pool_fwd(features, labels, *options, None)
    want, want_area = EAGER.label_pool_fwd(features.double(), labels, *options, None)
    close(pooled, want, 5e-6)
    assert torch.equal(area.double(), want_area.double())
    ours = OPS.label_pool_bwd(grad, labels, area, *options[1:], [12, 13], torch.float32)
    theirs = EAGER.label_pool_bwd(grad.double(), labels, want_area, *options[1:], [12, 13], torch.float64)
    close(ours, theirs, 2e-5)


def test_runs_and_bits():
    masks = torch.rand(4, 11, 13) > 0.5
    masks[1], masks[2] = False, True
    counts, offsets = [], [0]
    for mask in masks:
        flat, runs, value = mask.T.reshape(-1).tolist(), [0], False
        for pixel in flat:
            if pixel != value:
                runs.append(0)
                value = pixel
            runs[-1] += 1
        counts += runs
        offsets.append(len(counts))
    counts[-1] += 50  # past the end of the last mask: cut
    runs = torch.tensor(counts), torch.tensor(offsets)
    bits = OPS.rle_to_bits(*runs, [11, 13])
    assert torch.equal(bits, EAGER.rle_to_bits(*runs, [11, 13]))
    assert torch.equal(bits, OPS.pack_bits(masks.float(), 0.5))
    assert torch.equal(bits, EAGER.pack_bits(masks.float(), 0.5))
    features = torch.randn(2, 5, 6, 5)
    plain = OPS.mask_pool_fwd(features, masks.reshape(2, 2, 11, 13), HARD, 0.5, 1e-8, 1, 0, True, False, True, None)
    by_bits = OPS.bits_pool_fwd(features, bits.reshape(2, 2, 11, 2), [11, 13], 1e-8, False, None)
    by_runs = OPS.rle_pool_fwd(features, *runs, [11, 13], 1e-8, False, None)
    assert all(torch.equal(a, b) for a, b in zip(plain, by_runs, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(plain[:2], by_bits, strict=True))
    noise = bits.reshape(2, 2, 11, 2) | torch.tensor([0, 0xE0], dtype=torch.uint8)  # padding bits are ignored
    assert torch.equal(OPS.bits_pool_fwd(features, noise, [11, 13], 1e-8, False, None)[0], plain[0])


def test_runs_of_many_pieces():
    """More runs than a block scans at once."""
    counts = torch.ones(40 * 40, dtype=torch.int64)
    offsets = torch.tensor([0, 700, 700, 1600])
    assert torch.equal(OPS.rle_to_bits(counts, offsets, [40, 33]), EAGER.rle_to_bits(counts, offsets, [40, 33]))


def test_offsets_that_leave_the_runs_are_cut():
    """Nothing may be read beyond the counts: a GPU has no error to give."""
    counts, size = torch.tensor([3, 4, 2, 5, 1, 9]), [5, 7]
    wild = OPS.rle_to_bits(counts, torch.tensor([-(2**40), 2, 4, 2**40]), size)
    assert torch.equal(wild, EAGER.rle_to_bits(counts, torch.tensor([0, 2, 4, 6]), size))


def test_gradients_of_many_segments_are_read_and_not_multiplied():
    features, labels = torch.randn(2, 5, 9, 8), torch.randint(-1, 703, (2, 9, 8))
    grad, options = torch.randn(2, 700, 5), (7, 0.0, False)
    _, area = OPS.label_pool_fwd(features, labels, 700, *options, None)
    ours = OPS.label_pool_bwd(grad, labels, area, *options, [9, 8], torch.float32)
    rows = torch.cat([grad / area.unsqueeze(-1), torch.zeros(2, 1, 5)], 1)  # the last is for pixels of no segment
    index = torch.where((labels >= 0) & (labels < 700) & (labels != 7), labels, 700).flatten(1)
    want = torch.stack([row[pixels] for row, pixels in zip(rows, index, strict=True)]).mT.reshape(2, 5, 9, 8)
    assert torch.equal(ours, want)  # one division; a product of split numbers would round differently
    half = OPS.label_pool_bwd(grad, labels, area, *options, [9, 8], torch.bfloat16)
    assert torch.equal(half, want.bfloat16())


def test_fold_in_pieces():
    """A mask wider than the piece of it that a block holds, and more feature columns than a block has threads."""
    for grid, mask_grid in [((2, 3), (3, 2500)), ((2, 300), (3, 330))]:
        features, masks = inputs_of("hard", batch=1, queries=2, grid=grid, mask_grid=mask_grid)
        attrs = attributes("sigmoid", resize_features=True)
        ours = OPS.mask_pool_fwd(features, masks, *attrs, True, None)
        theirs = EAGER.mask_pool_fwd(features.double(), masks.double(), *attrs, True, None)
        for got, want in zip(ours, theirs, strict=True):
            close(got, want, 5e-6)


def reference_winner(scores, logit_scale, summed):
    top = scores.topk(min(2, scores.shape[1]), 1).values
    margin = top[:, 0] - top[:, 1] if scores.shape[1] > 1 else torch.full_like(top[:, 0], float("inf"))
    probability = (top[:, 0] * logit_scale - (summed * logit_scale).logsumexp(1)).exp()
    return scores.argmax(1), top[:, 0], margin, probability


def same_winner(ours, theirs):
    assert torch.equal(ours[0], theirs[0])
    for got, want in zip(ours[1:], theirs[1:], strict=True):
        assert torch.allclose(got, want.float(), rtol=1e-4, atol=2e-4)  # sums of up to 300 terms in float32


@pytest.mark.parametrize("row_class", [None, [0, 0, 1, 2, 2, 2, 4]])
@pytest.mark.parametrize("softmax_rows", [False, True])
@pytest.mark.parametrize("size", [(14, 20), (31, 17), (4, 3), (6, 5)])
def test_upsample_argmax(row_class, softmax_rows, size):
    logits = torch.randn(2, 7, 6, 5).to(memory_format=torch.channels_last)
    enlarged = F.interpolate(logits, size, mode="bilinear")
    classes = torch.tensor(row_class or list(range(7)))
    absent = torch.full_like(enlarged[:, 0], float("-inf"))
    rows_of = [enlarged[:, classes == k] for k in range(int(classes[-1]) + 1)]
    scores = torch.stack([rows.amax(1) if rows.shape[1] else absent for rows in rows_of], 1)
    rows = classes if row_class else None
    ours = OPS.upsample_argmax(logits, size, [], rows, 2.5, softmax_rows, True, True, True)
    same_winner(ours, reference_winner(scores, 2.5, enlarged if softmax_rows else scores))
    if size[0] > 12:
        half = size[0] // 2
        lower = logits[:, :, 2:], [size[0] - half, size[1]], [6, 2, size[0], half]
        band = OPS.upsample_argmax(*lower, rows, 2.5, softmax_rows, True, True, True)
        assert all(torch.equal(a, b[:, half:]) for a, b in zip(band, ours, strict=True))


def test_ties_go_to_the_lower_class():
    logits = torch.zeros(1, 5, 3, 3)
    logits[:, 2:] = 1.0
    assert (OPS.upsample_argmax(logits, [7, 7], [], None, 1.0, False, False, False, False)[0] == 2).all()
    weights = torch.zeros(1, 2, 100)
    weights[:, :, 3] = weights[:, :, 70] = weights[:, :, 99] = 0.5
    assert (OPS.mask_argmax(weights, torch.randn(1, 2, 3, 3), [7, 7], [], 1.0, False, False, False)[0] == 3).all()


@pytest.mark.parametrize(("queries", "classes"), [(5, 3), (300, 70), (3, 130), (0, 4)])
def test_mask_argmax(queries, classes):
    masks, weights = torch.randn(2, queries, 4, 5), torch.rand(2, queries, classes)
    enlarged = F.interpolate(masks, (6, 9), mode="bilinear") if queries else masks.new_zeros(2, 0, 6, 9)
    scores = torch.einsum("bqk,bqhw->bkhw", weights.double(), enlarged.double().sigmoid())
    ours = OPS.mask_argmax(weights, masks, [6, 9], [], 1.5, True, True, True)
    same_winner(ours, reference_winner(scores, 1.5, scores))
