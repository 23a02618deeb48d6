"""The benchmark compares like with like: ours and the usual way agree on small shapes."""

import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "tools" / "benchmarks"


@pytest.fixture
def modules(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import mask_pool as benchmark
    import mask_pool_shapes as shapes

    yield benchmark, shapes
    for name in ("mask_pool", "mask_pool_shapes"):
        sys.modules.pop(name, None)


def small(shapes):
    return {
        "hard": shapes.hard(2, 5, 7, 16, 8),
        "hard same": shapes.hard(1, 5, 7, 8, 8),
        "sigmoid": shapes.sigmoid(4, 6, 8),
        "kmap mean": shapes.kmap(3, 2, 6, 8, "mean"),
        "kmap each": shapes.kmap(3, 2, 6, 8, "none"),
        "sam": shapes.sam(3, 64, 64, 8),
        "labels": shapes.labels(5, 6, 32),
        "argmax": shapes.label_map(6, (8, 8), (80, 80)),
        "mask argmax": shapes.classified_masks(4, 6, 8, 80),
    }


def test_every_variant_of_every_kind_agrees(modules):
    benchmark, shapes = modules
    device = torch.device("cpu")
    for name, make in small(shapes).items():
        work = make(device, torch.float32)
        functions = benchmark.variants(work, device, with_compile=False)
        assert set(work.baselines) < set(functions)
        work.same = True  # on shapes this small nothing is tied or left out
        benchmark.check(work, functions), name


def test_every_usual_way_with_leaves_has_gradients_where_it_is_timed_backwards(modules):
    benchmark, shapes = modules
    for make in small(shapes).values():
        work = make(torch.device("cpu"), torch.float32)
        functions = benchmark.variants(work, torch.device("cpu"), with_compile=False)
        for name, function in functions.items():
            if work.leaves and name != "bincount":
                grads = benchmark.with_backward(function, work.leaves)()
                assert grads[0] is not None


def test_a_wrong_result_stops_the_run(modules):
    benchmark, shapes = modules
    work = shapes.hard(1, 3, 4, 8, 8)(torch.device("cpu"), torch.float32)
    with pytest.raises(RuntimeError, match="spoilt"):
        benchmark.check(work, dict(work.baselines) | {"spoilt": lambda: work.ours("eager") + 1})


def test_a_row_has_ratios_memory_and_a_verdict(modules):
    benchmark, shapes = modules
    options = benchmark.parse(["--repeats", "3", "--budget", "0.1", "--backward"])
    shape = shapes.Shape("tiny", shapes.hard(1, 5, 7, 16, 8), cpu_target=1e9)
    timings = list(benchmark.measure_shape(shape, "float32", torch.device("cpu"), (1e9, 1e9), options))
    assert {timing.direction for timing in timings} == {"forward", "forward+backward"}
    ours = [timing for timing in timings if timing.variant == "eager"]
    assert all(timing.ratio > 0 for timing in ours)
    judged = [timing for timing in timings if timing.target is not None]
    assert all("MISSED" in benchmark.line_of(timing) for timing in judged)


def test_names_are_unique_and_targets_those_of_the_rows_that_have_any(modules):
    names = [shape.name for shape in modules[1].SHAPES]
    assert len(names) == len(set(names))
    assert sum(shape.cpu_target is not None for shape in modules[1].SHAPES) == 12
