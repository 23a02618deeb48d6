"""Ground truth handed in as a prediction scores 100 in every format, and the checker accepts it."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmseg_plugins.cli.main import main
from mmseg_plugins.datasets.label_files import write_label_map
from mmseg_plugins.vocabulary.benchmarks import load_benchmark
from tests.evaluation.submissions import SIZE, coco_images, random_labels, save_label_maps

SAMPLES = Path("tests/fixtures/samples")
ADE = SAMPLES / "ade20k_sceneparsing"
PANOPTIC = SAMPLES / "coco_panoptic/annotations/panoptic_examples.json"
INSTANCES = SAMPLES / "coco_panoptic/instances_gt.json"


def call(capsys, *arguments):
    capsys.readouterr()
    code = main([str(argument) for argument in arguments])
    return code, capsys.readouterr()


def figures_of(capsys, *arguments):
    code, output = call(capsys, "score", *arguments, "--json")
    assert code == 0, output.err
    report = json.loads(output.out)
    return report.get("figures", report)


def accepted(capsys, kind, archive, *arguments):
    code, output = call(capsys, "submit", kind, "--check", archive, *arguments, "--json")
    assert json.loads(output.out)["problems"] == []
    return code == 0


def test_ade20k_ground_truth(tmp_path, capsys):
    archive = tmp_path / "ade.zip"
    images = ("--images", ADE / "images")
    code, output = call(
        capsys,
        "submit",
        "ade20k",
        "--pred",
        ADE / "annotations",
        "--encoding",
        "reduce_zero",
        "--out",
        archive,
        *images,
    )
    assert code == 0, output.err
    assert "3 images" in output.out
    assert accepted(capsys, "ade20k", archive, *images)
    scores = figures_of(capsys, "semantic", "--gt", ADE / "annotations", "--pred", archive, "--classes", "ade20k_150")
    assert scores["mIoU"] == scores["aAcc"] == 1.0


def test_cityscapes_ground_truth(tmp_path, capsys):
    ids = np.array(load_benchmark("cityscapes_19")["dataset_ids"])
    frames = ("bonn_000000_000019", "bonn_000001_000019")
    for seed, frame in enumerate(frames):
        labels = ids[random_labels(19, seed)].astype(np.uint8)
        labels[0] = 4  # a label id that is not evaluated
        write_label_map(tmp_path / f"gt/bonn/{frame}_gtFine_labelIds.png", labels, largest=255)
        path = tmp_path / f"images/bonn/{frame}_leftImg8bit.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", SIZE[::-1]).save(path)
    archive = tmp_path / "c.zip"
    images = ("--images", tmp_path / "images")
    arguments = ("--pred", tmp_path / "gt", "--encoding", "label_ids", "--out", archive)
    code, output = call(capsys, "submit", "cityscapes", *arguments, *images)
    assert code == 0, output.err
    assert accepted(capsys, "cityscapes", archive, *images)
    scores = figures_of(
        capsys, "semantic", "--gt", tmp_path / "gt", "--pred", archive, "--classes", "cityscapes",
        "--gt-encoding", "label_ids", "--pred-encoding", "label_ids",
    )  # fmt: skip
    assert scores["mIoU"] == 1.0


def test_coco_panoptic_ground_truth(tmp_path, capsys):
    arguments = ("--pred", PANOPTIC, "--out", tmp_path, "--testset", "val2017", "--alg", "truth")
    code, output = call(capsys, "submit", "coco-panoptic", *arguments, "--image-info", PANOPTIC)
    assert code == 0, output.err
    archive = tmp_path / "panoptic_val2017_truth_results.zip"
    assert accepted(capsys, "coco-panoptic", archive, "--image-info", PANOPTIC)
    scores = figures_of(capsys, "panoptic", "--gt", PANOPTIC, "--pred", archive)
    assert [scores[group]["pq"] for group in ("All", "Things", "Stuff")] == [1.0] * 3


def test_coco_instance_ground_truth(tmp_path, capsys):
    archive = tmp_path / "detections_val2017_truth_results.zip"
    arguments = ("--pred", INSTANCES, "--out", archive, "--image-info", INSTANCES)
    code, output = call(capsys, "submit", "coco-instance", *arguments)
    assert code == 0, output.err
    assert accepted(capsys, "coco-instance", archive, "--image-info", INSTANCES)
    scores = figures_of(capsys, "instance", "--gt", INSTANCES, "--pred", archive)
    assert scores["segm"]["AP"] == pytest.approx(1.0)


def test_coco_stuff_ground_truth(tmp_path, capsys):
    stems = ("000000000139", "000000000285")
    maps = {stem: random_labels(171, seed) for seed, stem in enumerate(stems)}
    save_label_maps(tmp_path / "pred", "coco_stuff_171", maps)
    info = coco_images(tmp_path, stems)
    arguments = (
        "--pred",
        tmp_path / "pred",
        "--out",
        tmp_path,
        "--testset",
        "val2017",
        "--alg",
        "t",
        "--image-info",
        info,
    )
    code, output = call(capsys, "submit", "coco-stuff", *arguments)
    assert code == 0, output.err
    archive = tmp_path / "stuff_val2017_t_results.zip"
    assert accepted(capsys, "coco-stuff", archive, "--image-info", info)
    for stem, labels in maps.items():
        write_label_map(tmp_path / f"gt/{stem}_labelTrainIds.png", labels, largest=255)
    scores = figures_of(
        capsys, "semantic", "--gt", tmp_path / "gt", "--pred", archive, "--classes", "coco_stuff_server"
    )  # fmt: skip
    assert scores["mIoU"] == 1.0


def test_invalid_archive_exits_non_zero_and_lists_the_problems(tmp_path, capsys):
    (tmp_path / "a.zip").write_bytes(b"no zip")
    code, output = call(capsys, "submit", "ade20k", "--check", tmp_path / "a.zip")
    assert code == 1
    assert "a.zip is not a zip archive that can be unpacked" in output.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ade20k", "--pred", "x"), "--out is needed"),
        (("ade20k", "--pred", "nowhere", "--out", "a.zip"), "the folder of predictions, nowhere, does not exist"),
        (("ade20k", "--pred", "x", "--out", "a.tar"), "--out must be a .zip file"),
        (("ade20k", "--pred", __file__, "--out", "a.zip"), "test_submit.py, is a file. Expected what tools/test.py"),
        (("ade20k", "--pred", "x", "--out", f"{__file__}/a.zip"), "test_submit.py: Not a directory. Choose another"),
        (("ade20k", "--check", "gone.zip"), "archive gone.zip does not exist"),
        (("ade20k", "--check", str(ADE)), "is a folder. Expected the .zip file"),
        (("coco-stuff", "--pred", "x", "--out", "r.zip"), "the server wants stuff_[testset]_[alg]_results.zip"),
        (("coco-panoptic", "--pred", "x", "--out", "d", "--encoding", "as_stored"), "--encoding is for label maps"),
        (("coco-panoptic", "--pred", "x", "--out", "d"), "x does not exist; expected saved panoptic predictions"),
        (("coco-stuff", "--pred", "x", "--out", "d", "--images", str(ADE / "images")), "--image-info"),
        (("coco-stuff", "--pred", "x", "--out", "d", "--alg", "a b"), "not a COCO submission name"),
    ],
)
def test_usage_errors_say_what_to_do(capsys, arguments, message):
    code, output = call(capsys, "submit", *arguments)
    assert code == 1
    assert message in output.err
    assert output.err.count("\n") == 1
