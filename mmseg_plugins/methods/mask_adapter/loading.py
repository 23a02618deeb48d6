"""How a model with a mask adapter takes weights: published files of either phase, of its bases, checkpoints of ours."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from mmseg_plugins.methods.mask_adapter.checkpoint import (
    NAMES,
    PUBLISHED_PARTS,
    TOKEN_ORDERS_OF_BASE,
    FileFacts,
    check_base,
    complete_file,
    inspect_file,
    is_published_layout,
)
from mmseg_plugins.methods.mask_adapter.classifier import MaskAdapterClassifier
from mmseg_plugins.methods.mask_adapter.options import AdapterTraining
from mmseg_plugins.segmentors.mask import MaskSegmentor
from mmseg_plugins.segmentors.mask_checkpoint import NOT_MODEL, check_queries, split_published
from mmseg_plugins.towers.clip import clip_state
from mmseg_plugins.towers.files import read_tensors
from mmseg_plugins.towers.weights import find_file

logger = logging.getLogger(__name__)

_ADAPTER = "mask_classifier."
_RECORD = "mask_classifier._extra_state"
_VOID = "void_embedding."
# Parts that checkpoints of ours may have below these names and this model may not: frozen copies, losses.
_OF_OTHERS = ("teacher.", "criterion.")
_OWN = ("clip.", "proposals.", "mask_classifier.")


class MaskAdapterLoading(MaskSegmentor):
    """The part of a segmentor with a mask adapter that loads.

    Attributes:
        base_checkpoint: file or record of the base, which fills what a file without a decoder leaves out.
        training_options: how the adapter learns.
        random_parts: what nothing has filled yet, leading text of its names to what it is.
    """

    published_parts: ClassVar[dict[str, str]] = PUBLISHED_PARTS

    mask_classifier: MaskAdapterClassifier
    base_checkpoint: str | None
    training_options: AdapterTraining
    random_parts: dict[str, str]
    _facts: FileFacts | None = None

    def init_weights(self) -> None:
        """Load ``clip['pretrained']``, then the base, which stays as it is while the adapter learns."""
        super().init_weights()
        if self.base_checkpoint is not None:
            self.load_state_dict(self._read_base())
            logger.info("took the base from %s", self.base_checkpoint)

    def _read_base(self) -> dict[str, Any]:
        try:
            return read_tensors(find_file(self.base_checkpoint))
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{error} Set model.base_checkpoint to a file with the decoder of FC-CLIP or MAFT+: published, or "
                "trained here by the config of the base."
            ) from error

    def adapt_checkpoint(self, state: Mapping[str, Any]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
        """Accept published files with and without adapter, checkpoints trained here, and CLIP's own files.

        Raises:
            ValueError: if a file stands on another base than this model, or records another token order.
        """
        tensors, parts, has_decoder = self._adapt(state)
        if has_decoder or self.base_checkpoint is None or _ADAPTER not in parts:
            return tensors, parts
        return self._with_base(tensors, parts)

    def _with_base(
        self, tensors: dict[str, Tensor], parts: tuple[str, ...]
    ) -> tuple[dict[str, Tensor], tuple[str, ...]]:
        """Fill what a file of the first phase leaves out; a run of that phase that goes on keeps its void embedding."""
        facts = self._facts
        base, base_parts, has_decoder = self._adapt(self.open_checkpoint(self._read_base()))
        if not has_decoder:
            raise ValueError(f"base_checkpoint {self.base_checkpoint} has no decoder: it is not FC-CLIP's or MAFT+'s.")
        logger.info("the file has no decoder: all but the adapter come from %s", self.base_checkpoint)
        if facts is not None:  # published: the adapter is as the file says, what it stands on is known from the base
            known = facts.base or (self._facts.base if self._facts else None)
            facts = replace(facts, base=known)
        self._facts = facts
        merged = complete_file(tensors, base)
        if self.training_options.phase == "ground_truth":
            merged |= _below(tensors, _VOID)
        clip = {key: value for key, value in _below(tensors, "clip.").items() if key not in merged}
        clip_parts = tuple(part for part in parts if part.startswith("clip.")) if clip else ()
        return merged | clip, tuple(dict.fromkeys((*base_parts, _ADAPTER, *clip_parts)))

    def _adapt(self, state: Mapping[str, Any]) -> tuple[dict[str, Tensor], tuple[str, ...], bool]:
        """Bring one file to this model's names; also tell whether it holds a decoder."""
        if is_published_layout(state):
            return self._adapt_published(state)
        if any(key.startswith(_OWN) for key in state):
            return self._adapt_own(state)
        tensors, parts = super().adapt_checkpoint(state)
        return tensors, parts, False

    def _adapt_published(self, state: Mapping[str, Any]) -> tuple[dict[str, Tensor], tuple[str, ...], bool]:
        self._facts = facts = inspect_file(state)
        has_transfer = any(key.startswith("cdt.") for key in state)
        check_base(facts, has_transfer=has_transfer, transfers=self.text_transfer is not None)
        kept = {key: value for key, value in state.items() if not key.startswith(self._replaced)}
        published = split_published(kept, self.published_parts, ignored=NOT_MODEL)
        tensors, parts = dict(published.own), published.parts
        check_queries(self.state_dict(), tensors)
        if facts.has_adapter:
            parts = (*(part for part in parts if not part.startswith(_ADAPTER)), _ADAPTER)
            tensors[_RECORD] = torch.tensor([-1])  # files do not say it in so many words, see note_loaded
        if published.clip:
            self._converted = converted = clip_state(self.clip, published.clip)
            tensors |= {f"clip.{key}": value for key, value in converted.tensors.items()}
            parts += tuple(f"clip.{part}" for part in converted.parts)
        return tensors, parts, facts.has_decoder

    @property
    def _replaced(self) -> tuple[str, ...]:
        """Leading texts of published files for what this model takes from elsewhere, or not at all."""
        decoder = () if self.has_decoder else ("sem_seg_head.",)
        return ("backbone_t.", *decoder, *(() if self.has_void else (_VOID,)))

    def _adapt_own(self, state: Mapping[str, Any]) -> tuple[dict[str, Tensor], tuple[str, ...], bool]:
        self._facts = None
        if _RECORD in state:
            self.mask_classifier.check_record(state[_RECORD])
        if self.text_transfer is None and any(key.startswith("text_transfer.") for key in state):
            raise ValueError(
                f"the checkpoint is {NAMES['maft_plus']}'s or builds on it, and this model has no text transfer. Set "
                "text_transfer=dict(type='ContentDependentTransfer', ...)."
            )
        others = () if self.has_decoder else ("proposals.", "pyramid.", *(() if self.has_void else (_VOID,)))
        tensors = {key: value for key, value in state.items() if not key.startswith((*_OF_OTHERS, *others))}
        parts = tuple(sorted({key.split(".")[0] + "." for key in tensors}))
        return tensors, parts, any(key.startswith("proposals.") for key in state)

    def note_loaded(self, parts: tuple[str, ...]) -> None:
        """Take over what the file says of itself; say what it leaves random."""
        super().note_loaded(parts)
        self.random_parts = {name: what for name, what in self.random_parts.items() if not name.startswith(parts)}
        facts, self._facts = self._facts, None
        if facts is not None and facts.has_adapter:
            logger.info("loaded %s", facts)
            if facts.base is not None:
                self._settle_order(TOKEN_ORDERS_OF_BASE[facts.base])
        elif facts is not None:
            logger.info("loaded %s: the adapter has the weights it had", facts)

    def _settle_order(self, order: str) -> None:
        classifier = self.mask_classifier
        if classifier.has_token_order and classifier.token_order != order:
            logger.warning(
                "the published adapter was trained with token_order=%r, but this model reads %r",
                order,
                classifier.token_order,
            )
        classifier.settle(order)


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key: value for key, value in tensors.items() if key.startswith(prefix)}
