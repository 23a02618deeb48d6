"""The tools that measure what DenseCLIP's words cost and bring, at a fraction of their sizes."""

import importlib.util
from pathlib import Path

import pytest

from tests.methods.denseclip_models import build

BENCHMARKS = Path(__file__).resolve().parents[2] / "tools/benchmarks"


def load(name):
    spec = importlib.util.spec_from_file_location(f"{name}_benchmark", BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_both_networks_and_the_parts_are_measured(monkeypatch):
    tool = load("denseclip")
    asked = []
    monkeypatch.setattr(tool, "build", lambda name: asked.append(name) or build("resnet"))
    row = tool.compare("rn50", repeats=1, side=64, has_parts=True)
    assert all((tool.CONFIGS / name).is_file() for name in asked)
    assert row.added == pytest.approx(row.text_s / row.plain_s - 1)
    inner = [row.parts_s[name] for name in ("backbone", "context decoder", "neck", "head")]
    assert min(inner) > 0
    assert sum(inner) < row.parts_s["total"]
    assert 0 < row.parts_s["- its attention pool"] < row.parts_s["backbone"]
    assert "limit 12 %" in tool.as_text(row)


def test_table_has_a_row_for_each_variant_with_mean_and_spread(tmp_path):
    tool = load("denseclip_text")
    for variant, scores in {"text": (80.0, 79.0), "map": (70.0, 73.0)}.items():
        for seed, value in enumerate(scores):
            (tmp_path / f"{variant}_{seed}").mkdir()
            (tmp_path / f"{variant}_{seed}/miou.json").write_text(f'{{"mIoU": {value}}}')
    lines = tool.as_table(tool.read_scores(tmp_path)).splitlines()
    assert lines[0] == "| | seed 0 | seed 1 | mean | spread |"
    assert lines[2].endswith("| 70.0 | 73.0 | 71.5 | 3.0 |")
    assert lines[3].endswith("| 80.0 | 79.0 | 79.5 | 1.0 |")
