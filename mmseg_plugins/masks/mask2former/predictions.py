"""What the query decoder predicts."""

from dataclasses import dataclass

from torch import Tensor

# B batch, Q queries, C classes, h4 w4 grid of stride 4


@dataclass(frozen=True)
class MaskPrediction:
    """Masks and in-vocabulary classes of one decoder step.

    Attributes:
        mask_logits: (B, Q, h4, w4); positive inside the mask.
        class_logits: (B, Q, C+1), already scaled; void last.
    """

    mask_logits: Tensor
    class_logits: Tensor
