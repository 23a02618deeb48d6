"""Class logits against text rows: the best row of each class counts."""

# B batch, Q queries, T text rows (void included), E joint width, C classes

import torch
import torch.nn.functional as F
from torch import Tensor

from mmseg_plugins.ops._precision import without_autocast

_LARGEST_SCALE = 100.0


class TextRows:
    """The rows that queries are compared with, checked once for all decoder layers.

    Args:
        rows: (T, E), or (B, T, E) where every image has its own; unit rows.
        row_class: (T,) int64 class of each row.
        num_classes: C, void included.

    Raises:
        ValueError: if rows and classes do not fit.
    """

    def __init__(self, rows: Tensor, row_class: Tensor, num_classes: int) -> None:
        if row_class.shape != (rows.shape[-2],):
            raise ValueError(
                f"expected a class index for each of the {rows.shape[-2]} rows, but got {tuple(row_class.shape)}."
            )
        self.rows, self.num_classes = rows, num_classes
        in_order = torch.arange(num_classes, device=row_class.device)
        self._index = None if torch.equal(row_class, in_order) else row_class.to(rows.device)

    def compare(self, embeddings: Tensor, logit_scale: Tensor) -> Tensor:
        """Compare embeddings with the rows, in float32 also under autocast.

        Args:
            embeddings: (B, Q, E), any length.
            logit_scale: scalar, logarithm of the scale; the scale is at most 100.

        Returns:
            (B, Q, C) scaled cosines with the best row of each class; -inf for a class without rows.
        """
        with without_autocast(embeddings):
            unit = F.normalize(embeddings.float(), dim=-1)
            logits = logit_scale.float().exp().clamp(max=_LARGEST_SCALE) * (unit @ self.rows.float().mT)
            if self._index is None:
                return logits
            start = logits.new_full((*logits.shape[:-1], self.num_classes), -torch.inf)
            return start.scatter_reduce(-1, self._index.expand_as(logits), logits, "amax", include_self=False)
