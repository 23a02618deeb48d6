import json

import numpy as np
import pytest
from PIL import Image

from mmseg_plugins.cli.main import main
from mmseg_plugins.datasets.shapesworld import GENERATOR_VERSION, SceneOptions, generate_scene, world
from mmseg_plugins.datasets.shapesworld.class_files import (
    ASSET_FOLDER,
    SEEN_NAME,
    benchmark_name,
    class_file,
    seen_class_file,
)
from mmseg_plugins.datasets.shapesworld.coco import instance_annotations, panoptic_segments, run_lengths
from mmseg_plugins.datasets.shapesworld.writer import MANIFEST, SetOptions, read_manifest, write_set


def _files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_ade_layout_holds_the_generated_scenes(tmp_path):
    options = SetOptions(split="validation", count=3, seed=4, granularity=14)
    assert write_set(tmp_path, options) == 3
    for index in range(3):
        scene = generate_scene(4, index, split="validation")
        name = f"validation/shapes_val_{index + 1:08d}.png"
        assert (np.array(Image.open(tmp_path / "images" / name)) == scene.image).all()
        labels = np.array(Image.open(tmp_path / "annotations" / name))
        assert labels.dtype == np.uint8
        assert (labels == scene.labels(14) + 1).all()
    assert len(_files(tmp_path)) == 7
    manifest = read_manifest(tmp_path)
    assert manifest["generator_version"] == GENERATOR_VERSION
    assert manifest["splits"]["validation"]["seed"] == 4
    assert manifest["splits"]["validation"]["complete"] is True


def test_seen_only_leaves_unseen_classes_unlabelled(tmp_path):
    write_set(tmp_path, SetOptions(split="train", count=30, formats=("ade", "coco"), seen_only=True))
    unseen = [label + 1 for label in world.held_out_classes(38)]
    hidden = 0
    for path in sorted((tmp_path / "annotations" / "training").iterdir()):
        full, seen = (
            np.array(Image.open(path)),
            np.array(Image.open(tmp_path / "annotations_seen/training" / path.name)),
        )
        hidden += np.isin(full, unseen).sum()
        assert (seen == np.where(np.isin(full, unseen), 0, full)).all()
        panoptic = np.array(Image.open(tmp_path / "shapesworld_panoptic_seen_train" / path.name))
        assert ((panoptic == 0).all(axis=2) == (seen == 0)).all()
    assert hidden > 0
    for kind in ("panoptic", "instance"):
        content = json.loads((tmp_path / f"shapesworld_{kind}_seen_train.json").read_text())
        rows = [row for item in content["annotations"] for row in item.get("segments_info", [item])]
        assert rows
        assert not {row["category_id"] for row in rows} & set(unseen)


@pytest.mark.parametrize("granularity", [38, 14, 10])
def test_panoptic_segments_match_the_label_map(granularity):
    scene = generate_scene(0, 5, options=SceneOptions(size=(96, 96)))
    encoded, infos = panoptic_segments(scene, granularity)
    ids = encoded.astype(np.int64) @ np.array([1, 256, 65536])
    labels = scene.labels(granularity)
    assert sorted(np.unique(ids)) == sorted(info["id"] for info in infos)
    things = [info for info in infos if info["category_id"] <= granularity - 6]
    assert len(things) == sum(item.visible > 0 for item in scene.objects)
    for info in infos:
        mask = ids == info["id"]
        assert set(labels[mask]) == {info["category_id"] - 1}
        assert info["area"] == mask.sum()
        rows, columns = np.nonzero(mask)
        assert info["bbox"] == [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]


def test_instances_are_the_visible_objects():
    scene = generate_scene(0, 2, options=SceneOptions(size=(64, 80), objects=(8, 8)))
    annotations = instance_annotations(scene, 38)
    masks = [_decode(annotation["segmentation"]) for annotation in annotations]
    assert (sum(mask.astype(int) for mask in masks) == (scene.instance > 0)).all()
    for annotation, mask in zip(annotations, masks, strict=True):
        assert set(scene.labels(38)[mask]) == {annotation["category_id"] - 1}
        assert annotation["area"] == mask.sum()


def _decode(segmentation):
    values = np.concatenate([np.full(n, i % 2, dtype=bool) for i, n in enumerate(segmentation["counts"])])
    height, width = segmentation["size"]
    return values.reshape(width, height).T


def test_run_lengths_are_those_of_pycocotools():
    mask_api = pytest.importorskip("pycocotools.mask", reason="needs pycocotools")
    rng = np.random.default_rng(0)
    for mask in (rng.random((7, 5)) < 0.5, np.ones((3, 4), bool), np.zeros((3, 4), bool)):
        ours = run_lengths(mask)
        assert (mask_api.decode(mask_api.frPyObjects(ours, *mask.shape)) == mask).all()


def test_writing_again_goes_on_and_grows(tmp_path):
    write_set(tmp_path, SetOptions(split="test", count=4))
    complete = _files(tmp_path)
    (tmp_path / "images/test/shapes_test_00000003.png").unlink()
    assert write_set(tmp_path, SetOptions(split="test", count=4)) == 1
    assert _files(tmp_path) == complete
    assert write_set(tmp_path, SetOptions(split="test", count=6)) == 2
    assert write_set(tmp_path, SetOptions(split="test", count=6, formats=("coco",))) == 6
    assert read_manifest(tmp_path)["splits"]["test"]["formats"] == ["ade", "coco"]


def test_other_settings_are_refused_then_overwritten(tmp_path):
    write_set(tmp_path, SetOptions(split="test", count=4))
    before = _files(tmp_path)
    with pytest.raises(ValueError, match=r"other settings \(seed, count 4\).*--overwrite"):
        write_set(tmp_path, SetOptions(split="test", count=2, seed=1))
    assert _files(tmp_path) == before
    write_set(tmp_path, SetOptions(split="test", count=2, seed=1), overwrite=True)
    assert sorted(path.name for path in (tmp_path / "annotations/test").iterdir()) == [
        "shapes_test_00000001.png",
        "shapes_test_00000002.png",
    ]


def test_interruption_leaves_whole_files_only(tmp_path):
    def stop(done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_set(tmp_path, SetOptions(split="test", count=4), progress=stop)
    assert read_manifest(tmp_path)["splits"]["test"]["complete"] is False
    assert not [name for name in _files(tmp_path) if name.endswith(".tmp")]
    assert write_set(tmp_path, SetOptions(split="test", count=4)) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "val", "count": 1}, "train, validation, test"),
        ({"split": "test", "count": 0}, "at least 1 scene"),
        ({"split": "test", "count": 1, "formats": ("voc",)}, "among ade, coco"),
        ({"split": "test", "count": 1, "seen_only": True, "granularity": 14}, "needs the 38 classes"),
        ({"split": "test", "count": 1, "granularity": 32}, "granularity must be one of"),
    ],
)
def test_bad_set_options_say_what_is_expected(options, message):
    with pytest.raises(ValueError, match=message):
        SetOptions(**options)


def test_a_folder_without_a_set_names_the_remedy(tmp_path):
    with pytest.raises(FileNotFoundError, match="mmseg-plugins shapes --out"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("granularity", [38, 14, 10])
def test_class_files_are_up_to_date(granularity):
    # Write them with mmseg_plugins.datasets.shapesworld.class_files.write_class_files().
    stored = json.loads((ASSET_FOLDER / f"{benchmark_name(granularity)}.json").read_text())
    assert stored == class_file(granularity)
    assert len({tuple(colour) for colour in stored["palette"]}) == granularity
    assert sum(stored["held_out"]) == (8 if granularity == 38 else 0)


def test_command_line_writes_a_set(tmp_path, capsys):
    arguments = ["shapes", "--out", str(tmp_path / "set"), "--split", "test", "--count", "2", "--size", "32x48"]
    assert main([*arguments, "--format", "both"]) == 0
    assert "test: 2 scenes" in capsys.readouterr().out
    assert Image.open(tmp_path / "set/images/test/shapes_test_00000001.png").size == (48, 32)
    assert main([*arguments, "--seed", "1"]) == 1
    assert "--overwrite" in capsys.readouterr().err


def test_command_line_writes_images_alone(tmp_path):
    out = tmp_path / "pictures"
    assert main(["shapes", "--out", str(out), "--split", "test", "--count", "2", "--format", "images"]) == 0
    assert {name.split("/")[0] for name in _files(out)} == {"images", MANIFEST}


def test_bad_size_is_a_usage_error(tmp_path, capsys):
    with pytest.raises(SystemExit) as error:
        main(["shapes", "--out", str(tmp_path), "--size", "wide"])
    assert error.value.code == 2
    assert "HEIGHTxWIDTH" in capsys.readouterr().err


def test_class_file_of_the_seen_classes_holds_them_in_their_order():
    stored, whole = json.loads((ASSET_FOLDER / f"{SEEN_NAME}.json").read_text()), class_file(38)
    assert stored == seen_class_file()
    assert stored["classes"] == [name for name, seen in zip(whole["classes"], whole["seen"], strict=True) if seen]
    assert (stored["count"], sum(stored["isthing"])) == (30, 24)
