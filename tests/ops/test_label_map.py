import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from mmseg_plugins.ops import _row_reduction, _upsample_argmax_eager
from mmseg_plugins.ops.label_map import UpsampledArgmax, upsample_argmax

sides = st.integers(1, 24)
seeds = st.integers(0, 2**32)
sizes = st.tuples(st.integers(1, 260), st.integers(1, 260))
FLOATS = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


def enlarge(logits, size):
    return F.interpolate(logits, size, mode="bilinear", align_corners=False)


def class_scores(full, row_class, num_classes):
    """Maximum over each class's rows, one class at a time; -inf for a class without rows."""
    rows = torch.tensor(row_class)
    return torch.stack(
        [
            full[:, rows == k].amax(1) if (rows == k).any() else torch.full_like(full[:, 0], -torch.inf)
            for k in range(num_classes)
        ],
        1,
    )


@settings(max_examples=150, deadline=None)
@given(sides, sides, sizes, st.integers(1, 40), st.integers(1, 2), st.sampled_from(FLOATS), st.booleans(), seeds)
def test_labels_equal_interpolate_then_argmax(h, w, size, classes, batch, dtype, channels_last, seed):
    logits = torch.randn(batch, classes, h, w, generator=torch.Generator().manual_seed(seed)).to(dtype)
    if channels_last:
        logits = logits.contiguous(memory_format=torch.channels_last)
    assert torch.equal(upsample_argmax(logits, size), enlarge(logits, size).argmax(1))


@settings(max_examples=60, deadline=None)
@given(sides, sides, sizes, st.sampled_from(FLOATS), seeds)
def test_labels_equal_when_ties_are_everywhere(h, w, size, dtype, seed):
    logits = torch.randint(0, 3, (1, 12, h, w), generator=torch.Generator().manual_seed(seed)).to(dtype)
    assert torch.equal(upsample_argmax(logits, size), enlarge(logits, size).argmax(1))


@pytest.mark.parametrize("size", [(700, 501), (16, 4000), (4000, 16), (500, 100), (500, 129), (64, 64), (65, 64)])
@pytest.mark.parametrize("classes", [5, 33, 130])
def test_labels_equal_over_several_bands_and_steps(size, classes):
    torch.manual_seed(classes)
    logits = torch.randn(1, classes, 120 if size[0] == 500 else 21, 16)
    assert torch.equal(upsample_argmax(logits, size), enlarge(logits, size).argmax(1))


@pytest.mark.parametrize("transform", [lambda x: x, lambda x: x * 1e-30, lambda x: x * 1e30, lambda x: x + 1e6])
def test_labels_equal_at_unusual_magnitudes(transform):
    torch.manual_seed(0)
    logits = transform(torch.randn(1, 30, 9, 11))
    assert torch.equal(upsample_argmax(logits, (150, 170)), enlarge(logits, (150, 170)).argmax(1))


def test_slow_way_gives_the_same_when_the_fast_one_rounds_differently(monkeypatch):
    torch.manual_seed(0)
    logits = torch.randn(1, 60, 12, 10)
    expected = enlarge(logits, (200, 190)).argmax(1)
    monkeypatch.setattr(_upsample_argmax_eager, "_mix", lambda values, *rest: values.new_zeros(1))
    monkeypatch.setattr(_row_reduction, "_ELEMENTS_PER_STEP", 200 * 190 * 7)
    assert torch.equal(upsample_argmax(logits, (200, 190)), expected)


def test_identical_rows_leave_the_lower_class():
    logits = torch.randn(1, 1, 6, 5).expand(1, 9, 6, 5)
    assert upsample_argmax(logits, (100, 90)).unique().tolist() == [0]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_non_finite_logits_behave_as_argmax(bad):
    torch.manual_seed(0)
    logits = torch.randn(2, 50, 5, 6)
    logits[0, 20, 1, 1] = bad
    logits[1, 3, 2, 2] = bad
    for size in ((130, 120), (40, 40)):
        assert torch.equal(upsample_argmax(logits, size), enlarge(logits, size).argmax(1))
    assert torch.equal(upsample_argmax(logits, (5, 6)), logits.argmax(1))


def test_equal_size_is_plain_argmax_and_leaves_the_logits_alone():
    logits = torch.randn(2, 7, 8, 9)
    before = logits.clone()
    assert torch.equal(upsample_argmax(logits, (8, 9)), logits.argmax(1))
    upsample_argmax(logits, (8, 9), row_class=[0, 0, 1, 1, 1, 2, 3], return_margin=True, return_probability=True)
    assert torch.equal(logits, before)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=40), sizes, st.sampled_from(["rows", "classes"]), seeds)
def test_groups_extras_and_probability_equal_the_plain_formulas(row_class, size, softmax, seed):
    logits = torch.randn(2, len(row_class), 7, 5, generator=torch.Generator().manual_seed(seed))
    full = enlarge(logits, size)
    scores = class_scores(full, row_class, 7)
    top = torch.cat([scores, torch.full_like(scores[:, :1], -torch.inf)], 1).topk(2, 1).values
    shares = torch.softmax(3.0 * (full if softmax == "rows" else scores), 1)
    if softmax == "rows":
        shares = class_scores(shares, row_class, 7)
    result = upsample_argmax(
        logits,
        size,
        row_class=row_class,
        num_classes=7,
        return_score=True,
        return_margin=True,
        return_probability=True,
        logit_scale=3.0,
        softmax=softmax,
    )
    # 1e-5: values from another order of rounding; labels where no two classes are that close.
    clear = top[:, 0] - top[:, 1] > 1e-5
    assert torch.equal(result.labels[clear], scores.argmax(1)[clear])
    torch.testing.assert_close(result.score, top[:, 0], rtol=0, atol=1e-5)
    torch.testing.assert_close(result.margin, top[:, 0] - top[:, 1], rtol=0, atol=1e-5)
    torch.testing.assert_close(result.probability, shares.amax(1), rtol=1e-4, atol=1e-5)


def test_rows_of_a_class_may_stand_apart_and_span_many_steps(monkeypatch):
    monkeypatch.setattr(_upsample_argmax_eager, "_ELEMENTS_PER_STEP", 1)
    monkeypatch.setattr(_row_reduction, "_ELEMENTS_PER_STEP", 1)
    torch.manual_seed(3)
    row_class = torch.randint(0, 4, (37,)).tolist()
    logits = torch.randn(1, 37, 6, 6)
    for size in ((150, 140), (5, 200)):
        expected = class_scores(enlarge(logits, size), row_class, 4)
        result = upsample_argmax(logits, size, row_class=row_class, return_margin=True)
        assert torch.equal(result.labels, expected.argmax(1))
        top = expected.topk(2, 1).values
        assert torch.equal(result.margin, top[:, 0] - top[:, 1])


def test_threshold_sends_unsure_pixels_to_the_background():
    torch.manual_seed(0)
    logits = torch.randn(1, 6, 8, 8)
    probability, labels = torch.softmax(4 * enlarge(logits, (100, 90)), 1).max(1)
    expected = torch.where(probability < 0.5, 2, labels)
    result = upsample_argmax(logits, (100, 90), logit_scale=4, threshold=0.5, background_index=2)
    clear = (probability - 0.5).abs() > 1e-5
    assert torch.equal(result[clear], expected[clear])
    assert (result == 2).any()


def test_single_class_wins_everywhere_with_infinite_margin():
    result = upsample_argmax(torch.randn(1, 1, 3, 3), (10, 10), return_margin=True, return_probability=True)
    assert isinstance(result, UpsampledArgmax)
    assert result.labels.eq(0).all()
    assert result.margin.isinf().all()
    assert torch.allclose(result.probability, torch.ones(()))


def test_probability_survives_rows_of_minus_infinity():
    logits = torch.randn(1, 6, 4, 4)
    logits[:, 2:] = float("-inf")
    result = upsample_argmax(logits, (4, 4), return_probability=True)
    assert torch.allclose(result.probability, torch.softmax(logits, 1).amax(1))


def test_gradients_are_not_needed_and_not_kept():
    logits = torch.randn(1, 8, 5, 5, requires_grad=True)
    assert not upsample_argmax(logits, (120, 130), return_score=True).score.requires_grad


@pytest.mark.parametrize(
    ("logits", "options", "message"),
    [
        (torch.zeros(1, 3, 4, 4, dtype=torch.int64), {}, "floating point"),
        (torch.zeros(3, 4, 4), {}, r"\(B, N, h, w\)"),
        (torch.zeros(1, 0, 4, 4), {}, "no empty axis"),
        (torch.zeros(1, 3, 4, 4), {"size": (0, 4)}, "at least one pixel"),
        (torch.zeros(1, 3, 4, 4), {"row_class": [0, 1]}, "one class for each of the 3 rows"),
        (torch.zeros(1, 3, 4, 4), {"row_class": [0, 1, 5], "num_classes": 3}, "between 0 and 2"),
        (torch.zeros(1, 3, 4, 4), {"row_class": [0, 1, -1]}, "between 0"),
        (torch.zeros(1, 3, 4, 4), {"threshold": 1.5}, "between 0 and 1"),
        (torch.zeros(1, 3, 4, 4), {"threshold": 0.5, "background_index": 3}, "one of the 3 classes"),
        (torch.zeros(1, 3, 4, 4), {"logit_scale": 0.0}, "positive"),
        (torch.zeros(1, 3, 4, 4), {"softmax": "names"}, '"rows" or "classes"'),
    ],
)
def test_wrong_arguments_are_named(logits, options, message):
    size = options.pop("size", (8, 8))
    with pytest.raises((ValueError, TypeError), match=message):
        upsample_argmax(logits, size, **options)
