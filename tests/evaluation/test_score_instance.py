import json
from pathlib import Path

import pytest

pytest.importorskip("pycocotools", reason="instance AP is pycocotools' own")

from mmseg_plugins.cli.main import main

FIXTURES = Path(__file__).parents[1] / "fixtures"
COCO = FIXTURES / "samples" / "coco_panoptic"
TRUTH = COCO / "instances_gt.json"


def run(capsys, *arguments):
    code = main(["score", "instance", "--gt", str(TRUTH), *map(str, arguments), "--json"])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("classes", [(), ("--classes", "coco_panoptic")])
def test_figures_of_pycocotools_and_of_boundary_iou(classes, capsys):
    want = json.loads((FIXTURES / "metrics" / "coco_instance_sample.json").read_text())
    code, out, _ = run(capsys, "--pred", COCO / "instances_results.json", "--boundary", *classes)
    report = json.loads(out)
    assert code == 0
    for variant in ("segm", "boundary"):
        assert report["figures"][variant] == pytest.approx(want[variant], abs=1e-12)
    assert report["detections"] == want["n_results"]
    assert "4 of 80 categories" in report["statement"]


def test_images_without_detections_count_or_are_left_out(capsys, tmp_path):
    results = json.loads((COCO / "instances_results.json").read_text())
    one_image = [entry for entry in results if entry["image_id"] == results[0]["image_id"]]
    (tmp_path / "instances.json").write_text(json.dumps(one_image))
    counted = json.loads(run(capsys, "--pred", tmp_path)[1])
    left_out = json.loads(run(capsys, "--pred", tmp_path, "--missing", "ignore")[1])
    assert (counted["images"], left_out["images"]) == (2, 1)
    assert left_out["figures"]["segm"]["AR100"] > counted["figures"]["segm"]["AR100"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ([{"image_id": 1, "category_id": 1, "segmentation": {}, "score": 1}], "image 1, which the ground truth"),
        ([{"image_id": 142238, "category_id": 1, "score": 1}], "has no segmentation"),
        ({"annotations": []}, "expected a list of objects"),
    ],
)
def test_wrong_results_are_named_with_their_file(content, expected, capsys, tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(content))
    code, out, err = run(capsys, "--pred", path)
    assert code == 1
    assert out == ""
    assert "mine.json" in err
    assert expected in err


def test_class_list_of_another_benchmark_is_refused(capsys):
    code, _, err = run(capsys, "--pred", COCO / "instances_results.json", "--classes", "cityscapes")
    assert code == 1
    assert "not among the 8 classes of cityscapes" in err


def test_a_panoptic_json_is_no_instance_ground_truth(capsys):
    truth = COCO / "annotations" / "panoptic_examples.json"
    code = main(["score", "instance", "--gt", str(truth), "--pred", str(COCO / "instances_results.json")])
    assert code == 1
    assert "panoptic_examples.json: an entry of 'annotations' has no category_id, area" in capsys.readouterr().err
