import numpy as np
import pytest
import torch

from mmseg_plugins.evaluation.metrics.segment_accuracy_metric import SegmentAccuracyMetric

IDS = torch.tensor([[1, 1, 2, 2], [1, 1, 2, 3]])
INFO = [{"id": 1, "label": 0, "is_crowd": False}, {"id": 2, "label": 1}, {"id": 3, "label": 1, "is_crowd": True}]


def metric(**meta):
    made = SegmentAccuracyMetric()
    made.dataset_meta = {"classes": ("a", "b", "c"), **meta}
    return made


def sample(labels, ids=IDS, info=INFO):
    return {"pred_sem_seg": {"data": labels[None]}, "gt_panoptic_seg": {"data": ids[None], "segments_info": info}}


def test_a_segments_class_is_its_most_frequent_one_and_crowds_do_not_count():
    made = metric()
    right = torch.tensor([[0, 0, 1, 1], [0, 2, 2, 2]])
    wrong = torch.tensor([[0, 0, 2, 1], [0, 2, 2, 1]])
    made.process(None, [sample(right), sample(wrong)])
    figures = made.evaluate(2)
    assert figures["segments"] == 4
    assert figures["segment_accuracy"] == pytest.approx(75)
    assert figures["segment_accuracy_mean"] == pytest.approx((100 + 50) / 2)


def test_seen_and_unseen_apart():
    made = metric(seen=(True, False, True))
    made.process(None, [sample(torch.zeros(2, 4, dtype=torch.long))])
    figures = made.evaluate(1)
    assert (figures["segment_accuracy_seen"], figures["segment_accuracy_unseen"]) == (100, 0)


def test_no_segment_gives_no_number():
    made = metric()
    made.process(None, [sample(torch.zeros(2, 4, dtype=torch.long), info=[])])
    assert np.isnan(made.evaluate(1)["segment_accuracy"])


def test_says_what_is_missing():
    made = metric()
    with pytest.raises(ValueError, match="no gt_panoptic_seg"):
        made.count({"pred_sem_seg": {"data": IDS}})
    with pytest.raises(ValueError, match="differ in size"):
        made.count(sample(torch.zeros(2, 3, dtype=torch.long)))
