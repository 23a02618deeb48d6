import pytest
import torch

from mmseg_plugins.prediction import segments_candidates
from mmseg_plugins.prediction.mask_bands import MaskGeometry
from mmseg_plugins.prediction.segments import semantic_labels
from mmseg_plugins.prediction.segments_candidates import best_of_candidates
from tests.prediction.test_segments import GEOMETRIES, slow_scores

CLASSES = 150


def peaked(queries=20, sure=6.0):
    """Masks that are sure of a class, with tails over all the others."""
    torch.manual_seed(0)
    scores = torch.randn(queries, CLASSES + 1)
    scores[range(queries), torch.randint(CLASSES, (queries,))] += sure
    return scores, torch.nn.functional.interpolate(8 * torch.randn(1, queries, 4, 6), (16, 24), mode="bicubic")[0]


@pytest.fixture
def always(monkeypatch):
    """Take the way of candidates whether it pays or not."""
    monkeypatch.setattr(segments_candidates, "_MOST_UNDECIDED", {"masks": 1.0, "scores": 1.0})


@pytest.mark.parametrize("order", ["masks", "scores"])
@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("sure", [6.0, 2.0, 0.0])
def test_result_is_that_of_all_classes(geometry, order, sure, always):
    scores, masks = peaked(sure=sure)
    expected = slow_scores(scores, masks, geometry, order)
    labels, winning = best_of_candidates(scores.softmax(-1)[:, :-1], masks, geometry, order)
    torch.testing.assert_close(winning, expected.amax(0), rtol=1e-5, atol=1e-5)
    assert torch.equal(labels, expected.argmax(0))


@pytest.mark.parametrize("order", ["masks", "scores"])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_a_class_without_a_large_weight_can_still_win(geometry, order, always):
    """It adds up over many masks, where every candidate has a single one."""
    queries = 60
    weights = torch.zeros(queries, CLASSES)
    weights[range(30), range(30)] = 0.3
    weights[30:, CLASSES - 1] = 0.2
    masks = torch.full((queries, 16, 24), -8.0)
    masks[:30, :, :12] = 8.0
    masks[30:, 8:] = 8.0
    labels, _ = best_of_candidates(weights, masks, geometry, order)
    scores = torch.cat([weights, 1 - weights.sum(1, keepdim=True)], 1).log()
    expected = slow_scores(scores, masks, geometry, order)
    assert torch.equal(labels, expected.argmax(0))
    assert (labels == CLASSES - 1).any()


def test_places_without_masks_and_ties_go_to_the_lower_class(always):
    weights = torch.zeros(2, CLASSES)
    weights[0, 7] = weights[1, 140] = 0.5
    masks = torch.full((2, 4, 4), -200.0)
    masks[:, :, 2:] = 9.0
    labels, winning = best_of_candidates(weights, masks, MaskGeometry(output_size=(4, 4)), "masks")
    assert (labels[:, :2] == 0).all()
    assert (winning[:, :2] == 0).all()
    assert (labels[:, 2:] == 7).all()


def test_it_is_taken_only_where_it_pays():
    scores, masks = peaked()
    geometry = GEOMETRIES[0]
    assert best_of_candidates(scores.softmax(-1)[:, :-1], masks, geometry, "masks") is not None
    flat = torch.full((20, CLASSES), 1 / CLASSES)
    assert best_of_candidates(flat, masks, geometry, "masks") is None
    few = scores[:, :30].softmax(-1)
    assert best_of_candidates(few, masks, geometry, "masks") is None
    assert best_of_candidates(scores[:, :-1] * float("nan"), masks, geometry, "masks") is None


@pytest.mark.parametrize("order", ["masks", "scores"])
def test_semantic_labels_take_it_in_half_precision_and_under_autocast(order, always):
    scores, masks = peaked()
    expected = slow_scores(scores, masks.half().float(), GEOMETRIES[0], order).argmax(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        labels, _ = semantic_labels(scores, masks.half(), GEOMETRIES[0], order=order)
    assert torch.equal(labels, expected)
