import importlib.util
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "benchmarks" / "metrics.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("metrics_benchmark", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("num_classes", [150, 847])
def test_both_metrics_give_one_table(benchmark, num_classes):
    row = benchmark.measure_update(num_classes, (96, 128), "cpu", repeats=3)
    assert row["largest_difference"] < 1e-3  # percentage points; mmseg sums in float32
    assert row["ours_ms"] > 0


def test_memory_of_an_evaluation_does_not_grow_with_the_images(benchmark):
    rows = benchmark.measure_memory(150, (64, 64), "cpu", images=16)
    assert len({row["ours_bytes"] for row in rows}) == 1
    assert rows[-1]["mmseg_bytes"] > rows[0]["mmseg_bytes"]
