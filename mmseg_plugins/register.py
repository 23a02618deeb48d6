"""Registers everything into mmseg: the one module that configs name in ``custom_imports``.

Importing it needs no network, no GPU and no compiled op, and doing so twice changes nothing.
"""

from mmseg_plugins.openmmlab import check_openmmlab, import_quietly

check_openmmlab()
import_quietly()

from mmseg_plugins.datasets import register as datasets  # noqa: E402  (mmseg is imported below the check)
from mmseg_plugins.engine import (  # noqa: E402
    checkpoint_parts,
    class_count,
    cpu_amp,
    cpu_distributed,
    harness,
    iteration_seed,
    parameter_groups,
    published_classes,
    schedules,
    whole_checkpoints,
)
from mmseg_plugins.methods.anovl import register as anovl  # noqa: E402
from mmseg_plugins.methods.clip_dinoiser import register as clip_dinoiser  # noqa: E402
from mmseg_plugins.methods.denseclip import register as denseclip  # noqa: E402
from mmseg_plugins.methods.fcclip import register as fcclip  # noqa: E402
from mmseg_plugins.methods.maft_plus import register as maft_plus  # noqa: E402
from mmseg_plugins.methods.mask_adapter import register as mask_adapter  # noqa: E402
from mmseg_plugins.methods.maskclip import model as maskclip  # noqa: E402
from mmseg_plugins.methods.training_free import register as training_free  # noqa: E402
from mmseg_plugins.segmentors import tta  # noqa: E402
from mmseg_plugins.towers.files import install_safe_loader  # noqa: E402

install_safe_loader()

__all__ = [
    "anovl",
    "checkpoint_parts",
    "class_count",
    "clip_dinoiser",
    "cpu_amp",
    "cpu_distributed",
    "datasets",
    "denseclip",
    "fcclip",
    "harness",
    "iteration_seed",
    "maft_plus",
    "mask_adapter",
    "maskclip",
    "parameter_groups",
    "published_classes",
    "schedules",
    "training_free",
    "tta",
    "whole_checkpoints",
]
