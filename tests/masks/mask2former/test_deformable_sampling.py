"""Deformable sampling against loops over every sample and corner."""

import math

import pytest
import torch

from mmseg_plugins.masks.mask2former import deformable_sampling
from mmseg_plugins.masks.mask2former.deformable_attention import DeformableAttention, pixel_centres
from mmseg_plugins.masks.mask2former.deformable_sampling import deformable_sample

SIZES = [(2, 3), (4, 5), (7, 6)]


def random_inputs(*, batch=2, queries=5, heads=3, width=4, points=2, spread=0.4, dtype=torch.float64):
    tokens = sum(height * width_ for height, width_ in SIZES)
    value = torch.randn(batch, tokens, heads, width, dtype=dtype)
    locations = 0.5 + spread * torch.randn(batch, queries, heads, len(SIZES), points, 2, dtype=dtype)
    weights = torch.rand(batch, queries, heads, len(SIZES), points, dtype=dtype)
    return value, locations, weights


def slow_sample(value, sizes, locations, weights):
    """One sample and one corner at a time; places outside a map are zero."""
    batch, queries, heads, _, points, _ = locations.shape
    result = torch.zeros(batch, queries, heads, value.shape[-1], dtype=value.dtype)
    starts = [sum(h * w for h, w in sizes[:level]) for level in range(len(sizes))]
    for b, n, a, level, p in torch.cartesian_prod(
        *(torch.arange(k) for k in (batch, queries, heads, len(sizes), points))
    ).tolist():
        height, width = sizes[level]
        x = float(locations[b, n, a, level, p, 0]) * width - 0.5
        y = float(locations[b, n, a, level, p, 1]) * height - 0.5
        for row in (math.floor(y), math.floor(y) + 1):
            for column in (math.floor(x), math.floor(x) + 1):
                if 0 <= row < height and 0 <= column < width:
                    share = (1 - abs(y - row)) * (1 - abs(x - column)) * float(weights[b, n, a, level, p])
                    result[b, n, a] += share * value[b, starts[level] + row * width + column, a]
    return result.flatten(2)


@pytest.mark.parametrize("backend", ["auto", "grid_sample", "gather"])
def test_equals_a_loop_over_samples_inside_and_outside_the_maps(backend):
    inputs = random_inputs()
    value, locations, weights = inputs
    assert ((locations < 0) | (locations > 1)).any()
    expected = slow_sample(value, SIZES, locations, weights)
    torch.testing.assert_close(deformable_sample(value, SIZES, locations, weights, backend=backend), expected)


@pytest.mark.parametrize("backend", ["grid_sample", "gather"])
def test_gradients_are_those_of_finite_differences(backend):
    value, locations, weights = (x.requires_grad_() for x in random_inputs(batch=1, queries=2, heads=1, width=2))

    def sample(value, locations, weights):
        return deformable_sample(value, SIZES, locations, weights, backend=backend)

    assert torch.autograd.gradcheck(sample, (value, locations, weights))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_samples_in_float32_under_autocast_and_for_half_inputs(dtype):
    value, locations, weights = random_inputs(dtype=torch.float32)
    value = value.to(dtype)
    with torch.autocast("cpu", dtype):
        sampled = deformable_sample(value, SIZES, locations, weights)
    assert sampled.dtype == dtype
    expected = deformable_sample(value.float(), SIZES, locations, weights)
    torch.testing.assert_close(sampled, expected.to(dtype), rtol=0, atol=0)  # only the result is rounded


def test_cpu_gathers_where_no_gradient_is_wanted(monkeypatch):
    value, locations, weights = random_inputs()
    chosen = []

    def noting(name, sampler):
        return lambda *inputs: chosen.append(name) or sampler(*inputs)

    for name, sampler in deformable_sampling._SAMPLERS.items():
        monkeypatch.setitem(deformable_sampling._SAMPLERS, name, noting(name, sampler))
    deformable_sample(value, SIZES, locations, weights)
    weights.requires_grad_()
    deformable_sample(value, SIZES, locations, weights)
    with torch.no_grad():
        deformable_sample(value, SIZES, locations, weights)
    assert chosen == ["gather", "grid_sample", "gather"]


def test_refuses_sizes_that_do_not_make_up_the_tokens():
    value, locations, weights = random_inputs()
    with pytest.raises(ValueError, match="make 11 tokens in 2 levels"):
        deformable_sample(value, [(2, 3), (1, 5)], locations, weights)


def test_compiled_backend_is_refused_where_there_is_none():
    value, locations, weights = random_inputs()
    with pytest.raises(RuntimeError, match="auto"):
        deformable_sample(value, SIZES, locations, weights, backend="mmcv")
    with pytest.raises(ValueError, match="backend"):
        deformable_sample(value, SIZES, locations, weights, backend="cuda")


def test_compiled_operator_gets_its_arguments_in_its_order(monkeypatch):
    """The operator is not installed here: a stand-in with its signature computes what it would."""
    value, locations, weights = random_inputs(dtype=torch.float32)
    seen = {}

    def stand_in(value, shapes, starts, locations, weights, images_per_step):
        seen["starts"], seen["step"] = starts.tolist(), images_per_step
        return slow_sample(value.double(), [tuple(s) for s in shapes.tolist()], locations, weights).float()

    monkeypatch.setattr(deformable_sampling, "_compiled_function", lambda: stand_in)
    computed = deformable_sampling._sample_compiled(value, SIZES, locations, weights)
    torch.testing.assert_close(computed, deformable_sample(value, SIZES, locations, weights, backend="grid_sample"))
    assert seen == {"starts": [0, 6, 26], "step": 2}


def test_initial_attention_looks_in_one_direction_per_head_at_growing_distance():
    attention = DeformableAttention(width=16, heads=4, levels=3, points=2)
    offsets = attention.sampling_offsets.bias.view(4, 3, 2, 2)
    directions = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    for point in range(2):
        expected = (directions * (point + 1))[:, None].expand(-1, 3, -1)
        torch.testing.assert_close(offsets[:, :, point], expected, atol=1e-6, rtol=0)
    assert not attention.sampling_offsets.weight.any()
    assert not attention.attention_weights.weight.any()


def test_pixel_centres_are_x_and_y_row_by_row():
    expected = torch.tensor([[0.25, 0.5], [0.75, 0.5], [0.5, 0.25], [0.5, 0.75]])
    torch.testing.assert_close(pixel_centres([(1, 2), (2, 1)]), expected)
