import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmseg_plugins.cli.main import main
from mmseg_plugins.evaluation.class_lists import load_class_list
from mmseg_plugins.evaluation.mask_results import STUFF_SERVER, stuff_server_classes
from mmseg_plugins.evaluation.rle import encode_mask
from mmseg_plugins.evaluation.semantic import semantic_areas
from mmseg_plugins.evaluation.semantic_summary import summarize_semantic
from tests.evaluation.scoring_files import label_maps, write_class_file, write_maps

FIXTURES = Path(__file__).parents[1] / "fixtures"
ADE = FIXTURES / "samples" / "ade20k_sceneparsing"


def score(capsys, *arguments):
    code = main(["score", "semantic", *map(str, arguments), "--json"])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return json.loads(captured.out)


def refused(capsys, *arguments):
    code = main(["score", "semantic", *map(str, arguments)])
    captured = capsys.readouterr()
    assert code == 1
    assert captured.out == ""
    return captured.err.splitlines()[-1]


@pytest.fixture
def ade():
    return "--gt", ADE / "annotations", "--pred", ADE / "predictions_perturbed", "--classes", "ade20k_150"


@pytest.fixture(scope="module")
def golden():
    return json.loads((FIXTURES / "metrics" / "ade20k_sample.json").read_text())


def test_figures_of_mmseg(ade, golden, capsys):
    report = score(capsys, *ade)
    want = golden["mmseg_IoUMetric"]
    for key, value in want["summary"].items():
        assert 100 * report["figures"][key] == pytest.approx(value, abs=5.1e-3)
    assert report["figures"]["mIoU"] == pytest.approx(want["mIoU_unrounded"], abs=1e-6)
    assert [row["union"] for row in report["per_class"]] == want["area_union"]
    assert report["absent"] == "error"
    assert report["classes_in_mean"] == 17
    assert report["images"] == 3
    assert "17 of 150" in report["statement"]


def test_figures_of_sceneparsing(ade, golden, capsys):
    figures = score(capsys, *ade, "--absent", "zero")["figures"]
    want = golden["sceneparsing"]
    assert figures["mIoU"] == pytest.approx(want["mean_iou"], abs=1e-12)
    assert figures["aAcc"] == pytest.approx(want["pixel_accuracy"], abs=1e-12)
    assert figures["sceneparsing_score"] == pytest.approx(want["final_score"], abs=1e-12)


def test_figures_of_detectron2(ade, golden, capsys):
    figures = score(capsys, *ade, "--absent", "skip", "--unanswered", "wall")["figures"]
    want = golden["detectron2_SemSegEvaluator"]
    for key, name in (("mIoU", "mIoU"), ("fwIoU", "fwIoU"), ("mAcc", "mACC"), ("aAcc", "pACC")):
        assert 100 * figures[key] == pytest.approx(want[name], abs=1e-9)


def test_figures_of_seen_and_unseen(ade, golden, capsys, tmp_path):
    want = golden["seen_unseen"]
    (tmp_path / "unseen.txt").write_text("\n".join(map(str, want["unseen"])))
    figures = score(capsys, *ade, "--unseen", tmp_path / "unseen.txt")["figures"]
    for key in ("mIoU_seen", "mIoU_unseen", "hIoU"):
        assert figures[key] == pytest.approx(want[key], abs=1e-6)


def test_847_classes_in_16_bit_files(capsys, tmp_path):
    arrays = np.load(FIXTURES / "metrics" / "many_classes_847.npz")
    want = json.loads((FIXTURES / "metrics" / "many_classes_847.json").read_text())
    write_maps(tmp_path / "gt", arrays["gt"], ".tif", np.uint16)
    write_maps(tmp_path / "pred", arrays["pred"], ".png", np.uint16)
    place = "--gt", tmp_path / "gt", "--pred", tmp_path / "pred", "--classes", "ade20k_847"
    figures = score(capsys, *place)["figures"]
    assert figures["mIoU"] == pytest.approx(want["mmseg_IoUMetric"]["mIoU_unrounded"], abs=1e-6)
    figures = score(capsys, *place, "--absent", "skip")["figures"]
    assert 100 * figures["mIoU"] == pytest.approx(want["detectron2_SemSegEvaluator"]["mIoU"], abs=1e-9)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("num_classes", [5, 300, 459, 847])
def test_ground_truth_as_prediction_scores_100_and_loses_no_label(num_classes, suffix, capsys, tmp_path):
    maps = label_maps(num_classes)
    ignore = 255 if num_classes < 256 else 65535
    labels = [np.where(np.arange(plane.size).reshape(plane.shape) % 17 == 0, ignore, plane) for plane in maps]
    depth = np.uint8 if num_classes < 256 else np.uint16
    write_maps(tmp_path / "gt", labels, ".png", depth)
    write_maps(tmp_path / "pred", maps, suffix, depth)
    classes = write_class_file(tmp_path / "classes.txt", num_classes)
    place = "--gt", tmp_path / "gt", "--pred", tmp_path / "pred", "--classes", classes, "--absent", "zero"
    report = score(capsys, *place, "--boundary")
    for figure in ("mIoU", "mAcc", "aAcc", "fwIoU", "mDice", "mBIoU", "sceneparsing_score"):
        assert report["figures"][figure] == 1
    assert all(row["labelled"] > 0 for row in report["per_class"])


@pytest.mark.parametrize(
    ("benchmark", "suffix", "stored"),
    [
        ("ade20k_150", ".png", lambda labels, ids: labels + 1),
        ("voc20", ".png", lambda labels, ids: labels + 1),
        ("voc21", ".png", lambda labels, ids: labels),
        ("context59", ".png", lambda labels, ids: labels + 1),
        ("context459", ".tif", lambda labels, ids: labels),
        ("coco_stuff10k", "_labelTrainIds.png", lambda labels, ids: labels + 1),
        ("coco_stuff164k", "_labelTrainIds.png", lambda labels, ids: labels),
        ("coco_object", "_instanceTrainIds.png", lambda labels, ids: labels),
        ("cityscapes", "_gtFine_labelTrainIds.png", lambda labels, ids: labels),
        ("cityscapes", "_gtFine_labelIds.png", lambda labels, ids: ids[labels]),
    ],
)
def test_each_benchmarks_own_encoding_is_the_default(benchmark, suffix, stored, capsys, tmp_path):
    classes = load_class_list(benchmark)
    maps = label_maps(classes.num_classes)
    files = [stored(labels, np.array(classes.category_ids)) for labels in maps]
    write_maps(tmp_path / "gt", files, suffix)
    write_maps(tmp_path / "pred", files)
    report = score(capsys, "--gt", tmp_path / "gt", "--pred", tmp_path / "pred", "--classes", benchmark)
    assert report["figures"]["mIoU"] == 1
    assert report["classes_in_mean"] == classes.num_classes


def test_suffixes_side_by_side_are_told_apart(capsys, tmp_path):
    maps = label_maps(81)
    write_maps(tmp_path / "gt", maps, "_instanceTrainIds.png")
    write_maps(tmp_path / "gt", [np.full_like(plane, 3) for plane in maps], "_labelTrainIds.png")
    write_maps(tmp_path / "gt", [np.full_like(plane, 90) for plane in maps])
    write_maps(tmp_path / "pred", maps)
    report = score(capsys, "--gt", tmp_path / "gt", "--pred", tmp_path / "pred", "--classes", "coco_object")
    assert report["figures"]["mIoU"] == 1


def test_plain_coco_stuff_names_need_an_encoding(capsys, tmp_path):
    write_maps(tmp_path / "gt", label_maps(11))
    place = "--gt", tmp_path / "gt", "--pred", tmp_path / "gt", "--classes", "coco_stuff"
    message = refused(capsys, *place)
    assert "--gt-encoding stuff_raw" in message
    assert "--gt-encoding as_stored" in message
    assert score(capsys, *place, "--gt-encoding", "stuff_raw")["figures"]["mIoU"] == 1


def test_shapesworld_label_maps_are_read_as_its_data_set_reads_them(capsys, tmp_path):
    classes = label_maps(38)
    write_maps(tmp_path / "gt", [plane + 1 for plane in classes])
    write_maps(tmp_path / "pred", classes)
    (tmp_path / "pred" / "manifest.json").write_text("{}")
    report = score(capsys, "--gt", tmp_path / "gt", "--pred", tmp_path / "pred", "--classes", "shapesworld_38")
    assert report["figures"]["mIoU"] == 1
    assert report["label_encoding"] == "reduce_zero"


def test_saved_predictions_of_another_number_of_classes_are_refused(capsys, tmp_path):
    write_maps(tmp_path / "gt", label_maps(5))
    write_maps(tmp_path / "pred" / "predictions", label_maps(5))
    (tmp_path / "pred" / "manifest.json").write_text('{"num_classes": 5, "benchmark": "toy"}')
    arguments = "--gt", tmp_path / "gt", "--pred", tmp_path / "pred", "--classes"
    message = refused(capsys, *arguments, write_class_file(tmp_path / "seven.txt", 7))
    assert "manifest.json says that the predictions have 5 classes" in message
    assert score(capsys, *arguments, write_class_file(tmp_path / "five.txt", 5))["figures"]["mIoU"] == 1


def test_detectron2_folders_are_known_by_their_names(capsys, tmp_path):
    folder = tmp_path / "annotations_detectron2" / "validation"
    write_maps(folder, label_maps(150))
    report = score(capsys, "--gt", folder, "--pred", folder, "--classes", "ade20k_150")
    assert report["label_encoding"] == "as_stored"
    assert report["figures"]["mIoU"] == 1


def test_our_exports_are_read_as_class_indices(capsys, tmp_path):
    maps = label_maps(150)
    write_maps(tmp_path / "gt", [labels + 1 for labels in maps])
    write_maps(tmp_path / "out" / "predictions", maps)
    (tmp_path / "out" / "manifest.json").write_text("{}")
    report = score(capsys, "--gt", tmp_path / "gt", "--pred", tmp_path / "out", "--classes", "ade20k_150")
    assert (report["label_encoding"], report["prediction_encoding"]) == ("reduce_zero", "as_stored")
    assert report["figures"]["mIoU"] == 1


def test_pas_20b_predictions_beyond_the_objects_are_background(capsys, tmp_path):
    stored = label_maps(21)
    predicted = [
        np.where(labels == 0, np.arange(labels.size).reshape(labels.shape) % 39 + 20, labels - 1) for labels in stored
    ]
    write_maps(tmp_path / "gt", stored)
    write_maps(tmp_path / "pred", predicted)
    report = score(capsys, "--gt", tmp_path / "gt", "--pred", tmp_path / "pred", "--classes", "voc20b")
    assert report["figures"]["mIoU"] == 1
    assert report["num_classes"] == 21


def test_cityscapes_server_names_and_nested_folders_match(capsys, tmp_path):
    maps = label_maps(19, count=2)
    write_maps(tmp_path / "gt" / "bonn", maps, "_gtFine_labelTrainIds.png", stem="bonn_000000_00001{}")
    ids = np.array(load_class_list("cityscapes").category_ids)
    write_maps(tmp_path / "pred", [ids[labels] for labels in maps], "_anything_v2.png", stem="bonn_000000_00001{}")
    place = "--gt", tmp_path / "gt", "--pred", tmp_path / "pred", "--classes", "cityscapes"
    assert score(capsys, *place, "--pred-encoding", "label_ids")["figures"]["mIoU"] == 1


def test_palette_images_are_read_by_index(capsys, tmp_path):
    for folder in ("gt", "pred"):
        (tmp_path / folder).mkdir()
        image = Image.fromarray(label_maps(21, 1)[0].astype(np.uint8), mode="P")
        image.putpalette(list(range(256)) * 3)
        image.save(tmp_path / folder / "a.png")
    place = "--gt", tmp_path / "gt", "--pred", tmp_path / "pred", "--classes", "voc21"
    assert score(capsys, *place)["figures"]["mIoU"] == 1


def test_zip_archives_and_image_lists(ade, capsys, tmp_path):
    with zipfile.ZipFile(tmp_path / "predictions.zip", "w") as archive:
        for path in sorted((ADE / "predictions_perturbed").glob("*.png")):
            archive.write(path, path.name)
    want = score(capsys, *ade)
    place = "--gt", ADE / "annotations", "--pred", tmp_path / "predictions.zip", "--classes", "ade20k_150"
    assert score(capsys, *place)["figures"] == want["figures"]
    (tmp_path / "list.txt").write_text("ADE_val_00000002\n")
    assert score(capsys, *place, "--list", tmp_path / "list.txt")["images"] == 1


def test_text_states_rule_images_and_encodings(ade, capsys):
    assert main(["score", "semantic", *map(str, ade), "--per-class"]) == 0
    captured = capsys.readouterr()
    assert "mIoU over 17 of 150 classes, absent='error'" in captured.out
    assert "images 3" in captured.out
    assert "47.10" in captured.out
    assert "windowpane" in captured.out
    assert "10681 counted pixels have no answer" in captured.out
    assert "3/3" in captured.err


@pytest.fixture
def small(tmp_path):
    maps = label_maps(5)
    labels = write_maps(tmp_path / "gt", maps)
    predictions = write_maps(tmp_path / "pred", maps)
    classes = write_class_file(tmp_path / "classes.txt", 5)
    arguments = ["--gt", tmp_path / "gt", "--pred", tmp_path / "pred", "--classes", classes]
    return maps, labels, predictions, arguments


def test_missing_predictions_are_refused_left_out_or_wrong(small, capsys):
    maps, _, predictions, arguments = small
    predictions[1].unlink()
    message = refused(capsys, *arguments)
    assert "1 images have no prediction" in message
    assert "image_1" in message
    assert "--missing" in message
    left_out = score(capsys, *arguments, "--missing", "ignore")
    assert left_out["figures"]["mIoU"] == 1
    assert left_out["images"] == 2
    wrong = score(capsys, *arguments, "--missing", "wrong")
    assert wrong["figures"]["aAcc"] == pytest.approx(2 / 3)
    assert wrong["images"] == 3
    assert "1 images without a prediction were counted as wrong." in wrong["notes"]
    areas = sum(
        (semantic_areas(torch.from_numpy(p), torch.from_numpy(g), 5) for p, g in zip(
            (maps[0], np.full_like(maps[1], 9), maps[2]), maps, strict=True)),
        start=semantic_areas(torch.zeros(0, 0).long(), torch.zeros(0, 0).long(), 5),
    )  # fmt: skip
    assert wrong["figures"]["mIoU"] == summarize_semantic(areas).figures["mIoU"]


def test_predictions_of_another_size_are_named(small, capsys):
    maps, labels, predictions, arguments = small
    Image.fromarray(maps[0][:10].astype(np.uint8)).save(predictions[0])
    message = refused(capsys, *arguments)
    assert str(predictions[0]) in message
    assert str(labels[0]) in message
    assert "10 x 48" in message
    assert "32 x 48" in message


def test_values_out_of_range_are_named(small, capsys):
    maps, labels, predictions, arguments = small
    Image.fromarray(np.where(maps[2] == 3, 77, maps[2]).astype(np.uint8)).save(predictions[2])
    message = refused(capsys, *arguments)
    assert str(predictions[2]) in message
    assert "77" in message
    Image.fromarray(np.where(maps[2] == 3, 99, maps[2]).astype(np.uint8)).save(labels[2])
    message = refused(capsys, *arguments)
    assert str(labels[2]) in message
    assert "99" in message


def test_a_class_list_that_is_too_short_is_noticed(small, capsys, tmp_path):
    _, labels, _, arguments = small
    message = refused(capsys, *arguments[:-1], write_class_file(tmp_path / "four.txt", 4))
    assert str(labels[0]) in message
    assert "neither one of the 4 classes" in message


def test_unreadable_images_are_named(small, capsys):
    _, labels, predictions, arguments = small
    whole = predictions[0].read_bytes()
    predictions[0].write_bytes(whole[: len(whole) // 2])
    assert str(predictions[0]) in refused(capsys, *arguments)
    predictions[0].write_bytes(b"not an image")
    assert str(predictions[0]) in refused(capsys, *arguments)
    predictions[0].write_bytes(whole)
    Image.new("RGB", (48, 32)).save(labels[1])
    message = refused(capsys, *arguments)
    assert str(labels[1]) in message
    assert "3 channels" in message


def test_absent_places_and_empty_folders_are_named(small, capsys, tmp_path):
    *_, arguments = small
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.zip").write_bytes(b"PK not really")
    for place, message in (
        ("nowhere", "does not exist"),
        ("empty", "no predictions"),
        ("broken.zip", "not a readable zip"),
    ):
        got = refused(capsys, *arguments[:2], "--pred", tmp_path / place, *arguments[4:])
        assert place in got
        assert message in got
    assert "--classes is needed" in refused(capsys, *arguments[:4])


def test_two_predictions_for_one_image_are_refused(small, capsys):
    maps, _, predictions, arguments = small
    write_maps(predictions[0].parent / "again", maps[:1])
    assert "have one name" in refused(capsys, *arguments)


def test_masks_of_the_stuff_server(capsys, tmp_path):
    stuff = load_class_list("coco_stuff_171")
    server = stuff_server_classes()
    assert server.num_classes == 92
    assert server.category_ids[0] == 92
    assert server.category_ids[-1] == 183
    labels = label_maps(171, count=2)
    write_maps(tmp_path / "gt", labels, "_labelTrainIds.png", stem="00000000004{}")
    entries = []
    for number, plane in enumerate(labels):
        categories = np.array(
            [183 if thing else i for i, thing in zip(stuff.category_ids, stuff.is_thing, strict=True)]
        )
        for category in np.unique(categories[plane]):
            mask = encode_mask(categories[plane] == category)
            entries.append({"image_id": 40 + number, "category_id": int(category), "segmentation": mask})
    results = tmp_path / "stuff_val2017_x_results.json"
    results.write_text(json.dumps(entries))
    with zipfile.ZipFile(tmp_path / "stuff.zip", "w") as archive:
        archive.write(results, results.name)
    for place in (results, tmp_path / "stuff.zip"):
        report = score(capsys, "--gt", tmp_path / "gt", "--pred", place, "--classes", STUFF_SERVER, "--absent", "skip")
        assert report["figures"]["mIoU"] == 1
        assert report["classes_in_mean"] == 92
    arguments = "--gt", tmp_path / "gt", "--pred", results, "--classes", STUFF_SERVER
    results.write_text(json.dumps(entries + entries[:1]))
    assert "overlaps" in refused(capsys, *arguments)
    results.write_text(json.dumps([{**entries[0], "category_id": 5}]))
    assert "category_id 5" in refused(capsys, *arguments)
    results.write_text(json.dumps(entries[:1]))
    assert "000000000041" in refused(capsys, *arguments)
