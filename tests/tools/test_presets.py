"""The tools that compare presets: what they count, and what they print."""

import importlib.util
import json
from pathlib import Path

import pytest

from mmseg_plugins.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs/training_free"
WIDTH, LAYERS, PATCH, ROWS = 96, 4, 8, 38  # of the embedded model and its vocabulary
PATCHES = (64 // PATCH) ** 2
TOKENS = PATCHES + 1


def load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / f"tools/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def block_macs(qkv=3, attention=2, mlp=8):
    return (qkv + 1 + mlp) * TOKENS * WIDTH**2 + attention * TOKENS**2 * WIDTH


@pytest.mark.parametrize(
    ("name", "last"),
    [
        ("clip", block_macs()),
        ("maskclip-harness", block_macs(qkv=1, attention=0)),
        ("clearclip", block_macs(mlp=0)),
        ("sclip", block_macs(attention=4)),
    ],
)
def test_multiply_adds_are_those_of_the_formula(name, last):
    [path] = CONFIGS.glob(f"{name}_shapes-vit_*.py")
    found = load("preset_costs").cost(path, (64, 64))
    embed = PATCHES * 3 * PATCH**2 * WIDTH
    score = PATCHES * WIDTH * (WIDTH + ROWS)
    expected = embed + (LAYERS - 1) * block_macs() + last + score
    assert found["clip_gmacs"] * 1e9 == pytest.approx(expected, rel=1e-9)
    assert (found["input"], found["windows"], found["other_gmacs"], found["other_networks"]) == ((64, 64), 1, 0, [])


def test_windows_and_other_networks_are_counted():
    tool = load("preset_costs")
    one = tool.cost(CONFIGS / "proxyclip_shapes-vit_shapesworld-64x64.py", (64, 64))
    assert one["other_gmacs"] > 0.7 * one["clip_gmacs"]
    assert one["other_networks"] == [pytest.approx(0.5, abs=0.2)]
    sliding = tool.cost(CONFIGS / "sclip_vit-b16_context59.py", (500, 375))
    assert sliding["input"] == (336, 448)
    assert sliding["windows"] == 6
    assert "| 336 x 448 | 6 |" in tool.as_table({"sclip": sliding})


def test_table_grows_over_several_calls(tmp_path, monkeypatch, capsys):
    scenes, out = tmp_path / "scenes", tmp_path / "presets.json"
    assert main(["shapes", "--out", str(scenes), "--split", "validation", "--count", "4", "--seed", "5"]) == 0
    tool = load("compare_presets")
    config = CONFIGS / "sclip_shapes-vit_shapesworld-64x64.py"
    results = tool.add_results(tool.parse_args([str(config), "--out", str(out), "--data-root", str(scenes)]))
    row = results[config.stem]
    assert 20 < row["figures"]["mIoU"] <= 100
    assert row["settings"]["method"] == "sclip"
    kept = json.loads(out.read_text(encoding="utf-8")) | {"other": row}
    out.write_text(json.dumps(kept), encoding="utf-8")
    monkeypatch.setattr(tool, "measure", lambda *_: pytest.fail("ran"))
    again = tool.add_results(tool.parse_args(["--out", str(out), "--print-only"]))
    table = tool.as_table(again)
    assert table.count(f"| {row['figures']['mIoU']:.1f} |") == 2
    assert "dense rule qq+kk" in table
    assert "Machine: " in table
    with pytest.raises(RuntimeError, match="absent"):
        load("compare_presets").measure(Path("absent.py"), str(scenes))
