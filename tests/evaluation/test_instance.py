import copy
import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pycocotools", reason="instance AP is pycocotools' own")

from mmseg_plugins.evaluation.boundary import boundary_width
from mmseg_plugins.evaluation.instance import FIGURES, evaluate_instances, mask_boundary
from mmseg_plugins.evaluation.rle import decode_mask, encode_mask
from tests.evaluation.test_boundary import blobs, eroded_boundary

SAMPLES = Path(__file__).parents[1] / "fixtures" / "samples" / "coco_panoptic"


@pytest.fixture(scope="module")
def ground_truth():
    return json.loads((SAMPLES / "instances_gt.json").read_text())


@pytest.fixture(scope="module")
def results():
    return json.loads((SAMPLES / "instances_results.json").read_text())


def as_results(ground_truth):
    return [
        {key: entry[key] for key in ("image_id", "category_id", "segmentation")} | {"score": 0.9}
        for entry in ground_truth["annotations"]
        if not entry["iscrowd"]
    ]


@pytest.mark.parametrize("boundary", [False, True])
def test_ground_truth_as_prediction_is_perfect(ground_truth, boundary):
    summary = evaluate_instances(ground_truth, as_results(ground_truth), boundary=boundary)
    assert summary.figures["AP"] == pytest.approx(1)
    assert summary.figures["AR100"] == pytest.approx(1)
    assert summary.figures["AP_large"] == -1
    assert all(value in (-1, pytest.approx(1)) for value in summary.per_category.values())


def test_figures_do_not_depend_on_the_numbering_of_annotations(ground_truth, results):
    want = evaluate_instances(ground_truth, results)
    shifted = copy.deepcopy(ground_truth)
    for number, annotation in enumerate(shifted["annotations"]):
        annotation["id"] = number  # the evaluator itself takes id 0 for unmatched
    assert evaluate_instances(shifted, results).figures == want.figures


def test_input_is_left_as_it_is_and_nothing_is_printed(ground_truth, results, capsys):
    before = copy.deepcopy((ground_truth, results))
    evaluate_instances(ground_truth, results, boundary=True)
    assert (ground_truth, results) == before
    assert capsys.readouterr().out == ""


def test_no_detections_score_zero(ground_truth):
    summary = evaluate_instances(ground_truth, [])
    assert list(summary.figures) == list(FIGURES)
    assert summary.figures["AP"] == 0
    assert summary.num_results == 0


def test_string_image_ids_and_category_zero_work():
    mask = np.zeros((20, 30), np.uint8)
    mask[3:12, 4:15] = 1
    entry = {"image_id": "ADE_val_1", "category_id": 0, "segmentation": encode_mask(mask)}
    ground_truth = {
        "images": [{"id": "ADE_val_1", "height": 20, "width": 30}, {"id": "ADE_val_2", "height": 5, "width": 5}],
        "annotations": [{**entry, "id": 1, "area": int(mask.sum()), "iscrowd": 0}],
        "categories": [{"id": 0}, {"id": 3}],
    }
    summary = evaluate_instances(ground_truth, [{**entry, "score": 0.5}])
    assert summary.figures["AP"] == pytest.approx(1)
    assert summary.per_category == {0: pytest.approx(1), 3: -1}


@pytest.mark.parametrize("seed", range(3))
def test_boundary_of_a_mask_is_the_published_one(seed):
    mask = blobs(seed, (60, 45), 3) == 1
    width = boundary_width(60, 45, 0.04)
    np.testing.assert_array_equal(mask_boundary(mask, dilation_ratio=0.04), eroded_boundary(mask, width))


def test_boundary_of_an_empty_mask_is_empty():
    assert mask_boundary(np.zeros((4, 5), np.uint8)).sum() == 0


def broken(results, **changes):
    changed = [dict(entry) for entry in results[:2]]
    changed[1] |= changes
    return changed


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_id": 7}, r"result 1 belongs to image 7, which the ground truth does not list"),
        ({"category_id": 500}, "result 1 has category_id 500"),
        ({"segmentation": {"size": [3, 3], "counts": "9"}}, r"mask of \(3, 3\) but its image is \(427, 640\)"),
        ({"segmentation": {"size": [427, 640], "counts": "9"}}, "result 1: runs cover 9 pixels"),
        ({"segmentation": [[1, 2, 3, 4, 5, 6]]}, "must be compressed RLE"),
    ],
)
def test_results_that_do_not_fit_are_named(ground_truth, results, changes, message):
    with pytest.raises(ValueError, match=message):
        evaluate_instances(ground_truth, broken(results, **changes))


def test_missing_score_and_repeated_annotation_ids_are_named(ground_truth, results):
    without = [{key: value for key, value in results[0].items() if key != "score"}]
    with pytest.raises(ValueError, match="result 0 has no score"):
        evaluate_instances(ground_truth, without)
    doubled = {**ground_truth, "annotations": ground_truth["annotations"] + ground_truth["annotations"][:1]}
    with pytest.raises(ValueError, match="not distinct"):
        evaluate_instances(doubled, results)


def test_sample_masks_decode_to_their_areas(ground_truth):
    annotation = ground_truth["annotations"][0]
    assert decode_mask(annotation["segmentation"]).sum() == annotation["area"]
