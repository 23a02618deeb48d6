"""Enlarge logits and take the best class, without storing all classes at full size."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from torch import Tensor


class UpsampledArgmax(NamedTuple):
    """Label map with what was asked for beside it; what was not asked for is None.

    Attributes:
        labels: (B, H, W) int64, values in [0, K).
        score: (B, H, W) winning logit, before ``logit_scale``, in the dtype of the logits.
        margin: (B, H, W) winning logit minus the best logit of any other class, >= 0; infinite for a single class.
        probability: (B, H, W) float32 softmax probability of the winner.
    """

    labels: Tensor
    score: Tensor | None = None
    margin: Tensor | None = None
    probability: Tensor | None = None


def upsample_argmax(
    logits: Tensor,
    size: tuple[int, int],
    *,
    row_class: Sequence[int] | Tensor | None = None,
    num_classes: int | None = None,
    return_score: bool = False,
    return_margin: bool = False,
    return_probability: bool = False,
    logit_scale: float = 1.0,
    softmax: Literal["rows", "classes"] = "rows",
    threshold: float | None = None,
    background_index: int = 0,
) -> Tensor | UpsampledArgmax:
    """Enlarge class logits to the image size and name the best class of every pixel.

    Returns:
        (B, H, W) int64 labels, or an ``UpsampledArgmax`` when any extra was asked for.
    """
    raise NotImplementedError
