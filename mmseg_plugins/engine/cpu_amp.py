"""Mixed precision without an accelerator, where mmengine's own wrapper refuses to work."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.optim import OptimWrapper
from mmseg.registry import OPTIM_WRAPPERS
from torch import nn

ACCELERATED_WRAPPER = "AmpOptimWrapper"


@OPTIM_WRAPPERS.register_module()
class CPUAmpOptimWrapper(OptimWrapper):
    """Autocast to bfloat16 on the CPU; its range needs no loss scaling.

    Takes the place of mmengine's ``AmpOptimWrapper``, which refuses to work without a GPU. ``tools/train.py --amp``
    chooses between the two; a config or a test that builds a runner itself uses :func:`amp_wrapper_type`. Parameters,
    gradients and the optimizer's state stay float32.

    Args:
        loss_scale: taken for the sake of configs that are made for a GPU; without effect.
        dtype: must be ``bfloat16`` or None.
        **options: arguments of mmengine's ``OptimWrapper``.

    Raises:
        ValueError: for another dtype.
    """

    def __init__(self, *, loss_scale: Any = None, dtype: str | torch.dtype | None = None, **options: Any) -> None:
        super().__init__(**options)
        if dtype not in (None, "bfloat16", torch.bfloat16):
            raise ValueError(f"mixed precision on the CPU is bfloat16, but got dtype {dtype!r}.")

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Run the model's forward pass in mixed precision."""
        with super().optim_context(model), torch.autocast("cpu", torch.bfloat16):
            yield


def amp_wrapper_type() -> str:
    """Return the registered type of optimizer wrapper for mixed precision on this machine.

    Example:
        >>> optim_wrapper = {"type": amp_wrapper_type(), "optimizer": {"type": "AdamW", "lr": 1e-4}}
    """
    return "CPUAmpOptimWrapper" if get_device() == "cpu" else ACCELERATED_WRAPPER
