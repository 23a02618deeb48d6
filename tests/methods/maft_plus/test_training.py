"""Training through mmengine's runner and the project's tool: going on, mixed precision, processes, accumulation."""

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from mmseg_plugins.cli.main import main as command_line
from mmseg_plugins.engine.cpu_amp import amp_wrapper_type
from mmseg_plugins.towers.files import read_tensors

ROOT = Path(__file__).resolve().parents[3]
CONFIG = ROOT / "configs/maft_plus/maftp_shapes-vit_1xb16-300_shapesworld-64x64.py"
PUBLISHED = ROOT / "configs/maft_plus/maftp_convnext-b_8xb1-60k_coco-stuff164k-800x1333.py"
SMALL = {
    "train_dataloader.batch_size": 2,
    "model.proposals.num_queries": 4,
    "model.proposals.decoder_layers": 1,
    "model.criterion.num_points": 32,
    "model.vocabulary.templates": ["a {}"],
    "log_processor.window_size": 1,
    "default_hooks.logger.interval": 1,
    "default_hooks.checkpoint.interval": 2,
}

LEARNING = {
    "clip.visual", "proposals.pixel_decoder", "proposals.predictor", "pyramid.stages", "pyramid.detail",
    "text_transfer.cross_atten", "void_embedding.weight",
}  # fmt: skip

pytestmark = pytest.mark.training


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    assert command_line(["shapes", "--out", str(folder), "--split", "train", "--count", "6", "--seed", "5"]) == 0
    return folder


def config(scenes, work_dir, iterations, **changes):
    settings = Config.fromfile(CONFIG)
    settings.merge_from_dict(
        {
            **SMALL,
            "work_dir": str(work_dir),
            "train_dataloader.dataset.data_root": str(scenes),
            "train_cfg.max_iters": iterations,
            "visualizer.name": f"visualizer_{time.time_ns()}",
            **changes,
        }
    )
    for name in ("val_cfg", "val_dataloader", "val_evaluator", "test_cfg", "test_dataloader", "test_evaluator"):
        settings[name] = None
    return settings


def trained(scenes, work_dir, iterations=2, **changes):
    runner = Runner.from_cfg(config(scenes, work_dir, iterations, **changes))
    runner.train()
    return runner


def moved_parts(before, after):
    """Leading parts of the names of what changed, CLIP's head apart from its trunk."""
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    head = {name for name in moved if name.startswith(("clip.visual.ln_post.", "clip.visual.proj"))}
    return {".".join(name.split(".")[:2]) for name in moved - head} | head


def losses(work_dir):
    lines = [line for path in work_dir.rglob("scalars.json") for line in path.read_text().splitlines()]
    return {row["step"]: row["loss"] for row in map(json.loads, lines) if "loss" in row}


def test_a_run_that_goes_on_has_the_losses_of_an_uninterrupted_one(tmp_path, scenes):
    whole = trained(scenes, tmp_path / "whole", 4)
    trained(scenes, tmp_path / "parts", 2, param_scheduler=[whole.cfg.param_scheduler[0]])
    checkpoint = str(tmp_path / "parts/iter_2.pth")
    resumed = trained(scenes, tmp_path / "more", 4, resume=True, load_from=checkpoint)
    assert losses(tmp_path / "more") == {step: losses(tmp_path / "whole")[step] for step in (3, 4)}
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    saved = read_tensors(checkpoint)["state_dict"]
    assert moved_parts(saved, whole.model.state_dict()) == LEARNING
    assert any(name.startswith("teacher.") for name in saved)
    assert saved["text_transfer._extra_state"].tolist() == [1, 1]  # panoptic, channels_last


def test_mixed_precision_and_accumulation_train(tmp_path, scenes):
    changes = {
        "optim_wrapper.type": amp_wrapper_type(),
        "optim_wrapper.accumulative_counts": 2,
        "default_hooks.checkpoint.interval": 1,
    }
    trained(scenes, tmp_path, 4, **changes)
    assert all(map(math.isfinite, losses(tmp_path).values()))
    second, third, fourth = (read_tensors(tmp_path / f"iter_{step}.pth")["state_dict"] for step in (2, 3, 4))
    assert moved_parts(second, third) == set(), "gradients of two steps make one"
    assert moved_parts(third, fourth) == LEARNING
    assert all(torch.isfinite(value).all() for value in fourth.values())


def test_two_processes_train(tmp_path, scenes):
    path = tmp_path / "config.py"
    config(scenes, tmp_path / "work", 2).dump(path)
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1", "--nproc_per_node=2",
        str(ROOT / "tools/train.py"), str(path), "--launcher", "pytorch",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert set(losses(tmp_path)) == {1, 2}
    assert all(map(math.isfinite, losses(tmp_path).values()))
    assert (tmp_path / "work/iter_2.pth").exists()


def test_the_published_recipe_is_in_the_config():
    settings = Config.fromfile(PUBLISHED)
    wrapper, [schedule] = settings.optim_wrapper, settings.param_scheduler
    assert (wrapper.type, wrapper.optimizer.type) == ("AmpOptimWrapper", "AdamW")
    assert (wrapper.optimizer.lr, wrapper.optimizer.weight_decay, wrapper.clip_grad.max_norm) == (1e-4, 2e-5, 0.01)
    assert (schedule.power, schedule.end, settings.train_cfg.max_iters) == (0.9, 60000, 60000)
    resize = settings.train_dataloader.dataset.pipeline[2]
    assert (resize.scale, resize.backend) == ((1333, 800), "pillow")
    assert settings.model.data_preprocessor.size_divisor == 32
    assert settings.model.teacher
