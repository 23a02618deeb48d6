"""A resumed run against an uninterrupted one, with augmentation and dropout, through mmengine's runner."""

import random

import numpy as np
import pytest
import torch
from mmengine.dataset import InfiniteSampler
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader, Dataset

from mmseg_plugins.engine.iteration_seed import IterationSeedHook, seed_everything


class NoisyNumbers(Dataset):
    """Numbers under an augmentation that draws from all three generators."""

    def __len__(self):
        return 7

    def __getitem__(self, index):
        return {"inputs": index + random.random() + np.random.rand() + torch.rand(4)}


class DroppingModel(BaseModel):
    """A layer behind dropout."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 1)

    def forward(self, inputs, mode="loss"):
        """Return the loss."""
        return {"loss": self.layer(nn.functional.dropout(inputs.float(), 0.5)).square().mean()}


class LossRecorder(Hook):
    """Keeps the losses, and draws numbers as a visualiser might."""

    def __init__(self):
        self.losses = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        """Keep the loss."""
        self.losses.append(float(outputs["loss"]))
        np.random.rand(len(self.losses))


def train(folder, iterations, *, seed=3, resume=False, is_seeded=True):
    torch.manual_seed(0)
    recorder = LossRecorder()
    dataset = NoisyNumbers()
    hooks = [recorder, IterationSeedHook()] if is_seeded else [recorder]
    Runner(
        model=DroppingModel(),
        work_dir=str(folder),
        train_dataloader=DataLoader(dataset, batch_size=2, sampler=InfiniteSampler(dataset, seed=seed)),
        train_cfg={"type": "IterBasedTrainLoop", "max_iters": iterations},
        optim_wrapper={"optimizer": {"type": "SGD", "lr": 0.01}},
        default_hooks={
            "checkpoint": {"type": "CheckpointHook", "by_epoch": False, "interval": 1},
            "logger": None,
        },
        custom_hooks=hooks,
        randomness={"seed": seed},
        resume=resume,
        default_scope="mmseg",
        experiment_name=folder.name,
    ).train()
    return recorder.losses


def test_resumed_run_has_the_losses_of_an_uninterrupted_one(tmp_path):
    whole = train(tmp_path / "whole", 6)
    first = train(tmp_path / "killed", 3)
    rest = train(tmp_path / "killed", 6, resume=True)
    assert first + rest == whole
    assert len(set(whole)) == 6


def test_without_the_hook_it_has_others(tmp_path):
    """The hook is needed: order and weights alone, which mmengine restores, are not enough."""
    whole = train(tmp_path / "whole", 4, is_seeded=False)
    first = train(tmp_path / "killed", 2, is_seeded=False)
    rest = train(tmp_path / "killed", 4, is_seeded=False, resume=True)
    assert first == whole[:2]
    assert rest != whole[2:]


def test_seeds_lead_to_different_runs(tmp_path):
    assert train(tmp_path / "a", 2, seed=3) != train(tmp_path / "b", 2, seed=4)


def draws():
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_iterations_and_processes_draw_different_numbers(monkeypatch):
    seen = []
    for rank in (0, 1):
        monkeypatch.setattr("mmseg_plugins.engine.iteration_seed.get_rank", lambda rank=rank: rank)
        for iteration in (0, 1, 160_000):
            seed_everything(2**31 - 1, iteration)
            seen.append(draws())
    assert len(set(seen)) == 6
    seed_everything(2**31 - 1, 160_000)
    assert draws() == pytest.approx(seen[-1])
