"""Which masks cannot matter, decided before the adapter runs.

Q masks, K classes; void stands behind the classes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from mmseg_plugins.methods.mask_adapter.options import MaskSkipping
from mmseg_plugins.segmentors.mask_options import MaskOutputs


@dataclass
class SkipCount:
    """Running totals.

    Attributes:
        images: images so far.
        masks: masks that came from the decoder.
        skipped: of them, those the adapter did not see.
    """

    images: int = 0
    masks: int = 0
    skipped: int = 0

    def add(self, kept_Q: Tensor) -> None:
        """Count one image."""
        self.images += 1
        self.masks += len(kept_Q)
        self.skipped += len(kept_Q) - int(kept_Q.sum())

    def __str__(self) -> str:
        share = 100 * self.skipped / max(self.masks, 1)
        return f"{self.skipped} of {self.masks} masks ({share:.1f} %) in {self.images} images"


def masks_that_matter(class_logits: Tensor, skipping: MaskSkipping, outputs: MaskOutputs) -> Tensor:
    """Tell which masks the adapter must see.

    Args:
        class_logits: (Q, K + 1) in-vocabulary logits, void last.
        skipping: what may be left out.
        outputs: what is asked for; every output must allow it.

    Returns:
        (Q,) bool.
    """
    void_Q = class_logits.double().softmax(-1)[:, -1]
    skipped_Q = torch.ones_like(void_Q, dtype=torch.bool)
    if outputs.semantic or outputs.keep_logits:
        skipped_Q &= _within_budget(void_Q, skipping.semantic_budget)
    if outputs.panoptic:
        skipped_Q &= (void_Q > 0.5) & skipping.panoptic
    if outputs.instance:
        skipped_Q &= False
    return ~skipped_Q


def _within_budget(void_Q: Tensor, budget: float) -> Tensor:
    """(Q,) bool: the masks of the smallest 1 - v whose sum stays within the budget."""
    rest, order = (1 - void_Q).sort()
    return torch.zeros_like(void_Q, dtype=torch.bool).scatter(0, order, (rest.cumsum(0) <= budget) & (budget > 0))
