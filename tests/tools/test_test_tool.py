"""tools/test.py and mmseg's own tool on a small generated set, as a user calls them."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config

from mmseg_plugins.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs/maskclip/maskclip_shapes-vit_shapesworld-64x64.py"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2"}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    assert main(["shapes", "--out", str(folder), "--split", "validation", "--count", "6", "--seed", "5"]) == 0
    return folder


def run_tool(script, arguments, work_dir, scenes):
    options = [f"test_dataloader.dataset.data_root={scenes}", "default_hooks.logger.interval=1"]
    command = [sys.executable, script, *arguments, "--work-dir", work_dir, "--cfg-options", *options]
    done = subprocess.run(
        list(map(str, command)), cwd=work_dir, env=ENVIRONMENT, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def printed_miou(output):
    return float(re.findall(r"mIoU: ([\d.]+)", output)[-1])


def test_figures_predictions_and_overlays_are_written(tmp_path, scenes):
    output = run_tool(
        ROOT / "tools/test.py", [CONFIG, "--out", tmp_path / "pred", "--show-dir", tmp_path / "show"], tmp_path, scenes
    )
    assert 20 < printed_miou(output) <= 100
    assert len(list((tmp_path / "pred").rglob("*.png"))) == 6
    assert list((tmp_path / "show").rglob("*.png")) or list(tmp_path.rglob("vis_data/vis_image/*.png"))


def test_mmsegs_own_tool_takes_the_same_config_and_a_packaged_checkpoint(tmp_path, scenes):
    own = run_tool(ROOT / "tools/test.py", [CONFIG], tmp_path, scenes)
    script = Path(importlib.util.find_spec("mmseg").origin).parent / ".mim/tools/test.py"
    theirs = run_tool(script, [CONFIG, "asset://shapes_clip"], tmp_path, scenes)
    assert printed_miou(own) == printed_miou(theirs)


def test_test_time_augmentation_runs(tmp_path, scenes):
    assert 20 < printed_miou(run_tool(ROOT / "tools/test.py", [CONFIG, "--tta"], tmp_path, scenes)) <= 100


def test_two_processes_give_the_figures_of_one(tmp_path, scenes):
    one = run_tool(ROOT / "tools/test.py", [CONFIG], tmp_path, scenes)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1"]
    command += ["--nproc_per_node=2", ROOT / "tools/test.py", CONFIG, "--launcher", "pytorch"]
    command += ["--work-dir", tmp_path / "two", "--cfg-options", f"test_dataloader.dataset.data_root={scenes}"]
    environment = {**ENVIRONMENT, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        list(map(str, command)), cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert printed_miou(done.stdout + done.stderr) == printed_miou(one)


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*/*.py")), ids=lambda path: path.stem)
def test_every_config_builds_its_model_settings(path):
    if path.parent.name == "_base_":
        pytest.skip("a base, not a config of its own")
    config = Config.fromfile(path)
    assert config.custom_imports.imports == ["mmseg_plugins.register"]
    assert config.model.type
    if "test_dataloader" in config:  # a config that only trains has none
        assert json.loads(json.dumps(config.test_evaluator, default=str))


def test_inferencer_and_init_model_keep_the_vocabulary(scenes):
    from mmseg.apis import inference_model, init_model

    model = init_model(str(CONFIG), "asset://shapes_clip", device="cpu")
    assert "grass" in model.dataset_meta["classes"]
    image = sorted((scenes / "images/validation").glob("*.png"))[0]
    result = inference_model(model, str(image))
    assert result.pred_sem_seg.data.shape == (1, 64, 64)
    model.set_vocabulary("grass; sand")
    assert int(np.asarray(inference_model(model, str(image)).pred_sem_seg.data).max()) <= 1


@pytest.mark.parametrize(
    "name", ["clip_dinoiser/clip-dinoiser_vit-b16_context59-448x448", "fcclip/fcclip_convnext-l_voc20-800x1333"]
)
def test_views_take_their_ratios_from_the_scale_that_is_tested_with(name):
    spec = importlib.util.spec_from_file_location("test_tool", ROOT / "tools/test.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    config = Config.fromfile(ROOT / f"configs/{name}.py")
    (resize,) = [step for step in config.test_dataloader.dataset.pipeline if step.type == "Resize"]
    tool._enable_tta(config)
    step = config.test_dataloader.dataset.pipeline[1]
    assert (step.type, tuple(step.scale)) == ("MultiScaleFlip", tuple(resize.scale))
    assert step.resize.get("backend") == resize.get("backend")
