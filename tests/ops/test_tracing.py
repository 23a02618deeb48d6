"""opcheck, torch.compile, meta tensors and vmap."""

import pytest
import torch

from mmseg_plugins.ops import label_pool, mask_argmax, mask_pool, mask_pool_bits, mask_pool_rle, pack_bits
from mmseg_plugins.ops._fake import FAKE_KERNELS
from mmseg_plugins.ops._schema import KMAP, OP_NAMES

OPS = torch.ops.mmseg_plugins
MODES = ["hard", "sigmoid", "prob", "gated", "kmap"]


def seeded(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def check(name, *arguments):
    torch.library.opcheck(getattr(OPS, name).default, arguments)


@pytest.mark.parametrize("mode", range(5))
@pytest.mark.parametrize("resize_features", [False, True])
def test_mask_pool_passes_opcheck(mode, resize_features):
    maps = 2 if mode == KMAP else 1
    features, masks = seeded(2, 5, 6, 7).requires_grad_(), seeded(2, 4, 12, 9, seed=1).requires_grad_()
    attributes = (mode, 0.1, 1e-8, maps, 0, resize_features, False)
    check("mask_pool_fwd", features, masks, *attributes, True, None)
    check("mask_pool_fwd", features, masks, *attributes, False, torch.bfloat16)
    with torch.no_grad():
        pooled, area, saved = OPS.mask_pool_fwd(features, masks, *attributes, True, None)
    grad = torch.ones_like(pooled)
    check("mask_pool_bwd_features", grad, masks.detach(), saved, area, *attributes, (6, 7), torch.float32)
    check("mask_pool_bwd_masks", grad, features.detach(), masks.detach(), pooled, saved, area, *attributes)


def test_the_other_operators_pass_opcheck():
    features, masks = seeded(2, 5, 6, 7), seeded(2, 4, 12, 9, seed=1)
    labels = torch.randint(0, 7, (2, 12, 9), generator=torch.Generator().manual_seed(2))
    bits, size = pack_bits(masks), (12, 9)
    counts, offsets = torch.tensor([5, 50, 20, 0, 108]), torch.tensor([0, 2, 5])
    wanted = features.clone().requires_grad_()
    check("label_pool_fwd", wanted, labels, 5, 2, 1e-8, False, None)
    check("bits_pool_fwd", wanted, bits, size, 1e-8, False, None)
    check("rle_pool_fwd", wanted, counts, offsets, size, 1e-8, False, None)
    area = torch.ones(2, 4)
    check("label_pool_bwd", seeded(2, 4, 5), labels, area, 255, 1e-8, False, (6, 7), torch.float32)
    check("bits_pool_bwd", seeded(2, 4, 5), bits, area, size, 1e-8, False, (6, 7), torch.float32)
    check("rle_to_bits", counts, offsets, size)
    check("pack_bits", masks, 0.2)
    rows = torch.tensor([0, 0, 1, 4])
    check("upsample_argmax", masks, (20, 30), [], rows, 2.0, False, True, True, True)
    check("upsample_argmax", masks, (3, 30), [12, 0, 24, 5], None, 2.0, True, False, True, False)
    check("mask_argmax", seeded(2, 4, 3).abs(), masks, (20, 30), [], 1.0, True, False, True)


def test_every_operator_has_a_fake_kernel():
    assert set(FAKE_KERNELS) == set(OP_NAMES)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("resize", ["mask", "features"])
def test_meta_tensors_give_shapes(mode, resize):
    features = torch.empty(2, 5, 6, 7, device="meta", dtype=torch.bfloat16, requires_grad=True)
    masks = torch.empty(2, 4, 12, 9, device="meta", requires_grad=True)
    pooled = mask_pool(features, masks, mode=mode, maps_per_mask=2 if mode == "kmap" else 1, resize=resize)
    assert (pooled.shape, pooled.dtype) == ((2, 2 if mode == "kmap" else 4, 5), torch.bfloat16)
    pooled.sum().backward()
    assert features.grad.shape == features.shape


def run_compiled(backend, mode):
    """One graph forwards and backwards, for changing numbers of masks and grids."""
    from torch._dynamo.utils import counters

    torch.compiler.reset()
    counters.clear()

    @torch.compile(fullgraph=True, dynamic=True, backend=backend)
    def pool(features, masks):
        return mask_pool(features, masks, mode=mode, return_area=True)

    for queries, height, width in ((4, 6, 7), (5, 8, 9), (3, 7, 6)):
        grads = []
        for function in (pool, lambda f, m: mask_pool(f, m, mode=mode, return_area=True)):
            features = seeded(2, 5, height, width).requires_grad_()
            masks = seeded(2, queries, 12, 10, seed=1).requires_grad_()
            pooled, area = function(features, masks)
            pooled.square().sum().backward()
            grads.append((pooled.detach(), area, features.grad, masks.grad))
        for got, want in zip(*grads, strict=True):
            assert (got is None) == (want is None)
            assert got is None or torch.allclose(got, want, atol=1e-6)
    assert counters["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize("mode", MODES)
def test_one_dynamic_graph_runs_forwards_and_backwards(mode):
    run_compiled("aot_eager", mode)


@pytest.mark.slow
def test_inductor_runs_the_operator():
    run_compiled("inductor", "sigmoid")


def test_labels_and_bits_compile():
    torch.compiler.reset()
    features = seeded(1, 4, 6, 6)
    labels = torch.arange(36).reshape(1, 6, 6) % 5
    bits = pack_bits(labels[:, None] > 2)

    def pool(features, labels, bits):
        return label_pool(features, labels, 5), mask_pool_bits(features, bits, (6, 6))

    compiled = torch.compile(pool, fullgraph=True, backend="aot_eager")
    for got, want in zip(compiled(features, labels, bits), pool(features, labels, bits), strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("in_dims", [(0, 0), (0, None), (None, 1), (2, 3)])
def test_vmap_equals_a_loop(mode, in_dims):
    shapes = [(2, 5, 6, 7), (2, 4, 12, 9)]
    inputs, parts = [], []
    for i, (shape, dim) in enumerate(zip(shapes, in_dims, strict=True)):
        stacked = seeded(3, *shape, seed=i)
        inputs.append(stacked[0] if dim is None else stacked.movedim(0, dim))
        parts.append([stacked[0]] * 3 if dim is None else list(stacked))
    got, area = torch.vmap(lambda f, m: mask_pool(f, m, mode=mode, return_area=True), in_dims)(*inputs)
    for i, (features, masks) in enumerate(zip(*parts, strict=True)):
        want, want_area = mask_pool(features, masks, mode=mode, return_area=True)
        assert torch.allclose(got[i], want, atol=1e-6)
        assert torch.allclose(area[i], want_area)


def test_vmap_of_the_other_operators_equals_a_loop():
    features, masks = seeded(3, 2, 5, 6, 7), seeded(3, 2, 4, 12, 9, seed=1)
    labels = (masks.sum(2) * 2).long()
    pooled = torch.vmap(lambda f, x: label_pool(f, x, 4))(features, labels)
    bits = torch.vmap(pack_bits)(masks)
    by_bits = torch.vmap(lambda f, b: mask_pool_bits(f, b, (12, 9)))(features, bits)
    maps = torch.vmap(lambda w, m: OPS.mask_argmax(w, m, (15, 20), [], 1.0, True, False, False))(
        seeded(3, 2, 4, 3), masks
    )[0]
    for i in range(3):
        assert torch.allclose(pooled[i], label_pool(features[i], labels[i], 4), atol=1e-6)
        assert torch.allclose(by_bits[i], mask_pool_bits(features[i], bits[i], (12, 9)), atol=1e-6)
        assert torch.equal(maps[i], mask_argmax(seeded(3, 2, 4, 3)[i], masks[i], (15, 20)))


def test_gradients_pass_through_vmap():
    features, masks = seeded(3, 2, 5, 6, 7).requires_grad_(), seeded(3, 2, 4, 12, 9, seed=1).requires_grad_()
    for mode in ("hard", "sigmoid"):
        (got,) = torch.autograd.grad(
            torch.vmap(lambda f, m, mode=mode: mask_pool(f, m, mode=mode))(features, masks).square().sum(), features
        )
        total = sum(mask_pool(f, m, mode=mode).square().sum() for f, m in zip(features, masks, strict=True))
        (want,) = torch.autograd.grad(total, features)
        assert torch.allclose(got, want, atol=1e-6)


def test_run_lengths_trace_with_fake_tensors():
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode():
        pooled = mask_pool_rle(torch.empty(1, 3, 4, 4), torch.empty(9, dtype=torch.int64),
                               torch.empty(3, dtype=torch.int64), (8, 8))  # fmt: skip
    assert pooled.shape == (1, 2, 3)
