"""CorrCLIP's regions from true segments and from a tiny SAM, by configuration, through tools/test.py."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from mmseg_plugins.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
KEPT = {"model.dense.residual": True, "model.dense.mlp": True}  # the embedded model is lost without them


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    assert main(["shapes", "--out", str(folder), "--split", "validation", "--count", "12", "--seed", "3"]) == 0
    return folder


def run_test(name, scenes, work_dir, **options):
    """Run the tool in this process; returns its figures and the settings that it prints with them."""
    spec = importlib.util.spec_from_file_location("test_tool", ROOT / "tools/test.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    unique = f"{work_dir.name}_{name}"  # mmengine hands out visualizers and loggers by name
    settings = {
        "test_dataloader.dataset.data_root": scenes, "experiment_name": unique, "visualizer.name": unique, **options,
    }  # fmt: skip
    config = ROOT / f"configs/training_free/{name}_shapes-vit_shapesworld-64x64.py"
    given = [f"{key}={value}" for key, value in settings.items()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["test.py", str(config), "--work-dir", str(work_dir), "--cfg-options", *given])
        tool.main()
    [path] = work_dir.rglob("harness.json")
    result = json.loads(path.read_text(encoding="utf-8"))
    return result["figures"], result["settings"]


def test_true_segments_name_more_than_areas_of_one_colour(tmp_path, scenes):
    colours, _ = run_test("corrclip", scenes, tmp_path / "colours", **KEPT)
    truth, settings = run_test("corrclip-oracle", scenes, tmp_path / "truth", **KEPT)
    assert settings["regions"].startswith("OracleProposals(classes,")
    assert truth["mIoU"] > colours["mIoU"] + 3


def test_a_tiny_sam_finds_the_regions(tmp_path, scenes):
    pytest.importorskip("segment_anything", reason="needs the extra 'sam'")
    figures, settings = run_test("corrclip-sam-random", scenes, tmp_path / "sam", **KEPT)
    assert settings["regions"].startswith("SamProposals(segment_anything {'image_size': 64,")
    assert "overlaps smallest, unclaimed none" in settings["regions"]
    assert figures["mIoU"] > 5
