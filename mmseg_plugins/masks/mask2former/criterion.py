"""Training of a set of masks: matching and losses, for every prediction of the decoder."""

# B batch, Q queries, N matched masks of the batch, P points, C classes

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from mmseg_plugins.masks.mask2former.losses import class_loss, mask_losses
from mmseg_plugins.masks.mask2former.matcher import HungarianMatcher
from mmseg_plugins.masks.mask2former.points import sample_points, uncertain_points
from mmseg_plugins.masks.mask2former.predictions import MaskPrediction
from mmseg_plugins.masks.targets import SegmentTargets


class SetCriterion:
    """Matches every prediction with the segments anew and adds up its losses; the defaults are the published ones.

    Args:
        class_weight: of the class loss, in matching and in the result.
        mask_weight: of the binary cross-entropy, likewise.
        dice_weight: of the dice loss, likewise.
        void_weight: weight of queries without a segment in the class loss.
        num_points: points per mask.
        oversample: how many times more points are drawn than kept.
        importance: share of the points that lie where a mask is undecided.
    """

    def __init__(
        self,
        *,
        class_weight: float = 2.0,
        mask_weight: float = 5.0,
        dice_weight: float = 5.0,
        void_weight: float = 0.1,
        num_points: int = 12544,
        oversample: float = 3.0,
        importance: float = 0.75,
    ) -> None:
        self.class_weight, self.mask_weight, self.dice_weight = class_weight, mask_weight, dice_weight
        self.void_weight, self.num_points = void_weight, num_points
        self.oversample, self.importance = oversample, importance
        self.matcher = HungarianMatcher(
            class_weight=class_weight, mask_weight=mask_weight, dice_weight=dice_weight, num_points=num_points
        )

    def __call__(self, predictions: Sequence[MaskPrediction], targets: list[SegmentTargets]) -> dict[str, Tensor]:
        """Compute the losses.

        Args:
            predictions: of the decoder, the result last.
            targets: one per image, masks of one size in the batch.

        Returns:
            Weighted scalars ``loss_class``, ``loss_mask``, ``loss_dice`` of the last prediction, and the same with
            ``d0.``, ``d1.``, ... in front of the earlier ones'. They are 0 and differentiable without segments.
        """
        num_masks = mean_number_of_masks(targets)
        losses = {}
        for index, prediction in enumerate(predictions):
            prefix = "" if index == len(predictions) - 1 else f"d{index}."
            with torch.autocast(prediction.mask_logits.device.type, enabled=False):
                terms = self._prediction_losses(prediction, targets, num_masks)
            losses |= {f"{prefix}{name}": value for name, value in terms.items()}
        return losses

    def _prediction_losses(
        self, prediction: MaskPrediction, targets: list[SegmentTargets], num_masks: float
    ) -> dict[str, Tensor]:
        matches = [
            self.matcher(class_logits, mask_logits, target)
            for class_logits, mask_logits, target in zip(
                prediction.class_logits, prediction.mask_logits, targets, strict=True
            )
        ]
        labels = _labels_of_queries(prediction.class_logits, targets, matches)
        logits, truth = self._at_points(prediction.mask_logits, targets, matches)
        cross_entropy, dice = mask_losses(logits, truth, num_masks)
        return {
            "loss_class": self.class_weight * class_loss(prediction.class_logits, labels, self.void_weight),
            "loss_mask": self.mask_weight * cross_entropy,
            "loss_dice": self.dice_weight * dice,
        }

    def _at_points(
        self, mask_logits: Tensor, targets: list[SegmentTargets], matches: list[tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor]:
        """Return logits and truth of the matched masks at undecided points, (N, P) each."""
        matched = torch.cat([masks[queries] for masks, (queries, _) in zip(mask_logits, matches, strict=True)]).float()
        truth = torch.cat([target.masks[segments] for target, (_, segments) in zip(targets, matches, strict=True)])
        if not len(matched):
            # Not a constant: every parameter that the masks depend on gets a gradient, of 0.
            return mask_logits.float().sum() * matched.new_zeros(0, 1), matched.new_zeros(0, 1)
        points = uncertain_points(
            matched.detach(), self.num_points, oversample=self.oversample, importance=self.importance
        )
        return sample_points(matched, points), sample_points(truth, points)


def _labels_of_queries(
    class_logits: Tensor, targets: list[SegmentTargets], matches: list[tuple[Tensor, Tensor]]
) -> Tensor:
    """Return the label of every query, (B, Q); void where nothing is matched."""
    void = class_logits.shape[-1] - 1
    labels = torch.full(class_logits.shape[:2], void, dtype=torch.long, device=class_logits.device)
    for row, target, (queries, segments) in zip(labels, targets, matches, strict=True):
        row[queries] = target.labels[segments]
    return labels


def mean_number_of_masks(targets: Sequence[SegmentTargets]) -> float:
    """Return the number of segments in the batch, averaged over processes, at least 1."""
    count = float(sum(len(target.labels) for target in targets))
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        device = targets[0].labels.device if targets else "cpu"
        total = torch.tensor(count, device=device)
        dist.all_reduce(total)
        count = total.item() / dist.get_world_size()
    return max(count, 1.0)
