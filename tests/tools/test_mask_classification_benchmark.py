"""The benchmark of what follows a mask decoder: both ways give the same, whatever the size."""

import importlib.util
from pathlib import Path

import pytest
import torch

TOOL = Path(__file__).parents[2] / "tools" / "benchmarks" / "mask_classification.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("mask_classification_benchmark", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("size", [(64, 96), (75, 110)])
@pytest.mark.parametrize("what", ["semantic-masks", "semantic-scores", "panoptic", "instance"])
def test_both_ways_give_the_same(benchmark, what, size):
    row = benchmark.measure(what, benchmark.make_scene(size, 40, 30, segments=8), repeats=1)
    assert row.different_pixels == 0
    assert row.usual_s > 0
    assert row.ours_s > 0


def test_masks_cover_what_trained_ones_do(benchmark):
    scene = benchmark.make_scene((128, 160), 50, 20, segments=10)
    inside = (scene.mask_logits > 0).float().mean((1, 2))
    assert 0.05 < inside.mean() < 0.2, "about one in ten, as many as there are segments"
    assert (inside[4::5] < 0.02).all(), "some are empty"
    assert (scene.mask_logits > 0).any(0).float().mean() > 0.9, "every pixel is somebody's"
    sure = scene.mask_logits.sigmoid()
    assert ((sure < 0.05) | (sure > 0.9)).float().mean() > 0.8
    void = scene.scores.argmax(-1) == 20
    assert 0.5 < void.float().mean() < 0.95
    assert torch.isfinite(scene.scores).all()


def test_other_results_are_counted(benchmark):
    scene = benchmark.make_scene((64, 96), 20, 10, segments=5)
    other = benchmark.make_scene((64, 96), 20, 10, segments=5, seed=1)
    for usual, ours, difference in benchmark.CASES.values():
        assert difference(usual(scene), ours(other)) > 0
