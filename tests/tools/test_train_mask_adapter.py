"""tools/train.py with Mask-Adapter's configs on a small generated set: both phases, going on, mixed precision, two
processes, accumulated gradients."""

import importlib.util
import itertools
import json
import multiprocessing
import os
import shutil
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import mmseg_plugins.register  # noqa: F401  (registers)
from mmseg_plugins.cli.main import main as command_line
from mmseg_plugins.towers.files import read_tensors

ROOT = Path(__file__).resolve().parents[2]
FIRST = ROOT / "configs/mask_adapter/mask-adapter_shapes-vit_1xb16-400_shapesworld-64x64.py"
SECOND = ROOT / "configs/mask_adapter/mask-adapter_shapes-vit_1xb16-200-mixed_shapesworld-64x64.py"
BASE = ROOT / "configs/fcclip/fcclip_shapes-vit_1xb16-300_shapesworld-seen-64x64.py"
RUNS = itertools.count()

pytestmark = pytest.mark.training


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    given = ["--count", "5", "--seed", "5", "--format", "coco", "--seen-only"]
    assert command_line(["shapes", "--out", str(folder), *given]) == 0
    return folder


def load_tool():
    spec = importlib.util.spec_from_file_location("train_tool", ROOT / "tools/train.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def train(scenes, folder, *arguments, config=FIRST, iterations=4, **more):
    """Run the tool; returns the losses of every iteration that it ran."""
    name = f"mask_adapter{next(RUNS)}"  # mmengine hands out visualizers and loggers by name: runs must not share one
    parts = ("train", "val", "test") if config in (SECOND, BASE) else ("train",)
    settings = {
        **{f"{part}_dataloader.dataset.data_root": scenes for part in parts},
        "train_dataloader.batch_size": 2,
        "model.proposals.num_queries": 6,
        "model.proposals.decoder_layers": 2,
        "train_cfg.max_iters": iterations,
        "train_cfg.val_interval": 1000,
        "default_hooks.checkpoint.interval": 2,
        "default_hooks.logger.interval": 1,
        "log_processor.window_size": 1,
        "experiment_name": name,
        "visualizer.name": name,
        **more,
    }
    before = set(folder.glob("*/vis_data/scalars.json"))
    call = [sys.argv[0], str(config), "--work-dir", str(folder), *arguments, "--cfg-options"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [*call, *(f"{key}={value}" for key, value in settings.items())])
        load_tool().main()
    written = set(folder.glob("*/vis_data/scalars.json")) - before
    rows = [json.loads(line) for path in written for line in path.read_text(encoding="utf-8").splitlines()]
    return {row["step"]: (row["loss"], row["lr"]) for row in rows if "loss" in row}


@pytest.mark.parametrize("flags", [(), ("--amp",)], ids=["float32", "amp"])
def test_a_stopped_first_phase_goes_on_to_the_same_losses_and_weights(scenes, tmp_path, flags):
    whole, rest = tmp_path / "whole", tmp_path / "rest"
    expected = train(scenes, whole, *flags)
    assert sorted(expected) == [1, 2, 3, 4]
    assert np.isfinite(list(expected.values())).all()
    rest.mkdir()
    shutil.copy(whole / "iter_2.pth", rest)
    (rest / "last_checkpoint").write_text(str(rest / "iter_2.pth"), encoding="utf-8")
    assert train(scenes, rest, *flags, "--resume") == {step: expected[step] for step in (3, 4)}
    one, other = (read_tensors(folder / "iter_4.pth")["state_dict"] for folder in (whole, rest))
    assert all(torch.equal(one[key], other[key]) for key in one)
    start = read_tensors(whole / "iter_2.pth")["state_dict"]
    moved = {key.split(".")[0] for key in one if not torch.equal(one[key], start[key])}
    assert moved == {"mask_classifier", "void_embedding"}, "all else must stay as it is"


def test_the_second_phase_starts_on_the_first_and_on_the_base(scenes, tmp_path):
    train(scenes, tmp_path / "base", config=BASE, iterations=2, **{"model.criterion.num_points": 64})
    base = tmp_path / "base/iter_2.pth"
    config = tmp_path / "parts.py"
    hooks = "[dict(type='CheckpointParts', parts=('mask_classifier.', 'void_embedding.'))]"
    config.write_text(f"_base_ = [{str(FIRST)!r}]\ncustom_hooks = {hooks}\n", encoding="utf-8")
    train(scenes, tmp_path / "first", config=config, iterations=2, **{"model.base_checkpoint": base})
    first = tmp_path / "first/iter_2.pth"
    saved = read_tensors(first)["state_dict"]
    assert {key.split(".")[0] for key in saved} == {"mask_classifier", "void_embedding"}
    options = {
        "model.base_checkpoint": base,
        "load_from": first,
        "model.training.iou_threshold": 0.1,
        "train_cfg.val_interval": 2,
    }
    losses = train(scenes, tmp_path / "second", config=SECOND, iterations=2, **options)
    assert np.isfinite(list(losses.values())).all()
    last, decoder = (read_tensors(path)["state_dict"] for path in (tmp_path / "second/iter_2.pth", base))
    assert all(torch.equal(last[key], decoder[key]) for key in last if key.startswith(("proposals.", "pyramid.")))
    assert not torch.equal(last["void_embedding.weight"], decoder["void_embedding.weight"])


def test_accumulated_gradients_move_the_weights_every_other_step(scenes, tmp_path):
    train(
        scenes,
        tmp_path,
        iterations=4,
        **{"optim_wrapper.accumulative_counts": 2, "default_hooks.checkpoint.interval": 1},
    )
    states = [read_tensors(tmp_path / f"iter_{step}.pth")["state_dict"] for step in (2, 3, 4)]
    biases = [state["mask_classifier.adapter.final.bias"] for state in states]
    assert torch.equal(biases[0], biases[1])
    assert not torch.equal(biases[1], biases[2])


def run_process(scenes, folder, rank, port):
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    for config, name in ((FIRST, "first"), (SECOND, "second")):
        options = {"model.base_checkpoint": "None", "load_from": "None"} if config == SECOND else {}
        train(scenes, folder / name, "--launcher", "pytorch", config=config, iterations=2, **options)
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(torch.cuda.is_available(), reason="processes are forked, which CUDA does not allow")
def test_two_processes_train_both_phases(scenes, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=run_process, args=(scenes, tmp_path, rank, port)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        if process.is_alive():
            process.kill()
    assert [process.exitcode for process in processes] == [0, 0]
    rows = [json.loads(line) for path in tmp_path.rglob("scalars.json") for line in path.read_text().splitlines()]
    assert all(np.isfinite(row["loss"]) for row in rows if "loss" in row)
    assert (tmp_path / "first/iter_2.pth").exists()
    assert (tmp_path / "second/iter_2.pth").exists()
