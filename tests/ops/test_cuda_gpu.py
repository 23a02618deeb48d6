"""The compiled CUDA operators on a real GPU. Everything here skips without one, or without the compiled library."""

from pathlib import Path

import pytest
import torch

from mmseg_plugins.cases import Case
from mmseg_plugins.ops import _load
from mmseg_plugins.ops.cases import compare, compute, load_case
from mmseg_plugins.ops.mask_pool import label_pool, mask_pool

FIXTURES = sorted((Path(__file__).parents[1] / "fixtures" / "mask_pooling").glob("*.json"))
COUNT = torch.cuda.device_count()

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(COUNT == 0, reason="needs a CUDA device"),
    pytest.mark.skipif(not _load.STATUS["cuda"].loaded, reason=f"compiled ops: {_load.STATUS['cuda'].reason}"),
]

MODES = ("hard", "sigmoid", "prob", "gated", "kmap")


def inputs_of(mode, *, device="cuda", shape=(2, 40, 96), grid=(20, 24), mask_grid=(40, 36)):
    generator = torch.Generator().manual_seed(0)
    batch, queries, channels = shape
    features = torch.randn(batch, channels, *grid, generator=generator)
    masks = torch.randn(batch, queries, *mask_grid, generator=generator)
    return features.to(device), (masks.abs() if mode == "prob" else masks).to(device)


def pooled_with_gradients(features, masks, mode, **options):
    features = features.detach().requires_grad_()
    masks = masks.detach().requires_grad_(mode in ("sigmoid", "prob", "kmap"))
    pooled = mask_pool(features, masks, mode=mode, **options)
    weight = torch.linspace(-1, 1, pooled.numel(), device=pooled.device, dtype=pooled.dtype).reshape(pooled.shape)
    (pooled * weight).sum().backward()
    return [result for result in (pooled.detach(), features.grad, masks.grad) if result is not None]


def same_bits(ones, others):
    return all(torch.equal(a, b) for a, b in zip(ones, others, strict=True))


@pytest.mark.parametrize("tier", ["cuda", "triton"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.stem)
def test_fixture(path, dtype, tier):
    prepared = load_case(Case.load(path), device="cuda", dtype=dtype)
    failed = [result for result in compare(prepared, compute(prepared, tier), tier) if not result.passed]
    assert not failed


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("resize", ["mask", "features"])
def test_two_runs_give_the_same_bits(mode, resize):
    inputs = inputs_of(mode)
    first = pooled_with_gradients(*inputs, mode, resize=resize)
    assert all(same_bits(first, pooled_with_gradients(*inputs, mode, resize=resize)) for _ in range(5))


@pytest.mark.parametrize("mode", MODES)
def test_layouts_give_the_same_bits(mode):
    features, masks = inputs_of(mode)
    plain = pooled_with_gradients(features, masks, mode)
    padded = torch.empty(2, 97, 22, 27, device="cuda")
    padded[:, 1:, 1:-1, 3:] = features
    for view in (
        features.to(memory_format=torch.channels_last),
        features.transpose(2, 3).contiguous().transpose(2, 3),
        padded[:, 1:, 1:-1, 3:],
    ):
        assert same_bits(plain, pooled_with_gradients(view, masks.transpose(2, 3).contiguous().transpose(2, 3), mode))


def test_channels_last_features_are_not_copied():
    features = torch.randn(1, 512, 64, 64, device="cuda").to(memory_format=torch.channels_last)
    masks = torch.randn(1, 8, 64, 64, device="cuda")
    mask_pool(features, masks, mode="hard")
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    mask_pool(features, masks, mode="hard")
    assert torch.cuda.max_memory_allocated() - before < features.numel() * 4 // 2


@pytest.mark.parametrize("mode", MODES)
def test_runs_on_the_current_stream(mode):
    """The inputs become right only late on a side stream: a kernel on another stream would read zeros."""
    features, masks = inputs_of(mode)
    want = mask_pool(features, masks, mode=mode)
    late_features, late_masks = torch.zeros_like(features), torch.zeros_like(masks)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        late_features.copy_(features)
        late_masks.copy_(masks)
        got = mask_pool(late_features, late_masks, mode=mode)
    torch.cuda.current_stream().wait_stream(stream)
    assert torch.equal(got, want)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("resize", ["mask", "features"])
def test_can_be_captured_into_a_graph(mode, resize):
    """Also shows that nothing waits for the device: a synchronisation breaks the capture."""
    features, masks = inputs_of(mode)
    want = mask_pool(features, masks, mode=mode, resize=resize)
    static_features, static_masks = torch.zeros_like(features), torch.zeros_like(masks)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        mask_pool(static_features, static_masks, mode=mode, resize=resize)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = mask_pool(static_features, static_masks, mode=mode, resize=resize)
    static_features.copy_(features)
    static_masks.copy_(masks)
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(got, want)


@pytest.mark.skipif(COUNT < 2, reason="needs two CUDA devices")
def test_runs_on_the_device_of_its_inputs():
    features, masks = inputs_of("sigmoid")
    want = pooled_with_gradients(features, masks, "sigmoid")
    with torch.cuda.device(0):
        got = pooled_with_gradients(features.to("cuda:1"), masks.to("cuda:1"), "sigmoid")
    assert all(result.device == torch.device("cuda:1") for result in got)
    assert same_bits(want, [result.to("cuda:0") for result in got])


@pytest.mark.slow
@pytest.mark.parametrize("resize", ["mask", "features"])
def test_offsets_past_two_to_the_31(resize):
    """The last of 70 masks of 5600 x 5600 pixels lies past 2**31 elements (2.2 GB of bytes)."""
    if torch.cuda.mem_get_info()[0] < 8 << 30:
        pytest.skip("needs 8 GB of free device memory")
    masks = torch.zeros(1, 70, 5600, 5600, dtype=torch.uint8, device="cuda")
    masks[:, -1, 2800:] = 1
    features = torch.randn(1, 8, 56, 56, device="cuda")
    last = mask_pool(features, masks, mode="hard", threshold=0.5, resize=resize)[:, -1]
    alone = mask_pool(features, masks[:, -1:].clone(), mode="hard", threshold=0.5, resize=resize)[:, 0]
    assert last.abs().max() > 0
    assert torch.equal(last, alone)


@pytest.mark.parametrize("segments", [5, 150, 700])
@pytest.mark.parametrize("size", [(20, 24), (77, 90)])
def test_labels_agree_with_the_eager_tier(segments, size):
    features, _ = inputs_of("hard")
    labels = torch.randint(-1, segments + 2, (2, *size), device="cuda")
    got, area = label_pool(features, labels, segments, return_area=True)
    want, want_area = label_pool(features.double(), labels, segments, return_area=True, impl="eager")
    assert torch.equal(area.double(), want_area.double())
    assert (got - want).abs().max() <= 5e-6 * want.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [(60, 80), (101, 211), (8, 9), (15, 20)])
def test_label_map_is_that_of_interpolate(dtype, size):
    logits = torch.randn(2, 30, 15, 20, device="cuda").to(dtype)
    enlarged = torch.nn.functional.interpolate(logits, size, mode="bilinear")
    labels = torch.ops.mmseg_plugins.upsample_argmax(logits, size, [], None, 1.0, True, False, False, False)[0]
    assert torch.equal(labels, enlarged.argmax(1))


def test_mask_argmax_agrees_with_the_product():
    masks, weights = torch.randn(2, 300, 15, 20, device="cuda"), torch.rand(2, 300, 170, device="cuda")
    enlarged = torch.nn.functional.interpolate(masks, (60, 81), mode="bilinear").double().sigmoid()
    scores = torch.einsum("bqk,bqhw->bkhw", weights.double(), enlarged)
    labels, score, margin, _ = torch.ops.mmseg_plugins.mask_argmax(weights, masks, [60, 81], [], 1.0, True, True, False)
    top = scores.topk(2, 1).values
    clear = top[:, 0] - top[:, 1] > 1e-3
    assert torch.equal(labels[clear], scores.argmax(1)[clear])
    assert (score - top[:, 0]).abs().max() <= 1e-3  # sums of 300 terms in float32
    assert (margin - (top[:, 0] - top[:, 1])).abs().max() <= 2e-3
