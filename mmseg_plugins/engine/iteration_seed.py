"""Randomness that a resumed training repeats."""

import random

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.registry import HOOKS

_ITERATION_STEP, _RANK_STEP = 7919, 104_729  # primes, so that runs, iterations and processes do not meet
_NUMPY_SEEDS = 2**32


@HOOKS.register_module()
class IterationSeedHook(Hook):
    """Seeds each training iteration from the run's seed, the iteration and the process.

    Augmentation, dropout and sampled losses then depend on nothing that a killed run loses, so a run that goes on with
    ``--resume`` has the losses of an uninterrupted one. ``configs/_base_/default_runtime.py`` switches it on as
    ``default_hooks.iteration_seed``. What it takes besides:

    * ``randomness=dict(seed=...)`` in the config: the order of the samples comes from that seed;
    * mmengine's ``InfiniteSampler``, which mmengine moves to the right place without loading what was seen already;
    * ``train_dataloader.num_workers=0`` where the pipeline draws random numbers: worker processes have a randomness of
      their own, which starts anew. The network's randomness is repeated with any number of workers;
    * a checkpoint of the iteration to go on from (``default_hooks.checkpoint.interval``).
    """

    priority = "VERY_LOW"  # behind all that may draw numbers between two iterations

    def before_train(self, runner: Runner) -> None:
        """Seed the first batch, of a new run or a resumed one."""
        # Opening the loader draws a number: once in each run, so not from the stream that augmentation draws from.
        runner.train_dataloader.generator = torch.Generator().manual_seed(runner.seed)
        seed_everything(runner.seed, runner.iter)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: object = None) -> None:
        """Seed the network's own randomness."""
        seed_everything(runner.seed, runner.iter)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: object = None, outputs: object = None
    ) -> None:
        """Seed the next batch."""
        seed_everything(runner.seed, runner.iter + 1)

    def after_val(self, runner: Runner) -> None:
        """Seed the next batch again, whatever validation drew."""
        seed_everything(runner.seed, runner.iter)


def seed_everything(seed: int, iteration: int) -> None:
    """Seed Python, NumPy and PyTorch for an iteration of this process.

    Args:
        seed: the run's seed, from 0.
        iteration: from 0.
    """
    value = seed + _ITERATION_STEP * iteration + _RANK_STEP * get_rank()
    random.seed(value)
    np.random.seed(value % _NUMPY_SEEDS)
    torch.manual_seed(value)
