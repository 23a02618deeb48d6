import json
import os

import cv2
import numpy as np
import pytest
from PIL import Image

from mmseg_plugins.api.result import SegmentationResult, check_writable, output_paths, write_together


def make(num_classes=3, labels=None, **options):
    labels = np.array([[0, 0, 0, 2], [0, 2, 2, 2]], np.uint16) if labels is None else labels
    return SegmentationResult(
        labels=labels,
        class_names=tuple(f"class {k}" for k in range(num_classes)),
        palette=tuple((k % 256, k // 256, 9) for k in range(num_classes)),
        image=np.full((*labels.shape, 3), 50, np.uint8),
        **options,
    )


def test_legend_is_sorted_by_area_and_leaves_out_what_is_absent():
    legend = make(labels=np.array([[2, 2, 0, 2]])).legend
    assert [(area.name, area.pixels, area.share) for area in legend] == [("class 2", 3, 0.75), ("class 0", 1, 0.25)]
    assert str(legend) == "class 2   75.0 %\nclass 0   25.0 %"
    assert "75.0 %" in repr(legend)


def test_mask_of_a_class():
    result = make()
    assert np.array_equal(result.mask("class 2"), result.labels == 2)
    assert not result.mask("class 1").any()
    with pytest.raises(KeyError, match="Available: class 0"):
        result.mask("cat")


@pytest.mark.parametrize(("num_classes", "mode"), [(3, np.uint8), (255, np.uint8), (256, np.uint16), (2000, np.uint16)])
def test_label_map_file_keeps_every_index(tmp_path, num_classes, mode):
    labels = np.arange(num_classes).reshape(1, -1)
    files = make(num_classes, labels).save(tmp_path / "a.png")
    for stored in (np.asarray(Image.open(files["labels"])), cv2.imread(str(files["labels"]), cv2.IMREAD_UNCHANGED)):
        assert stored.dtype == mode
        assert np.array_equal(stored, labels)


def test_saved_files(tmp_path):
    result = make(about={"model": "test"}, background_index=1)
    files = result.save(tmp_path / "new" / "folder" / "a.png")
    assert {path.name for path in (tmp_path / "new" / "folder").iterdir()} == {"a.png", "a.labels.png", "a.json"}
    assert Image.open(files["overlay"]).size[0] >= 200
    content = json.loads(files["json"].read_text())
    assert content["model"] == "test"
    assert content["background_index"] == 1
    assert (content["height"], content["width"]) == (2, 4)
    assert content["labels_file"] == "a.labels.png"
    assert [(c["index"], c["pixels"]) for c in content["present"]] == [(0, 4), (2, 4)]


def test_names_of_outputs():
    assert {key: path.name for key, path in output_paths("dir/a").items()} == {
        "overlay": "a.png", "labels": "a.labels.png", "json": "a.json",
    }  # fmt: skip
    assert output_paths("a.jpg")["overlay"].name == "a.jpg"
    with pytest.raises(ValueError, match="must end in one of"):
        output_paths("a.txt")


def test_existing_files_are_kept_when_asked(tmp_path):
    (tmp_path / "a.json").write_text("mine")
    with pytest.raises(FileExistsError, match=r"a.json.*overwrite=True"):
        make().save(tmp_path / "a.png", overwrite=False)
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    make().save(tmp_path / "a.png")
    assert (tmp_path / "a.json").read_text() != "mine"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_nothing_is_left_when_writing_is_cut_short(tmp_path, error):
    def fails(place):
        place.write_text("half")
        raise error

    (tmp_path / "a").write_text("old")
    with pytest.raises(type(error)):
        write_together({tmp_path / "a": lambda place: place.write_text("new"), tmp_path / "b": fails})
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "old"


def test_names_of_files_that_are_no_text_are_kept(tmp_path):
    source = os.fsdecode(b"b\xff ") + "ü.png"
    paths = make(about={"source": source}).save(tmp_path / "a.png")
    assert json.loads(paths["json"].read_text(encoding="utf-8"))["source"] == source


def test_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(PermissionError, match="Choose another output folder"):
            check_writable(folder)
        with pytest.raises(PermissionError, match=f"cannot write to folder {folder}"):
            make().save(folder / "a.png")
    check_writable(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_overlay_has_the_size_of_the_picture_without_legend():
    result = make(background_index=0)
    plain = np.asarray(result.overlay(legend=False))
    assert plain.shape == result.image.shape
    assert (plain[0, 0] == 50).all(), "the background is left uncoloured"
    assert result.overlay().size[0] > 4


def test_parts_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="differ in size"):
        SegmentationResult(np.zeros((2, 2), np.uint8), ("a",), ((0, 0, 0),), np.zeros((2, 3, 3), np.uint8))
    with pytest.raises(ValueError, match="as many colours"):
        SegmentationResult(np.zeros((2, 2), np.uint8), ("a", "b"), ((0, 0, 0),), np.zeros((2, 2, 3), np.uint8))
