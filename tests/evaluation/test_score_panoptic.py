import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmseg_plugins.cli.main import main
from mmseg_plugins.datasets.segment_files import id_to_rgb
from tests.evaluation.scoring_files import CATEGORIES, panoptic_example, write_panoptic

FIXTURES = Path(__file__).parents[1] / "fixtures"
COCO = FIXTURES / "samples" / "coco_panoptic"
TRUTH = COCO / "annotations" / "panoptic_examples.json"


def score(capsys, *arguments):
    code = main(["score", "panoptic", *map(str, arguments), "--json"])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return json.loads(captured.out)


def refused(capsys, *arguments):
    code = main(["score", "panoptic", *map(str, arguments)])
    captured = capsys.readouterr()
    assert code == 1
    return captured.err.splitlines()[-1]


@pytest.mark.parametrize("classes", [(), ("--classes", "coco_panoptic"), ("--classes", "coco_panoptic_133")])
def test_figures_of_the_published_evaluators(classes, capsys):
    want = json.loads((FIXTURES / "metrics" / "coco_panoptic_sample.json").read_text())
    report = score(capsys, "--gt", TRUTH, "--pred", COCO / "predictions_perturbed.json", *classes, "--boundary")
    for group in ("All", "Things", "Stuff"):
        assert report["figures"][group] == pytest.approx(want["panopticapi"][group], abs=1e-12)
        assert report["figures"][f"Boundary {group}"] == pytest.approx(want["boundary_iou_api"][group], abs=1e-12)
    rows = {str(row["category_id"]): row for row in report["per_class"]}
    for category, counts in want["counts"].items():
        assert {key: rows[category][key] for key in counts} == pytest.approx(counts, abs=1e-9)
    assert "13 of 133 categories" in report["statement"]


def test_ground_truth_as_prediction_scores_100_from_json_folder_and_zip(capsys, tmp_path):
    with zipfile.ZipFile(tmp_path / "panoptic_val2017_x_results.zip", "w") as archive:
        archive.write(TRUTH, "panoptic_val2017_x_results.json")
        for path in TRUTH.with_suffix("").glob("*.png"):
            archive.write(path, f"panoptic_val2017_x_results/{path.name}")
    for place in (TRUTH, TRUTH.parent, tmp_path / "panoptic_val2017_x_results.zip"):
        report = score(capsys, "--gt", TRUTH.parent, "--pred", place, "--classes", "coco_panoptic", "--boundary")
        assert report["figures"]["All"]["pq"] == 1
        assert report["figures"]["Boundary All"]["pq"] == 1


@pytest.fixture
def small(tmp_path):
    examples = [panoptic_example(name, seed) for seed, name in enumerate(("ADE_val_1", "ADE_val_2"))]
    truth = write_panoptic(tmp_path / "gt.json", examples, categories=CATEGORIES)
    results = write_panoptic(tmp_path / "results.json", examples)
    return examples, results, ["--gt", truth, "--pred", results]


def test_absent_places_are_named(small, capsys, tmp_path):
    *_, arguments = small
    assert "nowhere.json does not exist" in refused(capsys, "--gt", tmp_path / "nowhere.json", *arguments[2:])
    assert "nowhere.json does not exist" in refused(capsys, *arguments[:2], "--pred", tmp_path / "nowhere.json")
    assert "expected panoptic.json or a single JSON" in refused(capsys, *arguments[:2], "--pred", tmp_path)


def test_category_zero_and_text_image_ids_are_real(small, capsys):
    *_, arguments = small
    report = score(capsys, *arguments)
    assert report["figures"]["All"] == {"pq": 1, "sq": 1, "rq": 1, "n": 3}
    assert report["per_class"][0]["tp"] == 2


def test_missing_images_are_refused_left_out_or_wrong(small, capsys, tmp_path):
    examples, results, arguments = small
    write_panoptic(results, examples[:1])
    message = refused(capsys, *arguments)
    assert "ADE_val_2" in message
    assert "results.json" in message
    assert score(capsys, *arguments, "--missing", "ignore")["figures"]["All"]["pq"] == 1
    assert score(capsys, *arguments, "--missing", "wrong")["figures"]["All"]["rq"] == pytest.approx(2 / 3)


def test_image_without_segments_is_a_prediction(small, capsys):
    examples, results, arguments = small
    empty = np.zeros((30, 40), np.int64), {"image_id": "ADE_val_2", "file_name": "ADE_val_2.png", "segments_info": []}
    write_panoptic(results, [examples[0], empty])
    assert score(capsys, *arguments)["figures"]["All"]["rq"] == pytest.approx(2 / 3)


def change(path, edit):
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (lambda c: c["annotations"][0]["segments_info"][1].update(id=301), "ADE_val_1.png"),
        (lambda c: c["annotations"][0]["segments_info"].pop(), "not in its segments_info"),
        (lambda c: c["annotations"][1]["segments_info"].append({"id": 8, "category_id": 0}), "[8] are listed but"),
        (lambda c: c["annotations"][0]["segments_info"][0].update(category_id=77), "[77] are not among the 3"),
        (lambda c: c["annotations"][0].update(image_id="ADE_val_9"), "'ADE_val_9'"),
        (lambda c: c["annotations"][0].update(image_id="ADE_val_2"), "twice"),
        (lambda c: c["annotations"][0].update(file_name="gone.png"), "gone.png does not exist"),
        (lambda c: c["annotations"][0].pop("file_name"), "no file_name"),
        (lambda c: c["annotations"][0]["segments_info"][0].pop("category_id"), "has no 'category_id'"),
        (lambda c: c.pop("annotations"), "not a panoptic JSON"),
    ],
)
def test_wrong_ids_are_named_with_the_file(edit, expected, small, capsys):
    _, results, arguments = small
    change(results, edit)
    message = refused(capsys, *arguments)
    assert expected in message
    assert "results" in message or expected == "gone.png does not exist"


def test_other_sizes_and_unreadable_files_are_named(small, capsys):
    examples, results, arguments = small
    png = results.with_suffix("") / "ADE_val_1.png"
    Image.fromarray(id_to_rgb(examples[0][0][:20])).save(png)
    message = refused(capsys, *arguments)
    assert str(png) in message
    assert "(20, 40)" in message
    png.write_bytes(b"no")
    assert str(png) in refused(capsys, *arguments)
    Image.fromarray(examples[0][0].astype(np.uint8)).save(png)
    assert "RGB" in refused(capsys, *arguments)
    results.write_text("{")
    assert "results.json is not valid JSON" in refused(capsys, *arguments)


def test_class_lists_must_agree_with_the_ground_truth(small, capsys, tmp_path):
    *_, arguments = small
    short = tmp_path / "short.json"
    short.write_text(json.dumps({"classes": ["wall", "cat"], "dataset_ids": [0, 5], "isthing": [0, 1]}))
    message = refused(capsys, *arguments, "--classes", short)
    assert "[9] are not among the 2 classes" in message
    assert "gt.json" in message
    contrary = tmp_path / "contrary.json"
    contrary.write_text(json.dumps({"classes": ["a", "b", "c"], "dataset_ids": [0, 5, 9], "isthing": [1, 1, 1]}))
    assert "disagree about whether categories [0]" in refused(capsys, *arguments, "--classes", contrary)
    flagless = tmp_path / "flagless.json"
    flagless.write_text(json.dumps({"classes": ["a", "b", "c"], "dataset_ids": [0, 5, 9]}))
    assert score(capsys, *arguments, "--classes", flagless)["figures"]["Things"]["n"] == 2


def test_text_shows_all_things_and_stuff(small, capsys):
    *_, arguments = small
    assert main(["score", "panoptic", *map(str, arguments), "--per-class", "--boundary"]) == 0
    lines = capsys.readouterr().out
    for word in ("All", "Things", "Stuff", "Boundary All", "100.00", "3 of 3 categories"):
        assert word in lines
