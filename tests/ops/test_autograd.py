"""Gradients: numerical checks, what is kept for the backward, and what is refused."""

import pytest
import torch

from mmseg_plugins.ops import _load, label_pool, mask_pool, mask_pool_bits, mask_pool_rle, pack_bits
from mmseg_plugins.ops._schema import HARD, KMAP, SIGMOID

VARIANTS = [
    {"mode": mode, "resize": resize, "reduce": reduce, "maps_per_mask": 2 if mode == "kmap" else 1, "threshold": 0.3}
    for mode in ("hard", "gated", "prob", "sigmoid", "kmap")
    for resize in ("mask", "features")
    for reduce in (("mean", "none") if mode == "kmap" else ("mean",))
]
SOFT = {"prob", "sigmoid", "kmap"}


def leaves():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(1, 2, 3, 4, generator=generator, dtype=torch.float64)
    masks = torch.randn(1, 2, 5, 4, generator=generator, dtype=torch.float64)
    return features.requires_grad_(), masks.requires_grad_()


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join(map(str, v.values())))
def test_gradients_agree_with_differences(variant, impl):
    features, masks = leaves()
    if variant["mode"] not in SOFT:
        masks = masks.detach()
    assert torch.autograd.gradcheck(lambda f, m: mask_pool(f, m, impl=impl, **variant), (features, masks))


@pytest.mark.parametrize("mode", sorted(SOFT))
def test_the_eager_tier_differentiates_twice(mode):
    features, masks = leaves()
    function = lambda f, m: mask_pool(f, m, mode=mode, impl="eager")  # noqa: E731  one expression, used once
    assert torch.autograd.gradgradcheck(function, (features, masks))


def test_other_tiers_refuse_second_order_gradients_and_name_the_way_out():
    features, masks = leaves()
    pooled = mask_pool(features, masks, mode="sigmoid")
    (grad,) = torch.autograd.grad(pooled.sum(), features, create_graph=True)
    with pytest.raises(NotImplementedError, match="impl='eager'"):
        grad.sum().backward()


def test_forced_tiers_refuse_second_order_gradients(impl):
    if impl == "eager":
        pytest.skip("the eager tier has them")
    features, masks = leaves()
    pooled = mask_pool(features, masks, mode="sigmoid", impl=impl)
    (grad,) = torch.autograd.grad(pooled.sum(), features, create_graph=True)
    with pytest.raises((NotImplementedError, RuntimeError)):
        grad.sum().backward()


def test_label_bit_and_run_gradients_agree_with_differences(impl):
    features = leaves()[0]
    labels = torch.tensor([[[0, 1, 1, 2, 0], [3, 1, 0, 0, 1]]]).repeat(1, 4, 1)
    assert torch.autograd.gradcheck(lambda f: label_pool(f, labels, 3, impl=impl), (features,))
    bits = pack_bits(labels[:, None] > 0)
    assert torch.autograd.gradcheck(lambda f: mask_pool_bits(f, bits, (8, 5), impl=impl), (features,))
    counts, offsets = torch.tensor([3, 10, 5, 0, 40]), torch.tensor([0, 3, 5])
    assert torch.autograd.gradcheck(lambda f: mask_pool_rle(f, counts, offsets, (8, 5), impl=impl), (features,))


def saved_bytes(mode, resize="mask"):
    features = torch.randn(1, 4, 32, 32, requires_grad=True)
    masks = torch.randn(1, 8, 32 if resize == "mask" else 256, 32 if resize == "mask" else 256)
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.nbytes) or t, lambda t: t):
        mask_pool(features, masks, mode=mode, resize=resize)
    return sum(sizes), masks.nbytes


def test_hard_keeps_bits_for_the_backward_instead_of_masks():
    kept, mask_bytes = saved_bytes("hard")
    assert kept <= mask_bytes / 32 + 8 * 4


def test_enlarged_features_keep_the_folded_weights_instead_of_masks():
    kept, mask_bytes = saved_bytes("hard", "features")
    assert kept <= mask_bytes / 60


def call(mode, save, resize_features=False):
    features, masks = torch.randn(2, 3, 5, 7), torch.randn(2, 4, 10, 9)
    return torch.ops.mmseg_plugins.mask_pool_fwd(
        features, masks, mode, 0.0, 1e-8, 1, 1, resize_features, False, save, None
    ), (features, masks)


@pytest.mark.parametrize("mode", range(5))
@pytest.mark.parametrize("resize_features", [False, True])
def test_what_is_saved_is_what_the_schema_says(mode, resize_features):
    (_, _, saved), (_, masks) = call(mode, True, resize_features)
    if resize_features:
        assert (saved.shape, saved.dtype) == ((2, 4, 35), torch.float32)
    elif mode == HARD:
        assert (saved.shape, saved.dtype) == ((2, 4, 2), torch.int32)
        resized = torch.nn.functional.interpolate(masks, (5, 7), mode="bilinear") > 0
        words = (resized.flatten(2).long() << (torch.arange(35) % 32)).split(32, -1)
        for i, word in enumerate(words):
            assert torch.equal(saved[..., i].long() & 0xFFFFFFFF, word.sum(-1))
    elif mode == KMAP:
        ls = torch.nn.functional.logsigmoid(torch.nn.functional.interpolate(masks, (5, 7), mode="bilinear")).flatten(2)
        assert torch.allclose(saved[..., 0], ls.amax(-1), atol=1e-6)
        assert torch.allclose(saved[..., 1], (ls - ls.amax(-1, keepdim=True)).exp().sum(-1), rtol=1e-5)
    else:
        assert saved.numel() == 0
    (_, _, nothing), _ = call(mode, False, resize_features)
    assert (nothing.shape, nothing.dtype) == ((0,), saved.dtype)


@pytest.mark.parametrize("mode", range(5))
@pytest.mark.parametrize("resize_features", [False, True])
def test_backward_works_without_what_was_saved(mode, resize_features):
    generator = torch.Generator().manual_seed(0)
    features, masks = torch.randn(2, 3, 5, 7, generator=generator), torch.randn(2, 4, 10, 9, generator=generator)
    attributes = (mode, 0.0, 1e-8, 1, 1, resize_features, False)
    operators = torch.ops.mmseg_plugins
    _, area, saved = operators.mask_pool_fwd(features, masks, *attributes, True, None)
    grad = torch.randn(2, 4, 3, generator=generator)
    want = operators.mask_pool_bwd_features(grad, masks, saved, area, *attributes, (5, 7), torch.float32)
    got = operators.mask_pool_bwd_features(grad, masks, saved.new_empty(0), area, *attributes, (5, 7), torch.float32)
    assert torch.allclose(got, want, atol=1e-6)


@pytest.mark.parametrize("name", ["mask_pool_fwd", "label_pool_fwd", "bits_pool_fwd", "rle_pool_fwd"])
def test_each_operator_has_an_eager_twin(name):
    assert hasattr(torch.ops.mmseg_plugins, f"{name}_eager")
    assert hasattr(_load.EAGER, name)


@pytest.mark.parametrize("mode", ["hard", "sigmoid", "kmap"])
@pytest.mark.parametrize("resize", ["mask", "features"])
def test_mixed_precision_rounds_nothing_inside(mode, resize, impl):
    results = []
    for enabled in (False, True):
        features, masks = (torch.randn(1, n, 8, 8, generator=torch.Generator().manual_seed(n)) for n in (6, 4))
        masks = torch.nn.functional.interpolate(masks, (20, 20)).requires_grad_()
        features.requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            pooled = mask_pool(features, masks, mode=mode, resize=resize, impl=impl)
            if impl != "eager":
                # Ordinary operations are rounded backwards as well if that runs in mixed precision, as everywhere.
                pooled.backward(torch.ones_like(pooled))
        results.append((pooled.detach(), features.grad, masks.grad))
    for got, want in zip(*results, strict=True):
        assert (got is None) == (want is None)
        assert got is None or torch.equal(got, want)


def test_mixed_precision_leaves_label_and_bit_pooling_alone(impl):
    features = torch.randn(1, 6, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(400).reshape(1, 20, 20) // 70
    bits = pack_bits(labels[:, None] > 2)
    pools = [
        lambda: label_pool(features, labels, 6, impl=impl),
        lambda: mask_pool_bits(features, bits, (20, 20), impl=impl),
    ]
    for pool in pools:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got = pool()
        assert torch.equal(got, pool())


def test_masks_alone_may_want_gradients():
    masks = torch.randn(1, 2, 4, 4, requires_grad=True)
    mask_pool(torch.randn(1, 3, 4, 4), masks, mode="sigmoid").sum().backward()
    assert masks.grad is not None
    assert SIGMOID == 1
