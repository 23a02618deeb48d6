import math
from collections import defaultdict

import numpy as np
import pytest
import torch

from mmseg_plugins.evaluation.boundary import boundary_pixels, boundary_width
from mmseg_plugins.evaluation.panoptic import PanopticCounts, Segments, panoptic_counts
from mmseg_plugins.evaluation.panoptic_summary import summarize_panoptic

CATEGORIES = 4


def slow_iou(prediction, p, label, g, ratio):
    """IoU of a pair by the protocol, from masks; with a ratio the smaller one of mask and boundary IoU."""
    a, b, void = label == g["id"], prediction == p["id"], label == 0
    both = (a & b).sum()
    iou = both / (b.sum() + g["area"] - both - (b & void).sum()) if both else 0.0
    if ratio is None or not both:
        return iou
    width = boundary_width(*label.shape, ratio)
    a, b = (mask & boundary_pixels(torch.from_numpy(mask), width=width).numpy() for mask in (a, b))
    both = (a & b).sum()
    return min(iou, both / (a.sum() + b.sum() - both - (b & void).sum()))


def slow_counts(prediction, predicted, label, labelled, ratio=None):
    """TP, FP, FN and the sum of IoU per category by the protocol, segment by segment."""
    counts = defaultdict(lambda: [0, 0, 0, 0.0])
    matched = set()
    for g in labelled:
        for p in predicted:
            if g["iscrowd"] or g["category_id"] != p["category_id"]:
                continue
            iou = slow_iou(prediction, p, label, g, ratio)
            if iou > 0.5:
                counts[g["category_id"]][0] += 1
                counts[g["category_id"]][3] += iou
                matched |= {("label", g["id"]), ("prediction", p["id"])}
    for g in labelled:
        counts[g["category_id"]][2] += not g["iscrowd"] and ("label", g["id"]) not in matched
    last_crowd = {g["category_id"]: g["id"] for g in labelled if g["iscrowd"]}
    for p in predicted:
        mask = prediction == p["id"]
        forgiving = {0, last_crowd.get(p["category_id"], 0)}
        forgiven = sum((mask & (label == value)).sum() for value in forgiving)
        counts[p["category_id"]][1] += ("prediction", p["id"]) not in matched and forgiven / mask.sum() <= 0.5
    return counts


def scene(seed, shape=(40, 52)):
    """Random ground truth with void, crowds and JSON areas that differ from the pixels, and a prediction near it."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 12, (shape[0] // 6 + 1, shape[1] // 6 + 1))
    names = np.concatenate(([0], generator.choice(np.arange(1, 1 << 24), 11, replace=False)))
    label = names[np.kron(coarse, np.ones((6, 6), np.int64))[: shape[0], : shape[1]]]
    labelled = [
        {
            "id": int(name),
            "category_id": int(generator.integers(CATEGORIES)),
            "iscrowd": int(generator.random() < 0.25),
            "area": int((label == name).sum() + generator.integers(0, 3)),
        }
        for name in generator.permutation(np.unique(label))
        if name
    ]
    prediction = np.roll(label, (generator.integers(-2, 3), generator.integers(-2, 3)), (0, 1))
    prediction[generator.random(shape) < 0.05] = 0
    category_of = {entry["id"]: entry["category_id"] for entry in labelled}
    predicted = [
        {"id": int(name), "category_id": category_of[name] if generator.random() < 0.8 else 0}
        for name in np.unique(prediction)
        if name
    ]
    return prediction, predicted, label, labelled


def counted(prediction, predicted, label, labelled, ratio=None):
    return panoptic_counts(
        torch.from_numpy(prediction),
        Segments.from_info(predicted),
        torch.from_numpy(label),
        Segments.from_info(labelled),
        CATEGORIES,
        boundary_ratio=ratio,
    )


@pytest.mark.parametrize("ratio", [None, 0.02, 0.1])
@pytest.mark.parametrize("seed", range(12))
def test_counts_equal_the_protocol_segment_by_segment(seed, ratio):
    example = scene(seed)
    counts = counted(*example, ratio)
    want = slow_counts(*example, ratio)
    for index in range(CATEGORIES):
        tp, fp, fn, iou = want[index]
        got = counts.true_positive[index], counts.false_positive[index], counts.false_negative[index]
        assert got == (tp, fp, fn)
        assert counts.iou_sum[index] == pytest.approx(iou, abs=1e-12)


def rectangle(shape, rows, columns, value, onto=None):
    ids = np.zeros(shape, np.int64) if onto is None else onto
    ids[rows, columns] = value
    return ids


def test_iou_of_exactly_one_half_does_not_match():
    label = rectangle((4, 9), slice(0, 2), slice(0, 6), 5)
    prediction = rectangle((4, 9), slice(0, 2), slice(2, 8), 9)
    label[0:2, 6:8] = 6  # not void, so that the prediction's union is 16 and the IoU 8 / 16
    labelled = [
        {"id": 5, "category_id": 0, "iscrowd": 0, "area": 12},
        {"id": 6, "category_id": 1, "iscrowd": 0, "area": 4},
    ]
    counts = counted(prediction, [{"id": 9, "category_id": 0}], label, labelled)
    assert counts.true_positive.tolist() == [0, 0, 0, 0]
    assert counts.false_negative.tolist() == [1, 1, 0, 0]


def test_only_the_last_listed_crowd_of_a_category_forgives():
    label = rectangle((4, 12), slice(0, 4), slice(0, 4), 5)
    rectangle((4, 12), slice(0, 4), slice(4, 8), 6, onto=label)
    label[:, 8:] = 7
    labelled = [
        {"id": 5, "category_id": 1, "iscrowd": 1, "area": 16},
        {"id": 6, "category_id": 1, "iscrowd": 1, "area": 16},
        {"id": 7, "category_id": 0, "iscrowd": 0, "area": 16},
    ]
    prediction = rectangle((4, 12), slice(0, 4), slice(0, 4), 1)
    rectangle((4, 12), slice(0, 4), slice(4, 8), 2, onto=prediction)
    predicted = [{"id": 1, "category_id": 1}, {"id": 2, "category_id": 1}]
    assert counted(prediction, predicted, label, labelled).false_positive.tolist() == [0, 1, 0, 0]


def test_half_on_void_is_not_yet_forgiven():
    label = rectangle((2, 4), slice(0, 2), slice(0, 2), 3)
    prediction = np.ones((2, 4), np.int64)
    labelled = [{"id": 3, "category_id": 0, "iscrowd": 0, "area": 4}]
    assert counted(prediction, [{"id": 1, "category_id": 1}], label, labelled).false_positive[1] == 1
    label[0, 1] = 0
    assert counted(prediction, [{"id": 1, "category_id": 1}], label, labelled).false_positive[1] == 0


def test_json_area_larger_than_the_pixels_lowers_the_iou():
    label = rectangle((4, 4), slice(0, 4), slice(0, 4), 3)
    segments = [{"id": 3, "category_id": 0, "iscrowd": 0, "area": 20}]
    counts = counted(label, [{"id": 3, "category_id": 0}], label, segments)
    assert counts.iou_sum[0] == pytest.approx(16 / 20)


def test_segment_without_pixels_in_the_ground_truth_is_a_false_negative():
    label = rectangle((4, 4), slice(0, 4), slice(0, 4), 3)
    labelled = [
        {"id": 3, "category_id": 0, "iscrowd": 0, "area": 16},
        {"id": 4, "category_id": 1, "iscrowd": 0, "area": 9},
    ]
    assert counted(label, [{"id": 3, "category_id": 0}], label, labelled).false_negative.tolist() == [0, 1, 0, 0]


def test_image_without_any_segment():
    empty = np.zeros((3, 3), np.int64)
    assert counted(empty, [], empty, []).counts.sum() == 0


def test_sums_do_not_depend_on_the_order_of_the_images():
    counts = [counted(*scene(seed)).counts for seed in range(30)]
    forward, backward = sum(counts), sum(counts[::-1])
    assert torch.equal(forward, backward)
    exact = PanopticCounts(forward).iou_sum
    parts = np.array([PanopticCounts(part).iou_sum for part in counts])
    for index in range(CATEGORIES):
        assert exact[index] == math.fsum(parts[:, index])


def test_summary_averages_over_the_categories_that_occur():
    counts = torch.zeros(4, 5, dtype=torch.int64)
    counts[0] = torch.tensor([2, 1, 1, 3 << (53 - 27 - 1), 0])  # two matches, IoU sum 1.5
    counts[2, 2] = 1
    summary = summarize_panoptic(PanopticCounts(counts), [True, True, False, False])
    assert vars(summary.averages["All"]) == pytest.approx({"pq": 0.25, "sq": 0.375, "rq": 1 / 3, "n": 2})
    assert vars(summary.averages["Things"]) == pytest.approx({"pq": 0.5, "sq": 0.75, "rq": 2 / 3, "n": 1})
    assert vars(summary.averages["Stuff"]) == pytest.approx({"pq": 0.0, "sq": 0.0, "rq": 0.0, "n": 1})
    nothing = summarize_panoptic(PanopticCounts.zeros(2), [True, False]).averages["All"]
    assert nothing.n == 0
    assert math.isnan(nothing.pq)
    with pytest.raises(ValueError, match="1 flags but there are 2"):
        summarize_panoptic(PanopticCounts.zeros(2), [True])


def test_ground_truth_as_prediction_is_perfect():
    _, _, label, labelled = scene(5)
    labelled = [{**entry, "area": int((label == entry["id"]).sum()), "iscrowd": 0} for entry in labelled]
    for ratio in (None, 0.02):
        summary = summarize_panoptic(counted(label, labelled, label, labelled, ratio), [True, True, False, False])
        assert summary.averages["All"].pq == 1


@pytest.mark.parametrize(
    ("predicted", "message"),
    [
        ([{"id": 1, "category_id": 0}], r"\[2\] are in the prediction map but not in its segments_info"),
        ([{"id": i, "category_id": 0} for i in (1, 2, 3)], r"\[3\] are listed but have no pixel"),
    ],
)
def test_map_and_list_must_hold_the_same_ids(predicted, message):
    ids = np.array([[1, 2]])
    with pytest.raises(ValueError, match=message):
        counted(ids, predicted, ids, [{"id": i, "category_id": 0, "area": 1, "iscrowd": 0} for i in (1, 2)])


def test_ground_truth_ids_must_be_listed():
    ids = np.array([[1, 2]])
    with pytest.raises(ValueError, match="ground truth map but not in its segments_info"):
        counted(ids, [{"id": i, "category_id": 0} for i in (1, 2)], ids, [{"id": 1, "category_id": 0, "area": 1}])


def test_sizes_must_agree():
    with pytest.raises(ValueError, match=r"\(1, 2\).*\(2, 1\)"):
        counted(np.array([[0, 0]]), [], np.array([[0], [0]]), [])


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ([{"id": 4, "category_id": 1}, {"id": 4, "category_id": 1}], r"\[4\] are listed twice"),
        ([{"id": 0, "category_id": 1}], "void id 0"),
        ([{"id": 4, "category_id": 9}], r"\[9\] are not among the 1 known"),
        ([{"id": 4, "category_id": 1, "area": 0}], "areas below 1"),
    ],
)
def test_malformed_segment_lists_are_refused(info, message):
    with pytest.raises(ValueError, match=message):
        Segments.from_info(info, {1: 0})


def test_segments_of_data_samples_are_read():
    segments = Segments.from_info([{"id": 7, "label": 3, "is_crowd": True, "area": None}])
    assert segments.categories.tolist() == [3]
    assert segments.is_crowd.tolist() == [True]
    assert segments.areas is None
