"""mmseg-plugins segment --panoptic."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmseg_plugins.cli.main import main

WORDS = "red plain thing; blue striped thing; grass; sand"


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMSEG_PLUGINS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("a.png", "more/b.png"):
        Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)).save(folder / name)
    return folder


def segment(*arguments):
    return main(["segment", *map(str, arguments), "--device", "cpu", "--classes", WORDS])


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())


def test_segments_are_written_and_scored_in_cocos_form(photos, capsys):
    call = [photos, "--recursive", "--panoptic", "--stuff", "grass; sand", "--coco", "--out", "out.v1"]
    assert segment(*call) == 0
    captured = capsys.readouterr()
    assert "segments" in captured.out
    assert "wrote out.v1/panoptic.json" in captured.err
    kinds = ("json", "labels.png", "png", "segments.png")
    expected = [f"{stem}.{kind}" for stem in ("a", "more/b") for kind in kinds]
    assert names("out.v1") == sorted([*expected, "panoptic.json", "panoptic/a.png", "panoptic/more_b.png"])
    content = json.loads(Path("out.v1/a.json").read_text())
    assert content["is_thing"] == [True, True, False, False]
    assert sum(not entry["is_thing"] for entry in content["segments"]) <= 2
    assert content["settings"]["panoptic"] is True
    # What was found, scored against itself.
    scored = ["score", "panoptic", "--gt", "out.v1/panoptic.json", "--pred", "out.v1/panoptic.json", "--json"]
    assert main(scored) == 0
    assert json.loads(capsys.readouterr().out)["figures"]["All"]["pq"] == 1
    # The same command again finds all done and writes the same.
    before = Path("out.v1/panoptic.json").read_text()
    assert segment(*call) == 0
    assert "2 were done already" in capsys.readouterr().err
    assert Path("out.v1/panoptic.json").read_text() == before


def test_one_picture_with_a_model_of_masks(photos, capsys):
    pytest.importorskip("segment_anything", reason="SAM proposals need segment-anything")
    config = "sam-random_shapes-vit_shapesworld-64x64"
    assert segment(photos / "a.png", "--config", config, "--panoptic", "--out", "out.png", "--json") == 0
    content = json.loads(capsys.readouterr().out)
    assert content["segments_from"] == "masks"
    assert [Path(file).name for file in content["files"]][-1] == "out.segments.png"


def test_other_settings_are_told_apart(photos, capsys):
    assert segment(photos / "a.png", "--out", "out") == 0
    assert segment(photos / "a.png", "--out", "out", "--panoptic") == 1
    assert "made with other settings" in capsys.readouterr().err


def test_options_that_do_not_fit_are_named(photos, capsys):
    assert segment(photos / "a.png", "--coco") != 0
    assert "need --panoptic" in capsys.readouterr().err
    assert segment(photos / "a.png", "--panoptic", "--stuff", "sky") != 0
    assert "--stuff names no class: sky" in capsys.readouterr().err
