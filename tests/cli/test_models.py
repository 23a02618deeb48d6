import json

import pytest
import torch

from mmseg_plugins.cli.main import main
from mmseg_plugins.cli.models import _USUAL
from mmseg_plugins.towers.files import write_safetensors
from mmseg_plugins.towers.weights import find_record


@pytest.fixture(autouse=True)
def _own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("MMSEG_PLUGINS_HOME", str(tmp_path / "home"))


def listed(capsys, *arguments):
    code = main(["models", *arguments, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_the_usual_models_are_listed_with_size_and_licence(capsys):
    code, rows = listed(capsys)
    assert code == 0
    names = [row["name"] for row in rows]
    assert names[0] == "shapesworld"
    assert set(_USUAL) <= set(names)
    row = next(row for row in rows if row["name"] == "ViT-B-16/openai")
    assert row["parameters"] == 86192640 + 63428096 or row["parameters"] == pytest.approx(149.6e6, rel=1e-3)
    assert (row["licence"], row["cached"]) == ("MIT", None)
    assert row["page"].endswith("timm/vit_base_patch16_clip_224.openai")


def test_all_shows_every_tag_that_a_pattern_matches(capsys):
    code, rows = listed(capsys, "convnext_base_w", "--all")
    assert code == 0
    assert len(rows) >= 5
    assert all("convnext_base_w" in row["name"] for row in rows)


def test_what_is_on_this_machine_says_where(capsys, tmp_path):
    folder = tmp_path / "home" / "weights" / "RN50--openai"
    folder.mkdir(parents=True)
    path = write_safetensors(folder / "open_clip_model.safetensors", {"a": torch.zeros(5)})
    _, rows = listed(capsys, "RN50/openai", "--cached")
    assert [(row["name"], row["cached"], row["bytes"]) for row in rows] == [
        ("RN50/openai", str(path), path.stat().st_size)
    ]


def test_the_table_has_one_line_for_each(capsys):
    assert main(["models", "RN50"]) == 0
    captured = capsys.readouterr()
    lines = [line for line in captured.out.strip().splitlines() if "/openai" in line]
    assert len(lines) == 4  # RN50, RN50x4, RN50x16, RN50x64
    assert "~408 MB" in lines[0]
    assert "more: mmseg-plugins models --all" in captured.err


def test_nothing_found_is_a_failure(capsys):
    assert main(["models", "no such model"]) == 1
    assert "nothing matches 'no such model'" in capsys.readouterr().err


def test_usual_models_exist():
    for name in _USUAL:
        assert find_record(name).repo


@pytest.mark.parametrize("name", ["ViT-B-32", "RN50", "convnext_tiny"])
def test_listed_parameters_are_those_of_the_built_model(name):
    from mmseg_plugins.cli.models import _parameters
    from mmseg_plugins.towers.config import ClipConfig
    from mmseg_plugins.towers.model import Clip

    with torch.device("meta"):
        clip = Clip(ClipConfig.from_open_clip(name))
    counts = {
        part: sum(value.numel() for value in tower.parameters())
        for part, tower in (("image", clip.visual), ("text", clip.text))
    }
    assert _parameters()[name] == counts
