"""Short runs of tools/train.py on a few generated scenes, for the tests of the mask methods' training."""

import importlib.util
import itertools
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from mmseg_plugins.cli.main import main as command_line
from mmseg_plugins.towers.files import read_tensors

ROOT = Path(__file__).resolve().parents[2]
_RUNS = itertools.count()


def write_scenes(folder):
    """Write five scenes with the masks of seen classes; returns the folder."""
    given = ["--count", "5", "--seed", "5", "--format", "coco", "--seen-only"]
    assert command_line(["shapes", "--out", str(folder), *given]) == 0
    return folder


def train(config, scenes, folder, *arguments, parts=("train", "val", "test"), iterations=4, **more):
    """Run the tool; returns the logged row of every iteration that it ran.

    Args:
        config: config file.
        scenes: folder of :func:`write_scenes`.
        folder: work directory.
        *arguments: further arguments of the tool.
        parts: data loaders that the config has.
        iterations: of training.
        **more: further settings.
    """
    settings = {
        **{f"{part}_dataloader.dataset.data_root": scenes for part in parts},
        "train_dataloader.batch_size": 2,
        "model.proposals.num_queries": 6,
        "model.proposals.decoder_layers": 2,
        "train_cfg.max_iters": iterations,
        "train_cfg.val_interval": 1000,
        "default_hooks.checkpoint.interval": 2,
        **more,
    }
    rows = read_rows(run_tool(config, folder, settings, *arguments))
    return {row["step"]: row for row in rows if "loss" in row}


def run_tool(config, folder, settings, *arguments):
    """Run tools/train.py in this process, every iteration logged as it is.

    Args:
        config: its file.
        folder: of the run, which may hold earlier ones.
        settings: what to change in the config.
        *arguments: further ones of the tool.

    Returns:
        The logs that this run has written, of :func:`read_rows`; one, but none where another process writes.
    """
    name = f"short{next(_RUNS)}"  # mmengine hands out visualizers and loggers by name: runs must not share one
    settings = {
        "default_hooks.logger.interval": 1,
        "log_processor.window_size": 1,
        "experiment_name": name,
        "visualizer.name": name,
        **settings,
    }
    before = set(folder.glob("*/vis_data/scalars.json"))
    call = [sys.argv[0], str(config), "--work-dir", str(folder), *arguments, "--cfg-options"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [*call, *(f"{key}={value}" for key, value in settings.items())])
        _load_tool().main()
    return set(folder.glob("*/vis_data/scalars.json")) - before


def _load_tool():
    spec = importlib.util.spec_from_file_location("train_tool", ROOT / "tools/train.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read_rows(paths):
    """Return the rows of logs."""
    return [json.loads(line) for path in paths for line in path.read_text(encoding="utf-8").splitlines()]


def check_going_on(run, folder, flags):
    """Stop a run of four iterations after two and go on: the losses and weights must be those of the whole run.

    Args:
        run: (folder, *arguments) to figures by iteration.
        folder: for both runs.
        flags: further arguments of both.

    Returns:
        The leading parts of the names of what moved after the second iteration.
    """
    whole, rest = folder / "whole", folder / "rest"
    expected = run(whole, *flags)
    assert sorted(expected) == [1, 2, 3, 4]
    assert np.isfinite(list(expected.values())).all()
    rest.mkdir()
    shutil.copy(whole / "iter_2.pth", rest)
    (rest / "last_checkpoint").write_text(str(rest / "iter_2.pth"), encoding="utf-8")
    assert run(rest, *flags, "--resume") == {step: expected[step] for step in (3, 4)}
    one, other = (read_tensors(path / "iter_4.pth")["state_dict"] for path in (whole, rest))
    assert all(torch.equal(one[key], other[key]) for key in one)
    start = read_tensors(whole / "iter_2.pth")["state_dict"]
    return {key.split(".")[0] for key in one if not torch.equal(one[key], start[key])}


def in_two_processes(work, folder):
    """Call ``work(folder)`` in two forked processes of one group; returns the rows logged below the folder."""
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as place:
        meeting = f"file://{place}/meeting"  # no port that another program could take meanwhile
        processes = [context.Process(target=_run_process, args=(work, folder, rank, meeting)) for rank in range(2)]
        for process in processes:
            process.start()
        deadline = time.monotonic() + 600
        for process in processes:
            process.join(max(0, deadline - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    rows = read_rows(folder.rglob("scalars.json"))
    assert all(np.isfinite(row["loss"]) for row in rows if "loss" in row)
    return rows


def _run_process(work, folder, rank, meeting):
    torch.set_num_threads(1)  # a forked process has none of its parent's threads to share work with
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank))
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    work(folder)
    torch.distributed.destroy_process_group()
