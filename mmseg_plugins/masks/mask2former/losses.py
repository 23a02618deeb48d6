"""The three losses of a set of predictions."""

# B batch, Q queries, N matched masks, P points, C classes

import torch
import torch.nn.functional as F
from torch import Tensor


def class_loss(class_logits: Tensor, labels: Tensor, void_weight: float) -> Tensor:
    """Return the weighted mean of the cross-entropy over all queries.

    Args:
        class_logits: (B, Q, C+1), void last.
        labels: (B, Q) int64; unmatched queries have label C.
        void_weight: weight of void; the classes have 1.
    """
    weights = class_logits.new_ones(class_logits.shape[-1], dtype=torch.float32)
    weights[-1] = void_weight
    return F.cross_entropy(class_logits.float().flatten(0, 1), labels.flatten(), weights)


def mask_losses(logits: Tensor, truth: Tensor, num_masks: float) -> tuple[Tensor, Tensor]:
    """Return binary cross-entropy and dice loss at points, summed over the masks and divided by ``num_masks``.

    Args:
        logits: (N, P); N may be 0.
        truth: (N, P) in [0, 1].
        num_masks: at least 1.
    """
    cross_entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(1).sum()
    probabilities = logits.sigmoid()
    overlap = 2 * (probabilities * truth).sum(1) + 1
    dice = (1 - overlap / (probabilities.sum(1) + truth.sum(1) + 1)).sum()
    return cross_entropy / num_masks, dice / num_masks
