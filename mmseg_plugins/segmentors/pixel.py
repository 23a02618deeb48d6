"""Base of the methods that give every position of the image a score per prompt row."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from mmseg.structures import SegDataSample
from torch import Tensor

from mmseg_plugins.segmentors.base import OpenVocabularySegmentor
from mmseg_plugins.segmentors.label_maps import LabelMapPrediction, RowScorer, best_row
from mmseg_plugins.vocabulary.background import Background
from mmseg_plugins.vocabulary.embed import TextEmbeddings

# B batch, N prompt rows, K classes, H W network input, h w logits


class PixelSegmentor(LabelMapPrediction, OpenVocabularySegmentor):
    """A segmentor that scores positions.

    A derived class writes :meth:`row_logits`; windows, resizing, background and label maps are done by
    :class:`LabelMapPrediction`, which also says what ``test_cfg`` takes.

    Args:
        align_corners: must stay False; every resize here is bilinear with half-pixel centres.
        **options: see :class:`OpenVocabularySegmentor`.
    """

    def __init__(self, *, align_corners: bool = False, **options: Any) -> None:
        super().__init__(**options)
        if align_corners:
            raise ValueError("align_corners=True is not supported: all methods here resize with half-pixel centres.")
        self.align_corners = False
        self.check_test_cfg()

    @abstractmethod
    def row_logits(self, images: Tensor, text: TextEmbeddings) -> Tensor:
        """Score every position against every prompt row.

        Args:
            images: (B, 3, H, W) normalised.
            text: N rows.

        Returns:
            (B, N, h, w) at any resolution.
        """

    def row_scorer(self) -> RowScorer:
        """Return :meth:`row_logits` with the text embeddings in use."""
        self.ensure_weights("visual")
        text = self.text_embeddings
        return RowScorer(lambda crops: self.row_logits(crops, text), text.row_class, text.num_classes)

    def background(self) -> Background:
        """Return the vocabulary's background rule."""
        return self.vocabulary.background

    def extract_feat(self, inputs: Tensor) -> Tensor:
        """Return the (B, N, h, w) scores of the network."""
        self.ensure_weights("visual")
        return self.row_logits(inputs, self.text_embeddings)

    def _forward(self, inputs: Tensor, data_samples: Sequence[SegDataSample] | None = None) -> Tensor:
        return self.extract_feat(inputs)

    def encode_decode(self, inputs: Tensor, batch_data_samples: Sequence[Any] | None = None) -> Tensor:
        """Return (B, K, H, W) class logits at the input size; holds them all, so :meth:`predict` does not use it."""
        rows_BNhw = self.extract_feat(inputs)
        rows_BNHW = F.interpolate(rows_BNhw, inputs.shape[2:], mode="bilinear", align_corners=False)
        text = self.text_embeddings
        return best_row(rows_BNHW, text.row_class, text.num_classes)
