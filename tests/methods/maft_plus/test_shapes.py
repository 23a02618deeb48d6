"""The measurement of ``tools/maft_plus_shapes.py``, shortened: one seed and fewer steps, scenes and test masks."""

import importlib.util
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[3] / "tools/maft_plus_shapes.py"


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("maft_plus_shapes_tool", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.training
def test_fine_tuning_helps_seen_classes_and_compensation_keeps_unseen_ones(tool):
    results = tool.run_seed(
        0, variant="panoptic", steps=120, train_count=500, test_count=250, rate=1e-3, with_mixed=False
    )
    assert results["compensated"]["seen"] > results["frozen"]["seen"]
    assert results["compensated"]["unseen"] > results["tuned"]["unseen"] + 2


def test_training_scenes_show_unseen_classes_without_their_masks(tool):
    with_all = tool.make_scenes("train", seed=0, count=12, seen_only=False)
    seen = tool.make_scenes("train", seed=0, count=12, seen_only=True)
    assert any(set(scene[1].labels.tolist()) & set(tool.UNSEEN) for scene in with_all)
    assert not any(set(scene[1].labels.tolist()) & set(tool.UNSEEN) for scene in seen)
    assert all((one[0] == other[0]).all() for one, other in zip(with_all, seen, strict=True))


def test_the_table_gives_differences_and_spread(tool):
    names = ("frozen", "tuned", "tuned_mixed", "compensated", "compensated_mixed")
    runs = {seed: {name: {"seen": 80.0 + 2 * seed, "unseen": 70.0} for name in names} for seed in (0, 1)}
    runs[1]["compensated"] = {"seen": 85.0, "unseen": 71.0}
    lines = tool.table(runs).splitlines()
    assert lines[0] == "| | seed 0 | seed 1 | mean ± sd |"
    assert "| seen: compensated - frozen | +0.0 | +3.0 | +1.5 ± 2.1 |" in lines
