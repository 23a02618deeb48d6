"""Queries on pixels that nobody annotated: not known to be void."""

# B batch, Q queries, n segments, h w grid of the masks, H W size of the targets

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmseg_plugins.masks.targets import SegmentTargets

_MOST = 0.5


@torch.no_grad()
def on_unlabelled_pixels(mask_logits: Tensor, targets: Sequence[SegmentTargets]) -> Tensor:
    """Say which predicted masks lie mostly on pixels of no segment.

    Args:
        mask_logits: (B, Q, h, w).
        targets: B images' segments, masks (n, H, W).

    Returns:
        (B, Q) bool; False for masks without a pixel.
    """
    inside = (mask_logits > 0).float()
    size = mask_logits.shape[-2:]
    unlabelled = torch.stack([_unlabelled(target, size) for target in targets])
    share = torch.einsum("bqhw,bhw->bq", inside, unlabelled) / inside.sum((-2, -1)).clamp_min(1)
    return share > _MOST


def _unlabelled(target: SegmentTargets, size: Sequence[int]) -> Tensor:
    """Return the share of unlabelled pixels at each place, (h, w)."""
    uncovered = (~target.masks.any(0)).float()
    return F.interpolate(uncovered[None, None], size=tuple(size), mode="area")[0, 0]
