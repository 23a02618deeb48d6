"""Checkpoints and failures while they are written, through mmengine's runner."""

from pathlib import Path

import pytest
import torch
from mmengine.fileio.backends import local_backend
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

from mmseg_plugins.engine import whole_checkpoints
from mmseg_plugins.engine.whole_checkpoints import latest_checkpoint
from mmseg_plugins.towers.files import read_tensors


class Model(BaseModel):
    """One layer."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 1)

    def forward(self, inputs, mode="loss"):
        """Return the loss."""
        return {"loss": self.layer(inputs).square().mean()}


class KilledError(Exception):
    """Takes the place of a signal."""


def train(folder, iterations, *, resume=False):
    Runner(
        model=Model(),
        work_dir=str(folder),
        train_dataloader=DataLoader([{"inputs": torch.ones(4)}] * 2),
        train_cfg={"type": "IterBasedTrainLoop", "max_iters": iterations},
        optim_wrapper={"optimizer": {"type": "SGD", "lr": 0.01}},
        default_hooks={
            "checkpoint": {"type": "WholeCheckpointHook", "by_epoch": False, "interval": 1, "max_keep_ckpts": 2},
            "logger": None,
        },
        randomness={"seed": 0},
        resume=resume,
        default_scope="mmseg",
        experiment_name=f"{folder.name}{iterations}",
    ).train()


class Torn:
    """A file that takes the first half of what is written."""

    def __init__(self, file):
        self.file = file

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def write(self, content):
        self.file.write(content[: len(content) // 2])
        raise KilledError


def fail_at(monkeypatch, name):
    """Let writing the file of this name stop half-way, here and in mmengine's own writer."""

    def torn_open(path, mode="r", **options):
        plain = open(path, mode, **options)  # noqa: SIM115  (the caller closes it)
        return Torn(plain) if name in Path(path).name else plain

    for module in (whole_checkpoints, local_backend):
        monkeypatch.setattr(module, "open", torn_open, raising=False)


def written(folder):
    return sorted(path.name for path in folder.iterdir() if ".pth" in path.name)


def test_a_torn_write_leaves_what_was_there(tmp_path, monkeypatch):
    fail_at(monkeypatch, "iter_3.pth")
    with pytest.raises(KilledError):
        train(tmp_path, 4)
    assert written(tmp_path) == [".iter_3.pth.part", "iter_1.pth", "iter_2.pth"]
    last = latest_checkpoint(tmp_path)
    assert Path(last).name == "iter_2.pth"
    assert read_tensors(last)["meta"]["iter"] == 2
    monkeypatch.undo()
    train(tmp_path, 4, resume=True)
    assert written(tmp_path) == ["iter_3.pth", "iter_4.pth"]


def test_the_checkpoint_to_go_on_from_is_found_wherever_the_folder_is(tmp_path):
    assert latest_checkpoint(tmp_path) is None
    for name in ("iter_9.pth", "iter_10.pth", "best_mIoU_iter_11.pth"):
        (tmp_path / name).touch()
    note = tmp_path / "last_checkpoint"
    for text, expected in {
        "": "iter_10.pth",
        "elsewhere/iter_9.pth": "iter_9.pth",
        "iter_7.pth": "iter_10.pth",
    }.items():
        note.write_text(text)
        assert latest_checkpoint(tmp_path) == str(tmp_path / expected)
    for path in tmp_path.glob("*.pth"):
        path.unlink()
    note.write_text("gone/iter_7.pth")
    with pytest.raises(FileNotFoundError, match=r"names gone/iter_7.pth, which is not there.*--resume CHECKPOINT"):
        latest_checkpoint(tmp_path)
