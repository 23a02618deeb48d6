"""Scores of embeddings against text rows: the best name of a class counts."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmseg_plugins.ops._precision import without_autocast

# B batch, Q masks, D joint width, T text rows (void included where there is one), C classes of the rows

MAX_SCALE = 100.0  # CLIP's cap


def clip_scale(logit_scale: Tensor) -> Tensor:
    """Return the factor of cosines that a learned logarithm stands for: min(exp(logit_scale), 100)."""
    return logit_scale.float().exp().clamp(max=MAX_SCALE)


def class_logits(
    embeddings: Tensor, rows: Tensor, row_class: Tensor, num_classes: int, scale: Tensor | float = 1.0
) -> Tensor:
    """Score embeddings: ``scale`` times the largest <unit embedding, row> over the rows of each class.

    Computed in float32 also under autocast.

    Args:
        embeddings: (B, Q, D), any length.
        rows: (T, D) text rows, or (B, T, D) where every image has its own; used as they are.
        row_class: (T,) int64 class of each row.
        num_classes: C.
        scale: factor of the scores, see :func:`clip_scale`.

    Returns:
        (B, Q, C) float32 logits; -inf for a class without rows.

    Raises:
        ValueError: if widths or lengths do not fit.

    Example:
        >>> rows, row_class = torch.eye(2), torch.tensor([0, 0])
        >>> class_logits(torch.tensor([[[3.0, 4.0]]]), rows, row_class, 1)
        tensor([[[0.8000]]])
    """
    _check(embeddings, rows, row_class)
    with without_autocast(embeddings):
        unit_BQD = F.normalize(embeddings.float(), dim=-1)
        scores_BQT = unit_BQD @ rows.float().mT
        if len(row_class) == num_classes and torch.equal(row_class, torch.arange(num_classes, device=row_class.device)):
            return scale * scores_BQT
        empty_BQC = scores_BQT.new_full((*scores_BQT.shape[:-1], num_classes), float("-inf"))
        index_BQT = row_class.expand_as(scores_BQT)
        return scale * empty_BQC.scatter_reduce(-1, index_BQT, scores_BQT, "amax")


def _check(embeddings: Tensor, rows: Tensor, row_class: Tensor) -> None:
    if embeddings.shape[-1] != rows.shape[-1]:
        raise ValueError(
            f"embeddings have width {embeddings.shape[-1]}, but text rows {rows.shape[-1]}. "
            "Both must come from one CLIP model."
        )
    if rows.shape[-2] != len(row_class):
        raise ValueError(f"there are {rows.shape[-2]} text rows, but row_class names the class of {len(row_class)}.")
