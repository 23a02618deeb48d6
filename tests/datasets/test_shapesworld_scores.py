import numpy as np
import pytest

from mmseg_plugins.datasets.shapesworld import generate_scene, world
from mmseg_plugins.datasets.shapesworld.scores import (
    class_iou,
    confusion_table,
    control_scores,
    count_answers,
    held_out_both,
    pair_scores,
)


@pytest.fixture(scope="module")
def labels():
    return np.stack([generate_scene(11, index, split="test").labels() for index in range(150)])


def _tables(truth, predicted):
    """Tables of a model that answers ``predicted`` among the 38 classes."""
    logits = {
        str(k): np.moveaxis(np.eye(k, dtype=np.float32)[world.coarsen(predicted, k)], -1, 1) for k in (38, 14, 10)
    }
    tables = {}
    for part in (slice(0, 70), slice(70, None)):
        count_answers(tables, truth[part], {name: value[part] for name, value in logits.items()})
    return tables


def test_confusion_table_equals_a_loop():
    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(0, 6, 200), rng.integers(0, 5, 200)
    slow = np.zeros((5, 5), dtype=int)
    for t, p in zip(truth, predicted, strict=True):
        if t < 5:
            slow[t, p] += 1
    assert (confusion_table(truth, predicted, 5) == slow).all()
    for k in range(5):
        union = ((truth == k) | (predicted == k)) & (truth < 5)
        expected = 100 * ((truth == k) & (predicted == k)).sum() / union.sum()
        assert class_iou(slow)[k] == pytest.approx(expected)


def test_perfect_answers_score_one_hundred(labels):
    scores = pair_scores(_tables(labels, labels))
    errors = {"objects_called_ground", "grounds_called_object"}
    assert all(scores[name] == 0 for name in errors)
    assert all(value == 100 for name, value in scores.items() if name not in errors)
    assert set(held_out_both(_tables(labels, labels)).values()) == {100.0}


def test_guessing_the_texture_gives_the_colour_guessers_score(labels):
    rng = np.random.default_rng(0)
    guessed = np.where(labels < 32, labels // 4 * 4 + rng.integers(0, 4, labels.shape), labels)
    tables = _tables(labels, guessed.astype(np.uint8))
    scores, controls = pair_scores(tables), control_scores(tables)
    assert scores["pair_unseen_colour"] == 100
    assert scores["pair_unseen_texture"] == pytest.approx(25, abs=1)
    assert scores["miou_unseen_pairs"] == pytest.approx(controls["colour_guesser_unseen"], abs=0.5)
    assert controls["independent_texture_seen"] == pytest.approx(25, abs=2)


def test_constant_answer_gives_the_most_frequent_score(labels):
    frequent = np.bincount(labels.ravel(), minlength=38).argmax()
    tables = _tables(labels, np.full_like(labels, frequent))
    assert pair_scores(tables)["miou_38"] == pytest.approx(control_scores(tables)["most_frequent_38"])
