"""Masks from ground truth and from a tiny SAM, named by the embedded model, through tools/test.py and the scorer."""

import importlib.util
import itertools
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from mmseg_plugins.cli.main import main

pytest.importorskip("segment_anything", reason="SAM proposals need segment-anything")

ROOT = Path(__file__).resolve().parents[2]
ORACLE, SAM = (ROOT / f"configs/sam/{kind}_shapes-vit_shapesworld-64x64.py" for kind in ("oracle", "sam-random"))
RUNS = itertools.count()
COUNT = 6


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    given = ["--split", "validation", "--count", str(COUNT), "--seed", "5", "--format", "both"]
    assert main(["shapes", "--out", str(folder), *given]) == 0
    return folder


def run_test(config, work_dir, scenes, capsys, *, out=None, **options):
    """Run the tool in this process; returns the figures that it printed."""
    name = f"sam{next(RUNS)}"  # mmengine hands out visualizers and loggers by name
    settings = {
        "test_dataloader.dataset.data_root": scenes, "experiment_name": name, "visualizer.name": name, **options,
    }  # fmt: skip
    call = [sys.argv[0], str(config), "--work-dir", str(work_dir), *(["--out", str(out)] if out else [])]
    spec = importlib.util.spec_from_file_location("test_tool", ROOT / "tools/test.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [*call, "--cfg-options", *(f"{key}={value}" for key, value in settings.items())])
        tool.main()
    printed = capsys.readouterr()
    line = re.findall(r"Iter\(test\).*", printed.out + printed.err)[-1]
    return {key: float(value) for key, value in re.findall(r"(\w+): (-?[\d.]+|nan)", line)}


def score(capsys, *arguments):
    capsys.readouterr()
    assert main(["score", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_oracle_masks_are_named_and_score_as_printed(tmp_path, scenes, capsys):
    printed = run_test(ORACLE, tmp_path, scenes, capsys, out=tmp_path / "pred")
    assert printed["segments"] > COUNT
    assert printed["segment_accuracy"] > 80, "the embedded model names true masks"
    assert printed["SQ"] == 100, "masks are the true ones"


def test_saved_panoptic_and_semantic_predictions_score_as_printed(tmp_path, scenes, capsys):
    # A model that knows the seen classes alone errs, so that figures are not all perfect.
    printed = run_test(ORACLE, tmp_path, scenes, capsys, out=tmp_path / "pred", **{"model.clip.model": "shapesworld"})
    assert printed["PQ"] < 100
    truth = scenes / "shapesworld_panoptic_val.json"
    scored = score(capsys, "panoptic", "--gt", truth, "--pred", tmp_path / "pred/panoptic.json")["figures"]
    for group, suffix in (("All", ""), ("Things", "_th"), ("Stuff", "_st")):
        for key in ("pq", "sq", "rq"):
            assert 100 * scored[group][key] == pytest.approx(printed[f"{key.upper()}{suffix}"], abs=1e-4)
    labels = ["--gt", scenes / "annotations/validation", "--pred", tmp_path / "pred", "--classes", "shapesworld_38"]
    scored = score(capsys, "semantic", *labels)["figures"]
    assert 100 * scored["mIoU"] == pytest.approx(printed["mIoU_unrounded"], abs=1e-4)


INSTANCES = f"""
_base_ = ["{ORACLE}"]
# One instance an image misses the others, so that the figures are not perfect.
model = dict(outputs=dict(semantic=False, panoptic=False, instance=True, top_k=1))
test_pipeline = [
    dict(type="LoadImageFromFile"), dict(type="LoadInstanceMasks"), dict(type="PackSegments"),
]
test_dataloader = dict(dataset=dict(type="ShapesWorldInstanceDataset", pipeline=test_pipeline))
test_evaluator = dict(_delete_=True, type="InstanceAPMetric")
"""


def test_saved_instances_score_as_printed(tmp_path, scenes, capsys):
    pytest.importorskip("pycocotools", reason="instance AP needs pycocotools")
    config = tmp_path / "instances.py"
    config.write_text(INSTANCES, encoding="utf-8")
    printed = run_test(config, tmp_path, scenes, capsys, out=tmp_path / "pred")
    assert 0 < printed["AP"] < 100
    truth = scenes / "shapesworld_instance_val.json"
    scored = score(capsys, "instance", "--gt", truth, "--pred", tmp_path / "pred/instances.json")["figures"]["segm"]
    for key in ("AP", "AP50", "AP75"):
        assert 100 * scored[key] == pytest.approx(printed[key], abs=1e-4)


def test_a_random_sam_runs_semantic_and_panoptic(tmp_path, scenes, capsys):
    printed = run_test(SAM, tmp_path, scenes, capsys)
    assert np.isfinite([printed[key] for key in ("PQ", "mIoU", "segment_accuracy")]).all()
    assert printed["segment_accuracy"] < 80
