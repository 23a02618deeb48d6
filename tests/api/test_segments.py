"""Segments of a result: what they are called, how they are drawn and written."""

import json

import numpy as np
import pytest
from PIL import Image

from mmseg_plugins.api.draw_segments import draw_segments
from mmseg_plugins.api.result import SegmentationResult
from mmseg_plugins.api.segments import ids_to_rgb, list_segments

NAMES, PALETTE = ("cat", "grass"), ((200, 0, 0), (0, 200, 0))
IDS = np.array([[1, 1, 3, 3], [1, 1, 3, 3], [2, 0, 3, 3]])
INFO = [
    {"id": 1, "category_id": 0, "isthing": True, "score": 0.75},
    {"id": 2, "category_id": 0, "isthing": True, "score": 0.5},
    {"id": 3, "category_id": 1, "isthing": False, "score": 1.0},
    {"id": 4, "category_id": 1, "isthing": False, "score": 1.0},
]


def make(ids=IDS, info=INFO, **options):
    return SegmentationResult(
        labels=(ids == 3).astype(np.uint8), class_names=NAMES, palette=PALETTE,
        image=np.full((*ids.shape, 3), 100, np.uint8), segment_ids=ids,
        segments=list_segments(ids, info, NAMES, PALETTE),
        is_thing=(True, False), **options,
    )  # fmt: skip


def test_segments_are_described_largest_first_and_empty_ones_left_out():
    one, other, last = list_segments(IDS, INFO, NAMES, PALETTE)
    assert (one.id, one.name, one.index, one.pixels, one.is_thing, one.box) == (3, "grass", 1, 6, False, (2, 0, 2, 3))
    assert (other.id, other.name, other.score, other.share) == (1, "cat", 0.75, 4 / 12)
    assert (last.id, last.box) == (2, (0, 2, 1, 1))
    assert one.colour == PALETTE[1]
    assert other.colour == PALETTE[0]
    assert last.colour != other.colour, "two cats differ"
    with pytest.raises(ValueError, match=r"not listed: \[3\]"):
        list_segments(IDS, INFO[:2], NAMES, PALETTE)


def test_a_result_says_what_it_holds():
    result = make()
    assert "3 segments" in repr(result)
    assert result.segment_mask(2).sum() == 1
    with pytest.raises(KeyError, match=r"no segment 9. There are: \[1, 2, 3\]"):
        result.segment_mask(9)
    content = json.loads(json.dumps(result.to_dict()))
    assert [entry["id"] for entry in content["segments"]] == [3, 1, 2]
    assert content["segments"][1] == {
        "id": 1, "index": 0, "name": "cat", "is_thing": True, "score": 0.75, "pixels": 4, "share": 4 / 12,
        "bbox": [0, 0, 2, 2], "color": [200, 0, 0],
    }  # fmt: skip
    with pytest.raises(ValueError, match="differ in size"):
        make(ids=IDS).__class__(**{**vars(make()), "segment_ids": IDS[:2]})
    with pytest.raises(ValueError, match="one flag for each of 2 classes"):
        SegmentationResult(**{**vars(make()), "is_thing": None})


def test_saved_ids_are_those_of_the_map(tmp_path):
    ids = IDS * 70_000  # more than 16 bits
    info = [entry | {"id": entry["id"] * 70_000} for entry in INFO]
    files = make(ids, info).save(tmp_path / "a.png")
    assert set(files) == {"overlay", "labels", "json", "segments"}
    stored = np.asarray(Image.open(files["segments"])).astype(np.int64)
    np.testing.assert_array_equal(stored @ np.array([1, 256, 65536]), ids)
    np.testing.assert_array_equal(stored, ids_to_rgb(ids))
    assert json.loads(files["json"].read_text())["segments_file"] == "a.segments.png"


def test_coco_files_are_read_by_the_panoptic_scorer(tmp_path):
    from mmseg_plugins.evaluation.panoptic_files import read_panoptic_json

    files = make().save_coco_panoptic(tmp_path / "result", image_id=7)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["7.png", "result", "result.json"]
    stored = read_panoptic_json(files["json"], None)
    np.testing.assert_array_equal(stored.read_ids(7), IDS)
    content = json.loads(files["json"].read_text())
    assert [(c["id"], c["name"], c["isthing"]) for c in content["categories"]] == [(0, "cat", 1), (1, "grass", 0)]
    assert content["annotations"][0]["segments_info"][2]["area"] == 6
    plain = SegmentationResult(labels=IDS % 2, class_names=NAMES, palette=PALETTE, image=np.zeros((3, 4, 3), np.uint8))
    with pytest.raises(ValueError, match="panoptic=True"):
        plain.save_coco_panoptic(tmp_path / "b")


@pytest.mark.parametrize("kind", ["array", "pil"])
def test_drawing_colours_outlines_and_names(kind):
    ids = np.zeros((60, 120), np.int32)
    ids[5:55, 5:115] = 1
    image = np.full((60, 120, 3), 100, np.uint8)
    segments = list_segments(ids, INFO, NAMES, PALETTE)
    given = image if kind == "array" else Image.fromarray(image)
    drawn = draw_segments(given, ids, segments, opacity=0.5)
    assert isinstance(drawn, type(given))
    drawn = np.asarray(drawn)
    assert (image == 100).all(), "the picture itself stays"
    assert (drawn[ids == 0] == 100).all()
    assert (drawn[5, 5:115] == 255).all(), "an outline"
    assert (drawn[8, 8] == (150, 50, 50)).all()
    named = (drawn[6:54, 6:114] != (150, 50, 50)).any(-1)
    assert named.any()
    plain = np.asarray(draw_segments(given, ids, segments, opacity=0.5, names=False, outlines=False))
    assert (plain[ids == 1] == (150, 50, 50)).all()


def test_a_name_that_does_not_fit_is_left_out():
    image, ids = np.full((60, 120, 3), 100, np.uint8), np.zeros((60, 120), np.int32)
    ids[20:30, 20:30] = 1
    segments = list_segments(ids, INFO, ("a rather long name", "grass"), PALETTE)
    drawn = draw_segments(image, ids, segments, opacity=1, outlines=False)
    assert (drawn[ids == 1] == PALETTE[0]).all()


def test_drawing_names_what_does_not_fit_and_takes_no_segments():
    image = np.zeros((3, 4, 3), np.uint8)
    assert (draw_segments(image, np.zeros((3, 4), np.int32), ()) == 0).all()
    with pytest.raises(ValueError, match="differ in size"):
        draw_segments(image, IDS[:2], ())
    with pytest.raises(ValueError, match="opacity"):
        draw_segments(image, IDS, (), opacity=2)


def test_overlays_show_segments_with_and_without_legend():
    result = make()
    assert result.overlay(legend=False).size == (4, 3)
    assert result.overlay().size[1] > 384, "enlarged, with a legend"
