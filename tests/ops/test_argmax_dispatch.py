"""The compiled upsample_argmax: the bits of torch's interpolate, or not used."""

import pytest
import torch
import torch.nn.functional as F

from mmseg_plugins.ops import _argmax_dispatch, _load, upsample_argmax

OPS = torch.ops.mmseg_plugins
LOADED = _load.STATUS["cpu"].loaded
needs_library = [
    pytest.mark.compiled,
    pytest.mark.skipif(not LOADED, reason=f"the compiled CPU ops are not loaded: {_load.STATUS['cpu'].reason}"),
]
SIZES = [((9, 11), (72, 88)), ((37, 53), (101, 211)), ((64, 64), (100, 90)), ((5, 3), (201, 77)), ((40, 40), (40, 100)),
         ((1, 2), (64, 70)), ((100, 30), (65, 67))]  # fmt: skip


def seeded(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("rows", [4, 21, 150])
@pytest.mark.parametrize("compiled", [pytest.param(True, marks=needs_library)])
def test_labels_scores_and_margins_are_those_of_interpolate_to_the_bit(sizes, rows, compiled):
    logits = seeded(2, rows, *sizes[0])
    enlarged = F.interpolate(logits, sizes[1], mode="bilinear", align_corners=False)
    labels, score, margin, probability = OPS.upsample_argmax(logits, sizes[1], [], None, 3.0, True, True, True, True)
    best = enlarged.topk(2, 1).values
    assert torch.equal(labels, enlarged.argmax(1))
    assert torch.equal(score, best[:, 0])
    assert torch.equal(margin, best[:, 0] - best[:, 1])
    assert torch.allclose(probability, (enlarged * 3).softmax(1).amax(1), atol=1e-6)


@pytest.mark.parametrize("softmax", ["rows", "classes"])
@pytest.mark.parametrize("order", ["sorted", "mixed", "gaps"])
def test_grouped_rows_equal_the_eager_version(softmax, order, monkeypatch):
    logits = seeded(2, 30, 13, 17)
    classes = torch.randint(0, 12, (30,), generator=torch.Generator().manual_seed(1))
    classes = {"sorted": classes.sort().values, "mixed": classes, "gaps": classes * 3}[order]
    options = {"row_class": classes, "softmax": softmax, "logit_scale": 4.0, "return_score": True,
               "return_margin": True, "return_probability": True}  # fmt: skip
    got = upsample_argmax(logits, (100, 120), **options)
    monkeypatch.setattr(_argmax_dispatch, "op_serves", lambda device: False)
    want = upsample_argmax(logits, (100, 120), **options)
    assert torch.equal(got.labels, want.labels)
    assert torch.equal(got.score, want.score)
    assert torch.equal(got.margin, want.margin)
    assert torch.allclose(got.probability, want.probability, atol=2e-6)


def runs_compiled(logits, size):
    classes = torch.arange(logits.shape[1])
    options = {"logit_scale": 1.0, "softmax_rows": True, "wanted": (False, False, False)}
    return _argmax_dispatch.upsample_argmax_compiled(logits, size, classes, **options) is not None


@pytest.mark.compiled
@pytest.mark.skipif(not LOADED, reason="the compiled CPU ops are not loaded")
def test_the_operator_is_used_where_its_bits_are_torchs():
    if not _argmax_dispatch.op_is_exact(torch.device("cpu")):
        pytest.skip("torch's kernels on this processor round in another order")
    assert runs_compiled(seeded(1, 8, 10, 10), (100, 100))


@pytest.mark.parametrize(
    ("logits", "size"),
    [
        (seeded(1, 3, 10, 10), (100, 100)),
        (seeded(1, 8, 10, 10), (40, 50)),
        (seeded(1, 8, 10, 10).double(), (100, 100)),
        (seeded(1, 8, 10, 10).half(), (100, 100)),
        (seeded(1, 8, 10, 10).contiguous(memory_format=torch.channels_last), (100, 100)),
        (seeded(1, 8, 1, 1), (100, 100)),
        (seeded(1, 8, 10, 10) / 0, (100, 100)),
        (torch.full((1, 8, 10, 10), float("nan")), (100, 100)),
    ],
    ids=["few rows", "small", "double", "half", "channels last", "one pixel", "infinite", "nan"],
)
def test_the_eager_version_is_used_elsewhere(logits, size):
    assert not runs_compiled(logits, size)


def test_an_operator_that_rounds_differently_is_not_used(monkeypatch):
    monkeypatch.setattr(_argmax_dispatch, "op_serves", lambda device: True)
    monkeypatch.setattr(_argmax_dispatch, "op_is_exact", lambda device: False)
    assert not runs_compiled(seeded(1, 8, 10, 10), (100, 100))


def test_exact_ties_go_to_the_lower_class():
    logits = seeded(1, 4, 9, 9).repeat(1, 3, 1, 1)
    assert upsample_argmax(logits, (90, 90)).max() <= 3
