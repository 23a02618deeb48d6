"""Random shapes, types, layouts and options in every tier, against the definition in float64.

The reference is independent of the package: matrices of bilinear taps, a dense product, and autograd through both.
"""

import random

import pytest
import torch
import torch.nn.functional as F

from mmseg_plugins.ops import label_pool, mask_pool, mask_pool_bits, pack_bits

EPS = 1e-8
SOFT = ("sigmoid", "prob", "kmap")
# Relative bounds of pooled vectors and of gradients to features, for soft weights against 16-bit features.
HALF = {torch.bfloat16: (4e-3, 8e-3), torch.float16: (1e-3, 2e-3)}
ROUNDING = {torch.float32: (0.0, 0.0), torch.bfloat16: (2.0**-8, 0.0), torch.float16: (2.0**-11, 2.0**-25)}


def tap_matrix(n_in, n_out):
    matrix = torch.zeros(n_out, n_in, dtype=torch.float64)
    for i in range(n_out):
        position = max(0.0, (i + 0.5) * n_in / n_out - 0.5)
        low = min(int(position), n_in - 1)
        matrix[i, low] += 1 - (position - low)
        matrix[i, min(low + 1, n_in - 1)] += position - low
    return matrix


def resized(x, size):
    return tap_matrix(x.shape[-2], size[0]) @ x @ tap_matrix(x.shape[-1], size[1]).T


def reference(features, masks, mode, threshold, resize):
    """Pool in float64; returns vectors, areas, and the same vectors of absolute features."""
    magnitude = features.abs()
    if resize == "mask":
        masks = resized(masks, features.shape[-2:])
    else:
        features, magnitude = (resized(x, masks.shape[-2:]) for x in (features, magnitude))
    weights = {
        "hard": lambda r: (r > threshold).double(),
        "gated": lambda r: (r * (r > threshold)).detach(),
        "prob": lambda r: r,
        "sigmoid": torch.sigmoid,
        "kmap": torch.sigmoid,
    }[mode](masks)
    area = weights.sum((-2, -1))
    rows = F.logsigmoid(masks).flatten(2).softmax(-1) if mode == "kmap" else weights.flatten(2)
    divisor = 1 if mode == "kmap" else (area + EPS).unsqueeze(-1)
    return rows @ features.flatten(2).mT / divisor, area, rows @ magnitude.flatten(2).mT / divisor


def with_layout(x, choice):
    if choice == "channels last":
        return x.movedim(1, -1).contiguous().movedim(-1, 1)
    if choice == "transposed":
        return x.transpose(-1, -2).contiguous().transpose(-1, -2)
    if choice == "crop":
        wide = x.new_zeros([length + 2 for length in x.shape])
        view = wide[tuple(slice(1, -1) for _ in x.shape)]
        return view.copy_(x)
    return x[:1].expand(x.shape) if choice == "expanded" and len(x) else x


def clear_threshold(values, draw):
    """Return a threshold that no value is near: below all, above all, or in the widest gap of the middle."""
    values = values.flatten().sort().values
    if not len(values):
        return 0.0
    middle = values[len(values) // 5 : 4 * len(values) // 5 + 1]
    gaps = middle[1:] - middle[:-1]
    inside = [float(middle[gaps.argmax()] + gaps.max() / 2)] if len(gaps) and gaps.max() > 1e-3 else []
    return max(0.0, draw.choice([float(values[0]) - 1, float(values[-1]) + 1, *inside * 3]))


def draw_inputs(seed):
    """Draw mode, features, masks, masks in float64, (threshold, resize), and a function of (features, masks, impl)."""
    draw, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    mode = draw.choice(["hard", "sigmoid", "prob", "gated", "kmap", "label", "bits"])
    batch, queries, channels = draw.choice([0, 1, 2, 3]), draw.choice([0, 1, 5, 17]), draw.choice([1, 3, 17, 65])
    grid = draw.randint(1, 24), draw.randint(1, 24)
    scale = draw.choice([1, 4, None])
    mask_grid = tuple(n * scale if scale else draw.randint(1, 60) for n in grid)
    layouts = ["contiguous", "channels last", "transposed", "crop", "expanded"]
    dtype = draw.choice([torch.float32, torch.float32, torch.bfloat16, torch.float16])
    features = torch.randn(batch, channels, *grid, generator=generator).to(dtype)
    features = with_layout(features, draw.choice(layouts))
    if mode == "label":
        segments, ignored = draw.choice([0, 5, 40, 300]), draw.choice([255, -1, 2])
        labels = torch.randint(-2, segments + 3, (batch, *mask_grid), generator=generator)
        labels = with_layout(labels.to(draw.choice([torch.int32, torch.int64])), draw.choice(layouts))
        numbers = torch.arange(segments)[:, None, None]
        exact = (labels.unsqueeze(1) == numbers) & (labels != ignored).unsqueeze(1)
        pool = lambda f, _, impl: label_pool(f, labels, segments, ignore_index=ignored, return_area=True, impl=impl)  # noqa: E731
        return mode, features, None, exact.double(), (0.5, "features"), pool
    masks = torch.randn(batch, queries, *mask_grid, generator=generator) * draw.choice([1, 5])
    if mode == "bits":
        exact, bits = masks > 0.3, pack_bits(masks, 0.3)
        pool = lambda f, _, impl: mask_pool_bits(f, bits, mask_grid, return_area=True, impl=impl)  # noqa: E731
        return mode, features, None, exact.double(), (0.5, "features"), pool
    masks = masks.abs() if mode in ("prob", "gated") else masks  # signs would cancel in the area
    mask_dtype = draw.choice([torch.float32, torch.bfloat16, torch.float16, torch.uint8, torch.bool])
    masks = with_layout(masks.clamp(min=0).to(mask_dtype) if mask_dtype in (torch.uint8, torch.bool) else
                        masks.to(mask_dtype), draw.choice(layouts))  # fmt: skip
    exact, resize = masks.double(), draw.choice(["mask", "features"])
    values = resized(exact, grid) if resize == "mask" else exact
    threshold = clear_threshold(values, draw) if mode in ("hard", "gated") else 0.0
    options = {"mode": mode, "threshold": threshold, "resize": resize, "return_area": True}
    return mode, features, masks, exact, (threshold, resize), lambda f, m, impl: mask_pool(f, m, impl=impl, **options)


def within(got, want, bound, dtype):
    relative, absolute = ROUNDING[dtype]
    return bool(((got.double() - want).abs() <= bound + relative * want.abs() + absolute + 1e-30).all())


@pytest.mark.parametrize("start", range(0, 200, 20))
def test_random_inputs_agree_with_the_definition(start, impl):
    for seed in range(start, start + 20):
        mode, features, masks, exact_masks, (threshold, resize), pool = draw_inputs(seed)
        dtype, exact_features = features.dtype, features.double().requires_grad_()
        exact_masks.requires_grad_(mode in SOFT)
        definition = mode if mode not in ("label", "bits") else "hard"
        want, area, scale = reference(exact_features, exact_masks, definition, threshold, resize)
        # The bounds of non-integer ratios, for all.
        bound, grad_bound = HALF[dtype] if mode in SOFT and dtype in HALF else (5e-6, 2e-5)

        features.requires_grad_()
        if masks is not None and masks.is_floating_point():
            masks.requires_grad_()
        got, got_area = pool(features, masks, impl)
        assert (got.dtype, got.shape) == (dtype, want.shape), seed
        assert within(got, want, bound * scale, dtype), (seed, mode)
        assert within(got_area, area, 0 if definition == "hard" else bound * area, torch.float32), (seed, mode)

        cotangent = torch.randn(want.shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
        got.backward(cotangent)
        want.backward(cotangent.double())
        largest = exact_features.grad.abs().max() if exact_features.numel() else 0
        assert within(features.grad, exact_features.grad, grad_bound * largest, dtype), (seed, mode)
        if masks is not None and mode not in SOFT:
            assert masks.grad is None
        elif masks is not None and masks.requires_grad and masks.numel():
            # A mask's gradient is a difference: the bound is relative to its terms, of which this is an estimate.
            terms = cotangent.double().abs() @ exact_features.detach().abs().flatten(2).amax(-1, keepdim=True)
            terms = terms / (area.detach() + EPS).unsqueeze(-1)
            assert within(masks.grad, exact_masks.grad, 2 * grad_bound * terms.unsqueeze(-1), masks.dtype), (seed, mode)
