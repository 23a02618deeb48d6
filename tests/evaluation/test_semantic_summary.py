import math

import numpy as np
import pytest
import torch

from mmseg_plugins.evaluation.semantic import SemanticAreas, semantic_areas
from mmseg_plugins.evaluation.semantic_summary import summarize_semantic

# Four classes: right, half right, absent but predicted, in neither map.
AREAS = SemanticAreas(torch.tensor([[6, 2, 0, 0, 0], [6, 2, 2, 0, 0], [6, 4, 0, 0, 0]]))


def test_figures_follow_their_definitions():
    summary = summarize_semantic(AREAS, metrics=("mIoU", "mDice", "mFscore"))
    np.testing.assert_allclose(summary.per_class["IoU"], [1, 0.5, 0, np.nan])
    np.testing.assert_allclose(summary.per_class["Acc"], [1, 0.5, np.nan, np.nan])
    np.testing.assert_allclose(summary.per_class["Dice"], [1, 2 / 3, 0, np.nan])
    np.testing.assert_allclose(summary.per_class["Precision"], [1, 1, 0, np.nan])
    np.testing.assert_allclose(summary.per_class["Fscore"], [1, 2 / 3, np.nan, np.nan])
    assert summary.figures["aAcc"] == pytest.approx(8 / 10)
    assert summary.figures["fwIoU"] == pytest.approx(0.6 * 1 + 0.4 * 0.5)


@pytest.mark.parametrize(
    ("absent", "mean", "classes"), [("error", 1.5 / 3, 3), ("skip", 0.75, 2), ("zero", 1.5 / 4, 4)]
)
def test_mean_is_taken_over_the_classes_of_the_stated_rule(absent, mean, classes):
    summary = summarize_semantic(AREAS, absent=absent)
    assert summary.figures["mIoU"] == pytest.approx(mean)
    assert summary.classes_in_mean == classes
    assert f"mIoU over {classes} of 4 classes, absent={absent!r}" in summary.rule


def test_nan_to_num_averages_over_all_classes():
    summary = summarize_semantic(AREAS, nan_to_num=0)
    assert summary.figures["mIoU"] == pytest.approx(1.5 / 4)
    assert summary.figures["mAcc"] == pytest.approx(1.5 / 4)
    assert "4 of 4 classes" in summary.rule


def test_f_score_weighs_recall_by_beta():
    summary = summarize_semantic(AREAS, metrics=("mFscore",), beta=2)
    assert summary.per_class["Fscore"][1] == pytest.approx(5 * 0.5 / (4 * 1 + 0.5))


def test_harmonic_mean_of_seen_and_unseen():
    summary = summarize_semantic(AREAS, unseen=[1, 2])
    assert summary.figures["mIoU_seen"] == 1
    assert summary.figures["mIoU_unseen"] == pytest.approx(0.25)
    assert summary.figures["hIoU"] == pytest.approx(0.4)


def test_harmonic_mean_follows_the_rule_and_an_explicit_seen_group():
    summary = summarize_semantic(AREAS, unseen=[1, 2], seen=[0], absent="skip")
    assert summary.figures["mIoU_unseen"] == pytest.approx(0.5)


def test_harmonic_mean_of_two_zeros_is_zero():
    nothing = SemanticAreas(torch.tensor([[0, 0, 0], [1, 1, 0], [1, 1, 0]]))
    assert summarize_semantic(nothing, unseen=[1]).figures["hIoU"] == 0


def test_sceneparsing_score_is_the_mean_of_accuracy_and_iou_under_its_own_rule():
    assert summarize_semantic(AREAS, absent="zero").sceneparsing_score == pytest.approx((0.8 + 1.5 / 4) / 2)
    with pytest.raises(ValueError, match="absent='zero'"):
        _ = summarize_semantic(AREAS).sceneparsing_score


def test_nothing_labelled_gives_nan_and_no_warning():
    with np.errstate(all="raise"):
        summary = summarize_semantic(SemanticAreas.zeros(3), unseen=[0])
    assert math.isnan(summary.figures["mIoU"])
    assert math.isnan(summary.figures["aAcc"])
    assert summary.classes_in_mean == 0


def test_mean_is_over_the_data_set_and_not_over_images():
    easy = torch.zeros(10, 10, dtype=torch.long)
    hard = torch.zeros(2, 2, dtype=torch.long)
    wrong = torch.ones(2, 2, dtype=torch.long)
    whole = semantic_areas(easy, easy, 2) + semantic_areas(wrong, hard, 2)
    per_image = np.mean(
        [summarize_semantic(semantic_areas(p, g, 2)).figures["mIoU"] for p, g in ((easy, easy), (wrong, hard))]
    )
    assert summarize_semantic(whole).per_class["IoU"][0] == pytest.approx(100 / 104)
    assert abs(summarize_semantic(whole).figures["mIoU"] - per_image) > 0.01


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"absent": "drop"}, "expected one of: error, skip, zero"),
        ({"metrics": ("IoU",)}, "mIoU, mDice, mFscore"),
        ({"metrics": ()}, "mIoU, mDice, mFscore"),
        ({"absent": "skip", "nan_to_num": 0}, "Drop one"),
        ({"unseen": [4]}, r"\[4\] are outside 0..3"),
        ({"unseen": [1], "seen": [1, 2]}, r"\[1\] are listed both"),
    ],
)
def test_contradicting_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        summarize_semantic(AREAS, **options)
