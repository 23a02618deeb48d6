"""The parts of Mask-Adapter's benchmark, at a small size."""

import importlib.util
from pathlib import Path

import pytest
import torch

TOOL = Path(__file__).resolve().parents[2] / "tools/benchmarks/mask_adapter.py"


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("mask_adapter_benchmark", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_both_forms_give_the_same_embeddings_from_the_same_inputs(tool, tmp_path):
    outputs = {form: tmp_path / f"{form}.pt" for form in tool.FORMS}
    measured = {form: tool.measure(form, 3, 160, path) for form, path in outputs.items()}
    one, other = (torch.load(path, weights_only=True) for path in outputs.values())
    assert one.shape == (1, 3, tool.EMBED_DIM)
    assert (one - other).abs().max() < 1e-4
    assert one.abs().max() > 1e-2
    assert all(row["seconds"] > 0 and row["mebibytes"] >= 0 for row in measured.values())


def test_the_report_compares_and_sets_skipping_apart(tool):
    summary = {
        "published_seconds": 90.0, "ours_seconds": 60.0, "published_mebibytes": 4000.0, "ours_mebibytes": 200.0,
        "largest_difference": 1e-6, "left_seconds": 15.0,
    }  # fmt: skip
    text = tool.report(summary, 250, 60)
    assert "1.500 times as fast, 5.0 % of the memory" in text
    assert "60 of 250 masks left take 15.0 s, 4.0 times as fast" in text
