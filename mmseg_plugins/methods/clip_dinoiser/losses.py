"""The two losses that teach the layers."""

import torch.nn.functional as F
from torch import Tensor

# B batch, h w grid, P = h*w positions


def correlation_loss(correlations_BPhw: Tensor, belongs_together_BPhw: Tensor) -> Tensor:
    """Binary cross-entropy of the cosines, taken as logits, with the teacher's yes or no.

    Negative cosines count as 0 and get no gradient. So a pair that the teacher keeps apart costs at least log 2, and
    its cosine is only pushed down to 0.

    Args:
        correlations_BPhw: cosines of the layer's descriptors.
        belongs_together_BPhw: bool.

    Returns:
        The mean over all pairs of all images.
    """
    logits = correlations_BPhw.float().clamp(min=0)
    return F.binary_cross_entropy_with_logits(logits, belongs_together_BPhw.float())


def foreground_loss(logits_B1hw: Tensor, is_foreground_B1hw: Tensor) -> Tensor:
    """Binary cross-entropy of the foreground logits with the teacher's mask (bool), mean over all positions."""
    return F.binary_cross_entropy_with_logits(logits_B1hw.float(), is_foreground_B1hw.float())
