"""Class logits against text rows: the best row of each class counts."""

# B batch, Q queries, T text rows (void included), E joint width, C classes

import torch
import torch.nn.functional as F
from torch import Tensor

_LARGEST_SCALE = 100.0


def row_logits(embeddings: Tensor, rows: Tensor, logit_scale: Tensor) -> Tensor:
    """Compare embeddings with text rows.

    Args:
        embeddings: (B, Q, E), any length.
        rows: (T, E) or (B, T, E), unit rows.
        logit_scale: scalar, logarithm of the scale; the scale is at most 100.

    Returns:
        (B, Q, T) scaled cosines.
    """
    unit = F.normalize(embeddings, dim=-1)
    return logit_scale.exp().clamp(max=_LARGEST_SCALE) * (unit @ rows.to(unit).transpose(-1, -2))


def best_of_rows(logits: Tensor, row_class: Tensor, num_classes: int) -> Tensor:
    """Reduce (B, Q, T) row logits to (B, Q, num_classes) by the maximum over each class's rows.

    Args:
        logits: (B, Q, T).
        row_class: (T,) int64, class of each row; every class has one at least.
        num_classes: how many, void included where it has a row.
    """
    if row_class.shape[0] == num_classes:  # one row per class; rows are in the order of the classes
        return logits
    index = row_class.to(logits.device).expand_as(logits)
    start = logits.new_full((*logits.shape[:-1], num_classes), -torch.inf)
    return start.scatter_reduce(-1, index, logits, "amax", include_self=False)
