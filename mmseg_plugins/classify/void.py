"""The learned void class: what is none of the words."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmseg_plugins.vocabulary.embed import TextEmbeddings


def append_void(text: TextEmbeddings, void: Tensor) -> TextEmbeddings:
    """Put a void class behind the classes, with one row.

    Args:
        text: N rows of K classes.
        void: (1, D) learned vector; brought to unit length here, with gradient.

    Returns:
        N + 1 rows of K + 1 classes, void last, in float32.
    """
    row = F.normalize(void.to(text.rows.device).float(), dim=-1)
    index = text.row_class.new_full((1,), text.num_classes)
    return TextEmbeddings(torch.cat([text.rows, row]), torch.cat([text.row_class, index]), text.num_classes + 1)
