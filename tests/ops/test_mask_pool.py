"""Properties of the pooling functions, the same in every tier."""

import pytest
import torch
import torch.nn.functional as F

from mmseg_plugins.ops import label_pool, mask_pool, mask_pool_ragged

MODES = ["hard", "sigmoid", "prob", "gated", "kmap"]


def seeded(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def reference(features, masks, mode, threshold, eps, resize):
    """The definition, in float64 and pixel by pixel of the enlarged tensors."""
    features, masks = features.double(), masks.double()
    if resize == "mask":
        masks = F.interpolate(masks, features.shape[-2:], mode="bilinear", align_corners=False)
    else:
        features = F.interpolate(features, masks.shape[-2:], mode="bilinear", align_corners=False)
    weights = {
        "hard": lambda r: (r > threshold).double(),
        "gated": lambda r: r * (r > threshold),
        "prob": lambda r: r,
        "sigmoid": torch.sigmoid,
        "kmap": torch.sigmoid,
    }[mode](masks)
    area = weights.sum((-2, -1))
    total = torch.einsum("bqhw,bchw->bqc", weights, features)
    scale = torch.einsum("bqhw,bchw->bqc", weights.abs(), features.abs())
    divisor = area if mode == "kmap" else area + eps
    return total / divisor[..., None], area, scale / divisor.abs()[..., None]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("resize", ["mask", "features"])
@pytest.mark.parametrize("grids", [((6, 7), (6, 7)), ((6, 7), (24, 28)), ((5, 9), (17, 13)), ((20, 18), (7, 9))])
@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 3, 5), (1, 70, 33)])
def test_pool_is_what_its_definition_says(mode, resize, grids, sizes, impl):
    (batch, queries, channels), (grid, mask_grid) = sizes, grids
    features = seeded(batch, channels, *grid)
    masks = seeded(batch, queries, *mask_grid, seed=1) * 3
    masks = masks.abs() if mode == "prob" else masks
    pooled, area = mask_pool(features, masks, mode=mode, threshold=0.2, resize=resize, return_area=True, impl=impl)
    want, want_area, scale = reference(features, masks, mode, 0.2, 1e-8, resize)
    # 5e-6 of the absolute sum: the bound for float32 at non-integer ratios.
    assert torch.all((pooled - want).abs() <= 5e-6 * scale + 1e-30)
    assert torch.allclose(area.double(), want_area, rtol=5e-6)


@pytest.mark.parametrize("mode", MODES)
def test_permuting_masks_permutes_rows(mode, impl):
    features, masks = seeded(2, 7, 9, 8), seeded(2, 6, 18, 16, seed=1).abs()
    order = torch.randperm(6, generator=torch.Generator().manual_seed(2))
    pooled = mask_pool(features, masks, mode=mode, impl=impl)
    # Products may group rows differently: one rounding.
    assert torch.allclose(mask_pool(features, masks[:, order], mode=mode, impl=impl), pooled[:, order], atol=1e-6)


def test_two_disjoint_halves_average_by_area(impl):
    features = seeded(1, 5, 12, 12)
    whole = seeded(1, 1, 12, 12, seed=1) > -0.5
    left = whole.clone()
    left[..., 5:] = False
    pooled, area = mask_pool(features, torch.cat([whole, left, whole & ~left], 1), return_area=True, impl=impl)
    mean = (pooled[0, 1] * area[0, 1] + pooled[0, 2] * area[0, 2]) / area[0, 0]
    assert area[0, 0] == area[0, 1] + area[0, 2]
    assert torch.allclose(pooled[0, 0], mean, atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_constant_features_come_back(mode, impl):
    pooled = mask_pool(torch.full((1, 3, 6, 6), 2.5), seeded(1, 4, 6, 6).abs() + 0.1, mode=mode, impl=impl)
    assert torch.allclose(pooled, torch.full((1, 4, 3), 2.5), rtol=1e-6)


def test_kmap_with_one_map_is_the_normalised_sigmoid(impl):
    features, masks = seeded(1, 4, 7, 6), seeded(1, 5, 7, 6, seed=1)
    sigmoid = mask_pool(features, masks, mode="sigmoid", eps=0.0, impl=impl)
    assert torch.allclose(mask_pool(features, masks, mode="kmap", impl=impl), sigmoid, atol=1e-6)


def test_mean_over_maps_is_the_mean_of_the_vectors(impl):
    features, masks = seeded(2, 5, 6, 6), seeded(2, 12, 6, 6, seed=1)
    each = mask_pool(features, masks, mode="kmap", maps_per_mask=4, reduce="none", impl=impl)
    mean = mask_pool(features, masks, mode="kmap", maps_per_mask=4, impl=impl)
    assert each.shape == (2, 12, 5)
    assert torch.allclose(mean, each.unflatten(1, (3, 4)).mean(2), atol=1e-6)


@pytest.mark.parametrize("mask_grid", [(8, 9), (31, 40)])
@pytest.mark.parametrize("channels", [1, 16, 37])
def test_label_pool_is_the_pool_of_the_one_hot_maps(mask_grid, channels, impl):
    features = seeded(2, channels, 8, 9)
    labels = torch.randint(-1, 9, (2, *mask_grid), generator=torch.Generator().manual_seed(3))
    pooled, area = label_pool(features, labels, 7, ignore_index=2, return_area=True, impl=impl)
    one_hot = torch.stack([(labels == s) & (labels != 2) for s in range(7)], 1)
    want, want_area = mask_pool(features, one_hot, resize="features", return_area=True, impl="eager")
    assert torch.allclose(pooled, want, atol=2e-6)
    assert torch.equal(area, want_area)
    assert not pooled[:, 2].any()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
def test_labels_of_any_integer_dtype_pool_alike(dtype, impl):
    features, labels = seeded(1, 4, 5, 5), torch.arange(25).reshape(1, 5, 5) % 6
    want = label_pool(features, labels, 5, impl="eager")
    assert torch.allclose(label_pool(features, labels.to(dtype), 5, impl=impl), want, atol=1e-6)


def test_labels_beyond_32_bits_belong_to_no_segment(impl):
    labels = torch.tensor([[[0, 2**32 + 1, -(2**40), 1]]])
    _, area = label_pool(seeded(1, 2, 1, 4), labels, 3, return_area=True, impl=impl)
    assert area.tolist() == [[1, 1, 0]]


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8])
@pytest.mark.parametrize("resize", ["mask", "features"])
def test_integer_masks_are_taken_as_numbers(dtype, resize, impl):
    features = seeded(1, 4, 5, 6)
    masks = (torch.rand(1, 3, 15, 18, generator=torch.Generator().manual_seed(4)) * 3).to(dtype)
    for mode, threshold in (("hard", 0.0), ("hard", 0.4), ("prob", 0.0)):
        got = mask_pool(features, masks, mode=mode, threshold=threshold, resize=resize, impl=impl)
        want = mask_pool(features, masks.float(), mode=mode, threshold=threshold, resize=resize, impl="eager")
        assert torch.allclose(got, want, atol=2e-6)


def test_ragged_batch_equals_a_loop_over_images(impl):
    features, masks = seeded(3, 4, 6, 6), seeded(7, 12, 12, seed=1)
    index = torch.tensor([2, 0, 2, 2, 0, 2, 0])
    pooled, area = mask_pool_ragged(features, masks, index, return_area=True, impl=impl)
    for i, image in enumerate(index.tolist()):
        one, one_area = mask_pool(features[image, None], masks[None, i, None], return_area=True, impl=impl)
        assert torch.allclose(pooled[i], one[0, 0], atol=1e-6)
        assert area[i] == one_area[0, 0]


def test_ragged_maps_stay_with_their_masks(impl):
    features, maps = seeded(2, 4, 6, 6), seeded(6, 6, 6, seed=1)
    options = {"mode": "kmap", "maps_per_mask": 2, "impl": impl}
    pooled = mask_pool_ragged(features, maps, torch.tensor([1, 0, 1]), **options)
    each = mask_pool_ragged(features, maps, torch.tensor([1, 0, 1]), reduce="none", **options)
    assert pooled.shape == (3, 4)
    assert torch.allclose(pooled, each.unflatten(0, (3, 2)).mean(1), atol=1e-6)
    assert torch.allclose(pooled[1], mask_pool(features[:1], maps[None, 2:4], **options)[0, 0], atol=1e-6)


@pytest.mark.parametrize("shape", [(2, 0), (0, 3)])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("resize", ["mask", "features"])
def test_no_masks_or_no_images_give_empty_results_and_zero_gradients(shape, mode, resize, impl):
    batch, queries = shape
    features = torch.ones(batch, 5, 6, 6, requires_grad=True)
    masks = torch.ones(batch, queries, 9, 9, requires_grad=True)
    pooled = mask_pool(features, masks, mode=mode, resize=resize, impl=impl)
    assert pooled.shape == (batch, queries, 5)
    pooled.sum().backward()
    assert not features.grad.any()


def test_no_segments_give_an_empty_result(impl):
    features = torch.ones(1, 5, 4, 4, requires_grad=True)
    pooled = label_pool(features, torch.zeros(1, 8, 8, dtype=torch.int64), 0, impl=impl)
    assert pooled.shape == (1, 0, 5)
    pooled.sum().backward()
    assert not features.grad.any()


@pytest.mark.parametrize("mode", ["hard", "gated"])
@pytest.mark.parametrize("resize", ["mask", "features"])
def test_an_empty_mask_gives_exactly_zero(mode, resize, impl):
    features = seeded(1, 5, 6, 6).requires_grad_()
    pooled, area = mask_pool(features, torch.full((1, 2, 12, 12), -1.0), mode=mode, resize=resize, return_area=True,
                             impl=impl)  # fmt: skip
    pooled.backward(torch.full_like(pooled, 1e20))
    assert not pooled.any()
    assert not area.any()
    assert not features.grad.any()


def test_extreme_logits_stay_finite(impl):
    features = seeded(1, 3, 6, 6).requires_grad_()
    low = torch.full((1, 2, 6, 6), -200.0).requires_grad_()
    pooled = mask_pool(features, low, mode="sigmoid", impl=impl)
    assert pooled.abs().max() < 1e-30
    uniform = mask_pool(features, low - 100, mode="kmap", impl=impl)
    assert torch.allclose(uniform, features.mean((2, 3))[:, None].expand(-1, 2, -1), atol=1e-6)
    (pooled.sum() + uniform.sum()).backward()
    assert torch.isfinite(features.grad).all()
    assert torch.isfinite(low.grad).all()


@pytest.mark.parametrize("mode", ["sigmoid", "prob", "kmap"])
def test_nan_stays_in_its_row(mode, impl):
    masks = seeded(1, 4, 6, 6)
    masks[0, 2, 3, 3] = float("nan")
    pooled = mask_pool(seeded(1, 5, 6, 6), masks, mode=mode, impl=impl)
    assert pooled[0, 2].isnan().all()
    assert pooled[0, [0, 1, 3]].isfinite().all()


def test_nonfinite_features_do_not_leak_into_other_images(impl):
    features = seeded(2, 5, 6, 6)
    features[0, 1, 2, 3] = float("inf")
    pooled = mask_pool(features, seeded(2, 40, 6, 6, seed=1), impl=impl)
    assert pooled[1].isfinite().all()


def test_two_runs_give_the_same_bits(impl):
    for mode in MODES:
        runs = []
        for _ in range(2):
            features = seeded(2, 33, 16, 15).requires_grad_()
            masks = seeded(2, 40, 31, 33, seed=1).requires_grad_()
            pooled = mask_pool(features, masks, mode=mode, impl=impl)
            pooled.backward(seeded(*pooled.shape, seed=2))
            runs.append((pooled.detach(), features.grad, masks.grad))
        for first, second in zip(*runs, strict=True):
            assert first is None or torch.equal(first, second)


def test_the_result_does_not_depend_on_the_number_of_threads(impl):
    features, masks = seeded(1, 100, 16, 16), seeded(1, 50, 64, 64, seed=1)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(mask_pool(features, masks, impl=impl))
    finally:
        torch.set_num_threads(before)
    assert torch.allclose(results[0], results[1], atol=1e-6)
    assert torch.allclose(results[0], results[2], atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_result_and_gradients_have_their_own_dtypes(dtype, impl):
    features = seeded(1, 4, 6, 6, dtype=dtype).requires_grad_()
    masks = seeded(1, 3, 12, 12, seed=1).requires_grad_()
    pooled, area = mask_pool(features, masks, mode="sigmoid", return_area=True, impl=impl)
    assert pooled.dtype == dtype
    assert area.dtype == torch.float32
    assert not area.requires_grad
    pooled.sum().backward()
    assert (features.grad.dtype, masks.grad.dtype) == (dtype, torch.float32)
    assert mask_pool(features, masks, out_dtype=torch.float64, impl=impl).dtype == torch.float64


GOOD = {"features": torch.ones(2, 3, 4, 4), "masks": torch.ones(2, 5, 8, 8)}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"features": [1.0]}, TypeError, "`features` to be a tensor"),
        ({"features": torch.ones(2, 3, 4)}, ValueError, r"axes \(B C H W\), but got shape \(2, 3, 4\)"),
        ({"features": torch.ones(2, 3, 4, 4, dtype=torch.int32)}, ValueError, "but got torch.int32"),
        ({"features": torch.ones(2, 3, 0, 4)}, ValueError, "`features` to have pixels"),
        ({"masks": torch.ones(2, 5, 0, 8)}, ValueError, "`masks` to have pixels"),
        ({"masks": torch.ones(1, 5, 8, 8)}, ValueError, "batch size 2 of `features`, but got 1"),
        ({"masks": torch.ones(2, 5, 8, 8, dtype=torch.int64)}, ValueError, "`masks` to be one of"),
        ({"masks": torch.ones(2, 5, 8, 8, device="meta")}, ValueError, "`masks` on cpu"),
        ({"mode": "soft"}, ValueError, "`mode` to be one of 'hard', 'sigmoid'"),
        ({"reduce": "sum"}, ValueError, "`reduce`"),
        ({"resize": "both"}, ValueError, "`resize`"),
        ({"impl": "gpu"}, ValueError, "`impl`"),
        ({"impl": "cuda"}, ValueError, "`features` on cuda"),
        ({"precision": "bf16"}, ValueError, "`precision`"),
        ({"out_dtype": torch.int32}, ValueError, "`out_dtype`"),
        ({"eps": -1.0}, ValueError, "`eps`"),
        ({"eps": float("nan")}, ValueError, "`eps`"),
        ({"eps": None}, ValueError, "`eps` to be at least 0, but got None"),
        ({"mode": "kmap", "maps_per_mask": 2.5}, TypeError, "`maps_per_mask` to be an integer, but got 2.5"),
        ({"maps_per_mask": 5}, ValueError, "mode='hard'"),
        ({"mode": "kmap", "maps_per_mask": 2}, ValueError, "multiple of maps_per_mask=2"),
        ({"mode": "kmap", "maps_per_mask": 0}, ValueError, "`maps_per_mask`"),
    ],
)  # fmt: skip
def test_errors_name_the_argument(changes, error, message):
    arguments = GOOD | changes
    with pytest.raises(error, match=message):
        mask_pool(arguments.pop("features"), arguments.pop("masks"), **arguments)


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        (torch.ones(2, 8, 8), {}, "`labels` to be one of uint8"),
        (torch.ones(3, 8, 8, dtype=torch.int64), {}, "batch size 2"),
        (torch.ones(2, 1, 8, 8, dtype=torch.int64), {}, "axes"),
        (torch.ones(2, 8, 8, dtype=torch.int64), {"resize": "mask"}, "'features' for a label map"),
        (torch.ones(2, 8, 8, dtype=torch.int64), {"num_segments": -1}, "`num_segments`"),
    ],
)
def test_label_errors_name_the_argument(labels, options, message):
    with pytest.raises(ValueError, match=message):
        label_pool(GOOD["features"], labels, **{"num_segments": 3} | options)


@pytest.mark.parametrize("name", ["num_segments", "ignore_index"])
def test_label_numbers_are_integers(name):
    labels = torch.ones(2, 8, 8, dtype=torch.int64)
    for wrong in (None, 2.5):
        with pytest.raises(TypeError, match=f"`{name}` to be an integer, but got {wrong}"):
            label_pool(GOOD["features"], labels, **{"num_segments": 3} | {name: wrong})


def test_ragged_errors_name_the_argument():
    features, masks = torch.ones(2, 3, 4, 4), torch.ones(3, 4, 4)
    with pytest.raises(ValueError, match=r"\[0, 2\)"):
        mask_pool_ragged(features, masks, torch.tensor([0, 1, 2]))
    with pytest.raises(ValueError, match="1 map"):
        mask_pool_ragged(features, masks, torch.tensor([0, 1]))
    with pytest.raises(TypeError, match="modus"):
        mask_pool_ragged(features, masks, torch.tensor([0, 1, 1]), modus="hard")
