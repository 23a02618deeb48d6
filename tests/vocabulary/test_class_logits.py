import pytest
import torch
import torch.nn.functional as F

from mmseg_plugins.vocabulary.class_logits import class_logits, clip_scale


def slow_logits(embeddings, rows, row_class, num_classes, scale):
    """The best cosine of each class by loops."""
    out = torch.full((*embeddings.shape[:2], num_classes), float("-inf"))
    for b, q in ((b, q) for b in range(len(embeddings)) for q in range(embeddings.shape[1])):
        own = rows if rows.dim() == 2 else rows[b]
        for row, index in zip(own, row_class.tolist(), strict=True):
            unit = embeddings[b, q] / embeddings[b, q].norm().clamp(min=1e-12)
            out[b, q, index] = max(out[b, q, index], scale * float(unit @ row))
    return out


@pytest.mark.parametrize("row_class", [[0, 1, 2], [0, 0, 2, 1, 2], [0, 0], [2, 0]])
@pytest.mark.parametrize("per_image", [False, True])
def test_logits_are_the_best_row_of_each_class(row_class, per_image):
    torch.manual_seed(0)
    row_class = torch.tensor(row_class)
    num_classes = 3 if len(row_class) > 2 or 2 in row_class else 1
    rows = F.normalize(torch.randn(*([2] * per_image), len(row_class), 5), dim=-1)
    embeddings = 7 * torch.randn(2, 4, 5)
    got = class_logits(embeddings, rows, row_class, num_classes, 20.0)
    torch.testing.assert_close(got, slow_logits(embeddings, rows, row_class, num_classes, 20.0))


def test_a_synonym_never_lowers_a_score():
    torch.manual_seed(0)
    embeddings, rows = torch.randn(1, 6, 8), F.normalize(torch.randn(3, 8), dim=-1)
    one = class_logits(embeddings, rows[:2], torch.tensor([0, 1]), 2)
    more = class_logits(embeddings, rows, torch.tensor([0, 1, 1]), 2)
    torch.testing.assert_close(more[..., 0], one[..., 0])
    assert (more[..., 1] >= one[..., 1]).all()


def test_zero_embeddings_and_half_precision_stay_finite():
    rows = F.normalize(torch.randn(2, 4), dim=-1).half()
    logits = class_logits(torch.zeros(1, 1, 4, dtype=torch.float16), rows, torch.tensor([0, 1]), 2, 100.0)
    assert logits.dtype == torch.float32
    assert (logits == 0).all()


def test_scale_is_capped_as_clips_is():
    assert float(clip_scale(torch.tensor(10.0))) == 100.0
    assert float(clip_scale(torch.tensor(0.0))) == 1.0


@pytest.mark.parametrize(
    ("embeddings", "rows", "message"),
    [((1, 2, 4), (3, 5), "come from one CLIP"), ((1, 2, 5), (4, 5), "class of 3")],
)
def test_misfits_are_named(embeddings, rows, message):
    with pytest.raises(ValueError, match=message):
        class_logits(torch.zeros(embeddings), torch.zeros(rows), torch.tensor([0, 1, 2]), 3)
