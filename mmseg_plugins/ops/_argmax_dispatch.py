"""Decides when the operator ``upsample_argmax`` may stand in for the eager version: only where its labels are the same.

N rows of logits, K classes, h w logits, H W label map.
"""

import functools
import logging

import torch
import torch.nn.functional as F
from torch import Tensor

from mmseg_plugins.ops import _load
from mmseg_plugins.ops._row_reduction import is_finite

logger = logging.getLogger(__name__)

# PyTorch takes another kernel, which rounds differently, for fewer channels and for outputs whose sides sum to less.
_FEWEST_ROWS = 4
_SMALLEST_SIDES = 129
# Enlarging by a whole factor, by an odd one, and shrinking; sizes at which a float32 source index rounds.
_CHECKED_SIZES = (((7, 9), (56, 144)), ((37, 53), (101, 211)), ((75, 41), (64, 83)))


def op_serves(device: torch.device) -> bool:
    """Tell whether a kernel of ours runs the operator on a device, rather than the eager version itself."""
    if device.type not in _load.STATUS:
        return False
    return _load.STATUS[device.type].loaded or (device.type == "cuda" and _load.triton_runs("upsample_argmax"))


@functools.cache
def op_is_exact(device: torch.device) -> bool:
    """Tell whether the operator gives the very bits of ``F.interpolate`` on a device; tried once on small inputs."""
    generator = torch.Generator().manual_seed(0)
    for size_in, size in _CHECKED_SIZES:
        logits = torch.randn(1, 2 * _FEWEST_ROWS, *size_in, generator=generator).to(device)
        exact, labels = F.interpolate(logits, size, mode="bilinear", align_corners=False).max(1)
        got = _run(logits, size, None, 1.0, True, (True, False, False))
        if not (torch.equal(got[1], exact) and torch.equal(got[0], labels)):
            logger.info("The upsample_argmax op rounds differently from torch on %s; using the eager version.", device)
            return False
    return True


def _run(
    logits: Tensor,
    size: tuple[int, int],
    row_class: Tensor | None,
    logit_scale: float,
    softmax_rows: bool,
    wanted: tuple[bool, bool, bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return torch.ops.mmseg_plugins.upsample_argmax(logits, size, [], row_class, logit_scale, softmax_rows, *wanted)


def _is_same_as_torch(logits: Tensor, size: tuple[int, int]) -> bool:
    return (
        logits.dtype == torch.float32
        and logits.is_contiguous()
        # A map of one pixel is both, and torch then takes its channels-last kernel.
        and not logits.is_contiguous(memory_format=torch.channels_last)
        and logits.shape[1] >= _FEWEST_ROWS
        and (logits.is_cuda or sum(size) >= _SMALLEST_SIDES)
        and op_is_exact(logits.device)
        # NaN and infinite products go the eager way.
        and is_finite(logits)
    )


def upsample_argmax_compiled(
    logits: Tensor,
    size: tuple[int, int],
    classes: Tensor,
    *,
    logit_scale: float,
    softmax_rows: bool,
    wanted: tuple[bool, bool, bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
    """Run the operator if its labels are those of the eager version.

    Args:
        logits: (B, N, h, w).
        size: (H, W).
        classes: (N,) int64 class of each row, any order.
        logit_scale: inside the softmax.
        softmax_rows: whether the probability is shared among rows rather than classes.
        wanted: whether score, margin and probability are wanted.

    Returns:
        Labels, score, margin and probability, (0,) where not wanted; None where the eager version must run.
    """
    logits = logits.detach()
    if not op_serves(logits.device) or not _is_same_as_torch(logits, size):
        return None
    if bool((classes[1:] < classes[:-1]).any()):
        order = torch.argsort(classes, stable=True)
        logits, classes = logits.index_select(1, order), classes[order]
    is_plain = torch.equal(classes, torch.arange(len(classes), device=classes.device))
    return _run(logits, size, None if is_plain else classes, logit_scale, softmax_rows, wanted)
