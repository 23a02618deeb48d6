import pytest
import torch

from mmseg_plugins.classify.ensemble import clip_scores, ensemble_scores, void_scores


def published(in_logits, out_logits, seen, alpha, beta, valid=None):
    """The mixture as products of powers, in float64, one mask at a time."""
    result = torch.zeros(in_logits.shape, dtype=torch.float64)
    for b, q in ((b, q) for b in range(len(in_logits)) for q in range(in_logits.shape[1])):
        inside = in_logits[b, q].double()
        p_in, p_out = inside[:-1].softmax(0), out_logits[b, q, : len(seen)].double().softmax(0)
        is_valid = 1.0 if valid is None else float(valid[b, q])
        gamma = torch.tensor([alpha if flag else beta for flag in seen], dtype=torch.float64) * is_valid
        mixed = p_in ** (1 - gamma) * p_out**gamma
        void = inside.softmax(0)[-1]
        result[b, q] = torch.cat([mixed / mixed.sum() * (1 - void), void[None]])
    return (result + 1e-8).log().float()


@pytest.mark.parametrize(("alpha", "beta"), [(0.4, 0.8), (0.0, 1.0), (1.0, 0.0), (0.7, 1.0)])
@pytest.mark.parametrize("columns", [4, 5])
def test_ensemble_is_the_published_mixture(alpha, beta, columns):
    torch.manual_seed(0)
    in_logits, out_logits = 5 * torch.randn(2, 6, 5), 5 * torch.randn(2, 6, columns)
    seen, valid = torch.tensor([True, False, False, True]), torch.rand(2, 6) > 0.3
    for mask in (None, valid):
        got = ensemble_scores(in_logits, out_logits, seen, alpha, beta, mask)
        torch.testing.assert_close(got, published(in_logits, out_logits, seen, alpha, beta, mask), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(got.exp().sum(-1), torch.ones(2, 6), rtol=0, atol=1e-6)


def test_one_class_leaves_it_what_void_leaves():
    in_logits, out_logits = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[-30.0]]])
    scores = ensemble_scores(in_logits, out_logits, torch.tensor([False]), 0.4, 0.8)
    torch.testing.assert_close(scores.exp(), in_logits.softmax(-1))
    torch.testing.assert_close(void_scores(in_logits, out_logits).exp(), in_logits.softmax(-1))
    torch.testing.assert_close(clip_scores(out_logits).exp(), torch.tensor([[[1.0, 0.0]]]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("alpha", "beta"), [(0.4, 0.8), (0.0, 1.0)])
def test_never_nan(dtype, alpha, beta):
    """Underflow, overflow, classes without rows and masks that CLIP cannot score."""
    big = torch.finfo(torch.float16).max
    in_logits = torch.tensor([[[big, -big, 0.0, 0.0], [0.0, float("-inf"), 0.0, big], [float("inf"), 0, 0, 0]]])
    out_logits = torch.tensor([[[-big, big, float("-inf")], [float("nan")] * 3, [0.0, float("inf"), 0.0]]])
    seen = torch.tensor([True, False, True])
    scores = ensemble_scores(in_logits.to(dtype), out_logits.to(dtype), seen, alpha, beta)
    assert scores.dtype == torch.float32
    assert scores.isfinite().all()
    assert void_scores(in_logits.to(dtype)[:, ::2], out_logits.to(dtype)[:, ::2]).isfinite().all()


def test_masks_that_are_not_valid_never_read_clip():
    torch.manual_seed(0)
    in_logits = torch.randn(1, 2, 4)
    nan = torch.full((1, 2, 3), float("nan"))
    seen, valid = torch.tensor([True, False, True]), torch.zeros(1, 2, dtype=torch.bool)
    got = ensemble_scores(in_logits, nan, seen, 0.4, 0.8, valid)
    torch.testing.assert_close(got.exp(), in_logits.softmax(-1))


def test_void_rule_takes_classes_from_clip_and_void_from_the_decoder():
    torch.manual_seed(0)
    in_logits, out_logits = torch.randn(1, 3, 4), torch.randn(1, 3, 4)
    got = void_scores(in_logits, out_logits).exp()
    void = in_logits.softmax(-1)[..., 3:]
    torch.testing.assert_close(got[..., 3:], void)
    torch.testing.assert_close(got[..., :3], out_logits[..., :3].softmax(-1) * (1 - void))


def test_clip_rule_has_no_void():
    logits = torch.randn(1, 3, 5)
    scores = clip_scores(logits, 4)
    torch.testing.assert_close(scores[..., :4].exp(), logits[..., :4].softmax(-1))
    assert (scores.argmax(-1) != 4).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [({"alpha": 1.1}, "alpha"), ({"seen": torch.tensor([True])}, "seen"), ({"out_logits": torch.zeros(1, 1, 6)}, "6")],
)
def test_misfits_are_named(change, message):
    arguments = {
        "in_logits": torch.zeros(1, 1, 4), "out_logits": torch.zeros(1, 1, 3), "alpha": 0.4, "beta": 0.8,
        "seen": torch.tensor([True, False, True]),
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        ensemble_scores(**(arguments | change))
