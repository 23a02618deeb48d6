import argparse
import importlib.util
from pathlib import Path

import pytest
import torch

TOOL = Path(__file__).parents[2] / "tools" / "benchmarks" / "dense.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("dense_benchmark", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def options(**changed):
    defaults = {"device": "cpu", "scenes": 32, "batch": 16, "repeats": 1, "classes": [5], "configs": None}
    return argparse.Namespace(**{**defaults, **changed})


def test_bfloat16_keeps_the_labels_of_generated_scenes(benchmark):
    rows = benchmark.measure_precision(options(configs=["maskclip_", "clip-dinoiser_", "clearclip_"]))
    assert {row.what.split(", ")[1].split("_")[0] for row in rows} >= {"maskclip", "clip-dinoiser", "clearclip"}
    for row in rows:
        assert row.agreement >= benchmark.LEAST_AGREEMENT, row.what


def test_windows_in_batches_give_the_labels_of_single_ones(benchmark):
    torch.manual_seed(0)
    image = torch.randn(1, 3, 128, 128)
    settings = {"mode": "slide", "crop_size": (64, 64), "stride": (32, 32)}
    maps = [
        benchmark.labels_of(
            benchmark._windowed("embedded ViT", "cpu", {**settings, "window_batch": number}), image, (128, 128)
        )
        for number in (1, 8)
    ]
    assert (maps[0] == maps[1]).double().mean() > 0.999


def test_every_config_of_generated_scenes_without_a_trained_head_is_measured(benchmark):
    stems = {path.stem.split("_")[0] for path in benchmark.shapes_configs()}
    assert {"maskclip", "clip-dinoiser", "sclip", "proxyclip", "trident"} <= stems
    assert not any("1xb32" in path.stem for path in benchmark.shapes_configs())


def test_medians_are_taken_of_variants_in_turn(benchmark):
    calls = []
    times = benchmark.in_turn([lambda: calls.append("a"), lambda: calls.append("b")], 2, "cpu")
    assert calls == ["a", "b"] * 3
    assert len(times) == 2
