"""tools/train.py on a small generated set, as a user calls it: going on, mixed precision, several processes."""

import importlib.util
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mmseg_plugins.cli.main import main as command_line
from mmseg_plugins.towers.files import read_tensors

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs/denseclip/denseclip_fpn_shapes-vit_1xb16-150_shapesworld-64x64.py"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

pytestmark = pytest.mark.training


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    assert command_line(["shapes", "--out", str(folder), "--count", "6", "--seed", "5"]) == 0
    return folder


def arguments(scenes, work_dir, *options, iterations=2):
    """Arguments of a short training whose every loss is logged as it is; mmengine keeps visualisers by their names."""
    roots = [f"{part}_dataloader.dataset.data_root={scenes}" for part in ("train", "val", "test")]
    return [
        str(CONFIG), "--work-dir", str(work_dir), "--cfg-options", *roots, "train_dataloader.batch_size=2",
        f"train_cfg.max_iters={iterations}", "log_processor.window_size=1", "default_hooks.logger.interval=1",
        "default_hooks.checkpoint.interval=2", f"visualizer.name=visualizer_{time.time_ns()}", *options,
    ]  # fmt: skip


def run_here(tool, given, monkeypatch):
    """Run a tool in this process, which saves its start."""
    spec = importlib.util.spec_from_file_location(f"{tool}_tool", ROOT / f"tools/{tool}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, "argv", [f"tools/{tool}.py", *given])
    module.main()


def losses(work_dir):
    """Return iteration -> loss of all runs in a work dir."""
    lines = [line for path in work_dir.rglob("scalars.json") for line in path.read_text().splitlines()]
    return {row["step"]: row["loss"] for row in map(json.loads, lines) if "loss" in row}


def written_config(work_dir):
    return Config.fromfile(next(work_dir.glob("*.py")))


# Runs the tool until half of the checkpoint of iteration 4 is on the disk, and is killed there.
KILLED_WHILE_SAVING = """
import builtins, os, runpy, signal, sys

class Torn:
    def __init__(self, file):
        self.file = file
    def __enter__(self):
        return self
    def __exit__(self, *_):
        pass
    def write(self, content):
        self.file.write(content[:len(content) // 2])
        self.file.flush()
        os.kill(os.getpid(), signal.SIGKILL)

plain_open = builtins.open
def torn_open(path, mode="r", *args, **options):
    file = plain_open(path, mode, *args, **options)
    return Torn(file) if mode == "wb" and "iter_4.pth" in str(path) else file

builtins.open = torn_open
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_a_run_killed_while_it_saves_goes_on_with_the_losses_of_an_uninterrupted_one(tmp_path, scenes, monkeypatch):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run_here("train", arguments(scenes, whole, iterations=6), monkeypatch)
    one_kept = arguments(scenes, killed, "default_hooks.checkpoint.max_keep_ckpts=1", iterations=6)
    command = [sys.executable, "-c", KILLED_WHILE_SAVING, str(ROOT / "tools/train.py"), *one_kept]
    environment = {**ENVIRONMENT, "OMP_NUM_THREADS": str(torch.get_num_threads())}  # sums in the order of the whole run
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr[-3000:]
    assert set(losses(killed)) == {1, 2, 3, 4}
    for path in killed.rglob("scalars.json"):
        path.unlink()
    run_here("train", [*one_kept, "--resume"], monkeypatch)
    expected = losses(whole)
    assert losses(killed) == {step: expected[step] for step in (3, 4, 5, 6)}


def test_resume_without_a_checkpoint_starts_anew(tmp_path, scenes, monkeypatch):
    run_here("train", [*arguments(scenes, tmp_path, iterations=1), "--resume"], monkeypatch)
    assert list(losses(tmp_path)) == [1]


def test_mixed_precision_trains(tmp_path, scenes, monkeypatch):
    run_here("train", [*arguments(scenes, tmp_path), "--amp"], monkeypatch)
    assert all(map(math.isfinite, losses(tmp_path).values()))
    expected = "AmpOptimWrapper" if torch.cuda.is_available() else "CPUAmpOptimWrapper"
    assert written_config(tmp_path).optim_wrapper.type == expected


def test_mixed_precision_needs_a_plain_wrapper(tmp_path, scenes, monkeypatch):
    with pytest.raises(ValueError, match="--amp needs optim_wrapper.type 'OptimWrapper'"):
        run_here("train", [*arguments(scenes, tmp_path, "optim_wrapper.type=ApexOptimWrapper"), "--amp"], monkeypatch)


def test_an_override_without_a_value_is_named(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run_here("train", [str(CONFIG), "--cfg-options", "train_cfg.max_iters=1", "photo"], monkeypatch)
    assert "takes KEY=VALUE pairs, but got 'photo'" in capsys.readouterr().err


def test_two_processes_train_and_stay_equal(tmp_path, scenes):
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1",
        "--nproc_per_node=2", str(ROOT / "tools/train.py"),
        *arguments(scenes, tmp_path, "find_unused_parameters=True"), "--launcher", "pytorch",
    ]  # fmt: skip
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert set(losses(tmp_path)) == {1, 2}
    assert all(map(math.isfinite, losses(tmp_path).values()))
    assert re.search(r"mIoU: [\d.]+", done.stdout + done.stderr)
    assert (tmp_path / "iter_2.pth").exists()


def test_multi_scale_test_of_a_trained_checkpoint(tmp_path, scenes, monkeypatch):
    run_here("train", arguments(scenes, tmp_path / "train"), monkeypatch)
    views = "dict(type='MultiScaleFlip', scale=(64, 64), ratios=(0.5, 1.0, 1.75))"
    config = tmp_path / "three_scales.py"
    config.write_text(f"_base_ = ['{CONFIG}']\ntta_pipeline = [dict(type='LoadImageFromFile'), {views}]\n")
    given = [str(config), str(tmp_path / "train/iter_2.pth"), "--tta", "--out", str(tmp_path / "out")]
    run_here("test", [*given, *arguments(scenes, tmp_path / "test")[1:]], monkeypatch)
    assert len(list((tmp_path / "out").rglob("*.png"))) == 6
    assert "test-time augmentation of (64, 64)" in next((tmp_path / "test").rglob("*.log")).read_text()


ANY_BACKBONE = """
_base_ = [{base!r}]
model = dict(
    clip_pretrained=None,
    score_concat_index=3,
    backbone=dict(
        _delete_=True,
        type="AttnPoolBackbone",
        in_channels=512,
        output_dim=96,
        grid_size=2,
        backbone=dict(type="TIMMBackbone", model_name="resnet18", pretrained=False, out_indices=[1, 2, 3, 4]),
    ),
    text_encoder=dict(clip_pretrained="asset://shapes_clip"),
    neck=dict(in_channels=[64, 128, 256, 550]),
)
"""


@pytest.mark.parametrize(
    ("is_any_backbone", "prompts", "learned"),
    [
        (False, ("depth=2", "image=True"), {"contexts", "deep_prompts"}),
        (True, ("per_class=True", "position=middle"), {"contexts"}),
    ],
    ids=["maple", "coop-timm"],
)
def test_learned_prompts_train_and_the_text_encoder_alone_stays(
    tmp_path, scenes, monkeypatch, is_any_backbone, prompts, learned
):
    config = CONFIG
    if is_any_backbone:
        config = tmp_path / "timm.py"
        config.write_text(ANY_BACKBONE.format(base=str(CONFIG)))
    options = [f"model.prompts.{option}" for option in prompts]
    given = arguments(scenes, tmp_path, *options, "default_hooks.checkpoint.interval=1", "train_cfg.val_interval=2")
    run_here("train", [str(config), *given[1:]], monkeypatch)
    first, second = (read_tensors(tmp_path / f"iter_{step}.pth")["state_dict"] for step in (1, 2))
    kept = {key for key in first if torch.equal(first[key], second[key])}
    assert kept == {key for key in first if key.startswith("text_encoder.")}
    assert learned <= {key.partition(".")[0] for key in first}
    assert miou(tmp_path) >= 0


def words_of(classes, has_text):
    """Options that give the config fewer classes."""
    scores = classes if has_text else 0
    options = [f"{part}_dataloader.dataset.granularity={classes}" for part in ("train", "val", "test")]
    options += [f"model.class_names=shapesworld_{classes}", f"model.decode_head.num_classes={classes}"]
    options += [f"model.neck.in_channels=[96,{96 + scores},96,96]"]
    return options + [f"model.identity_head.num_classes={classes}"] * has_text


def miou(work_dir):
    """Return the figure that a run ended with."""
    logs = "".join(path.read_text() for path in work_dir.rglob("*.log"))
    return float(re.findall(r"mIoU_unrounded: ([\d.]+)", logs)[-1])


def test_words_help_in_a_short_training(tmp_path, monkeypatch):
    """The comparison of docs/denseclip.md in two parts, each at the length where it is wide.

    All 38 classes: after 30 iterations the trained score map is ahead of the untrained one. 14 classes: after 60 the
    head with words is ahead of the same training without. Settings were chosen on other scenes.
    """
    folder = tmp_path / "scenes"
    assert command_line(["shapes", "--out", str(folder), "--count", "100", "--seed", "62"]) == 0

    def run(name, tool, classes, iterations, *more, config=CONFIG, has_text=True):
        short = [
            "train_dataloader.batch_size=8", f"param_scheduler.0.total_iters={iterations}",
            "param_scheduler.0.warmup_iters=8", f"default_hooks.checkpoint.interval={iterations}",
            f"train_cfg.val_interval={iterations}",
        ]  # fmt: skip
        options = [*short, *words_of(classes, has_text), *more]
        given = arguments(folder, tmp_path / name, *options, iterations=iterations)
        run_here(tool, [str(config), *given[1:]], monkeypatch)
        return miou(tmp_path / name)

    score_map = "model.predict_from=score_map"
    untrained = run("untrained", "test", 38, 30, score_map)
    trained = run("trained", "train", 38, 30, score_map)
    assert 50 < untrained < trained - 3, (untrained, trained)
    without = CONFIG.with_name(CONFIG.name.replace("shapes-vit_", "shapes-vit-no-text_"))
    no_text = run("no_text", "train", 14, 60, config=without, has_text=False)
    text = run("text", "train", 14, 60)
    assert text > no_text + 3, (no_text, text)
