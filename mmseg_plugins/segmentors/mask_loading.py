"""Loading of mask segmentors: published files of FC-CLIP's family, checkpoints trained here, CLIP's own files."""

import logging
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from mmseg_plugins.segmentors.base import OpenVocabularySegmentor
from mmseg_plugins.segmentors.mask_checkpoint import (
    DECODER_PARTS,
    NOT_MODEL,
    check_method,
    check_queries,
    is_published,
    split_published,
)
from mmseg_plugins.towers.clip import clip_state
from mmseg_plugins.vocabulary.embed import TextEmbeddings

logger = logging.getLogger(__name__)


class MaskLoading(OpenVocabularySegmentor):
    """The part of a mask segmentor that takes files.

    Attributes:
        has_void: whether there is a learned void row.
        has_decoder_weights: whether a file or a training has filled the decoder.
    """

    # Leading texts of published names to ours, and of what is left out.
    published_parts: ClassVar[dict[str, str]] = DECODER_PARTS
    published_ignored: ClassVar[tuple[str, ...]] = NOT_MODEL

    has_void: bool
    has_decoder_weights: bool = False
    _training_text: TextEmbeddings | None = None

    def adapt_checkpoint(self, state: Mapping[str, Any]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
        """Accept the published layout of FC-CLIP's family, checkpoints trained here, and CLIP's own files.

        Checkpoints trained here may leave CLIP out (``CheckpointParts``).
        """
        trained = {f"{name}." for name, _ in self.named_children()} - {"clip."}
        if state and all(key.startswith(tuple(trained)) for key in state):
            return dict(state), tuple(part for part in sorted(trained) if any(key.startswith(part) for key in state))
        if not is_published(state):
            return super().adapt_checkpoint(state)
        check_method(state, self.published_parts, f"this {type(self).__name__}")
        published = split_published(state, self.published_parts, ignored=self.published_ignored)
        tensors, parts = dict(published.own), published.parts
        check_queries(self.state_dict(), tensors)
        if "proposals." in parts and self.has_void:  # a decoder without its void row is half a model
            parts = tuple(dict.fromkeys((*parts, "void_embedding.")))
        if published.clip:
            self._converted = converted = clip_state(self.clip, published.clip)
            tensors |= {f"clip.{key}": value for key, value in converted.tensors.items()}
            parts += tuple(f"clip.{part}" for part in converted.parts)
        else:
            logger.info("the file leaves CLIP out: its weights come from clip.pretrained")
        return tensors, parts

    def note_loaded(self, parts: tuple[str, ...]) -> None:
        """Drop the text embeddings of both vocabularies; remember whether the decoder is filled."""
        super().note_loaded(parts)
        self._training_text = None
        self.has_decoder_weights |= "proposals.".startswith(parts)
