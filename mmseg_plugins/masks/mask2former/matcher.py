"""Which query answers for which segment: the cheapest assignment (DETR, arXiv 2005.12872)."""

# Q queries, n segments, P points, C classes

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from mmseg_plugins.masks.mask2former.points import sample_points
from mmseg_plugins.masks.targets import SegmentTargets


class HungarianMatcher:
    """Assigns every segment a query of its own, at the least total cost; the defaults are the published ones.

    Args:
        class_weight: of minus the probability of the segment's class.
        mask_weight: of the binary cross-entropy at random points.
        dice_weight: of the dice loss at the same points.
        num_points: points, shared by all masks of an image.
    """

    def __init__(
        self,
        *,
        class_weight: float = 2.0,
        mask_weight: float = 5.0,
        dice_weight: float = 5.0,
        num_points: int = 12544,
    ) -> None:
        self.class_weight, self.mask_weight, self.dice_weight = class_weight, mask_weight, dice_weight
        self.num_points = num_points

    @torch.no_grad()
    def __call__(self, class_logits: Tensor, mask_logits: Tensor, targets: SegmentTargets) -> tuple[Tensor, Tensor]:
        """Match the queries of one image.

        Args:
            class_logits: (Q, C+1), void last.
            mask_logits: (Q, h, w).
            targets: n segments; their masks may have another size.

        Returns:
            Query and segment indices, (min(Q, n),) int64 each, on the targets' device.

        Raises:
            ValueError: if a cost is not finite, as after diverged training.
        """
        device = targets.labels.device
        if len(targets.labels) == 0:
            empty = torch.zeros(0, dtype=torch.long, device=device)
            return empty, empty.clone()
        cost = self.costs(class_logits, mask_logits, targets).cpu()
        if not cost.isfinite().all():
            raise ValueError(
                "the matching cost is not finite: the network's outputs hold NaN or infinity. "
                "Lower the learning rate, or train in float32 or bfloat16 instead of float16."
            )
        queries, segments = linear_sum_assignment(cost.numpy())
        return torch.as_tensor(queries, device=device), torch.as_tensor(segments, device=device)

    @torch.no_grad()
    def costs(self, class_logits: Tensor, mask_logits: Tensor, targets: SegmentTargets) -> Tensor:
        """Return the cost of every pair, (Q, n) float32; arguments as for the call."""
        with torch.autocast(class_logits.device.type, enabled=False):
            points = torch.rand(1, self.num_points, 2, device=mask_logits.device)
            logits = sample_points(mask_logits, points)
            truth = sample_points(targets.masks, points)
            class_cost = -class_logits.float().softmax(-1)[:, targets.labels]
            mask_cost = pairwise_cross_entropy(logits, truth)
            dice_cost = pairwise_dice(logits, truth)
            return self.class_weight * class_cost + self.mask_weight * mask_cost + self.dice_weight * dice_cost


def pairwise_cross_entropy(logits: Tensor, truth: Tensor) -> Tensor:
    """Return the mean binary cross-entropy of (Q, P) logits with each of (n, P) masks, (Q, n)."""
    return (F.softplus(logits).sum(-1, keepdim=True) - logits @ truth.T) / logits.shape[1]


def pairwise_dice(logits: Tensor, truth: Tensor) -> Tensor:
    """Return the dice loss of (Q, P) logits with each of (n, P) masks, (Q, n)."""
    probabilities = logits.sigmoid()
    total = probabilities.sum(-1)[:, None] + truth.sum(-1)[None, :]
    return 1 - (2 * probabilities @ truth.T + 1) / (total + 1)
