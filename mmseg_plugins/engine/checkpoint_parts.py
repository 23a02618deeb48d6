"""Checkpoints that hold what was trained, and not the frozen towers beside it."""

from collections.abc import Sequence
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.registry import HOOKS


@HOOKS.register_module()
class CheckpointParts(Hook):
    """Keeps only parts of the model's state in the checkpoints of a training.

    For models whose other parts come from files that the config names. Optimizer, schedules and counters stay, so a
    run resumes from such a checkpoint.

    Args:
        parts: leading texts of the names that are kept.

    Raises:
        ValueError: if there are no parts, or, when a checkpoint is written, if the model has none of one.
    """

    def __init__(self, parts: Sequence[str]) -> None:
        if isinstance(parts, str) or not parts:
            raise ValueError(f"expected parts to be leading texts of names, such as ('layers.',), but got {parts!r}.")
        self.parts = tuple(parts)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Drop the other parts of ``checkpoint['state_dict']``."""
        state = checkpoint["state_dict"]
        for part in self.parts:
            if not any(key.startswith(part) for key in state):
                raise ValueError(f"CheckpointParts: the model has no tensors below {part!r}.")
        checkpoint["state_dict"] = {key: value for key, value in state.items() if key.startswith(self.parts)}
