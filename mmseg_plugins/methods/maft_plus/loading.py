"""How a MAFT+ model takes weights: published files of MAFT+ and FC-CLIP, checkpoints trained here, CLIP's own files."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from mmseg_plugins.classify.transfer import ContentDependentTransfer, TransferVariant, recorded_choices
from mmseg_plugins.methods.maft_plus.checkpoint import (
    PUBLISHED_PARTS,
    TEACHER_PREFIX,
    decide_variant,
    has_transfer,
    teacher_tensors,
)
from mmseg_plugins.segmentors.mask import MaskSegmentor
from mmseg_plugins.segmentors.mask_checkpoint import is_published
from mmseg_plugins.segmentors.mask_options import MaskScoring
from mmseg_plugins.towers.clip import Clip, clip_state, load_clip_weights

logger = logging.getLogger(__name__)

_TEACHER = "teacher."
_RECORD = "text_transfer._extra_state"
_OWN = ("clip.", "text_transfer.", "proposals.")  # what names in checkpoints trained here start with
# How a file without a transfer, which is FC-CLIP's, is scored.
_FCCLIP_SCORING = MaskScoring(rule="ensemble", alpha=0.4, beta=0.8)


@dataclass(frozen=True)
class FileFacts:
    """What a file that is about to be loaded is.

    Attributes:
        kind: ``clip``: CLIP's own file; ``fcclip``: a published file without a transfer; ``maft``: one with it;
            ``own``: a checkpoint trained here.
        has_teacher: whether it fills the frozen copy of CLIP.
        is_tuned: whether it holds a trunk that is no longer the original's.
        variant: variant of a published file.
    """

    kind: Literal["clip", "fcclip", "maft", "own"]
    has_teacher: bool
    is_tuned: bool
    variant: TransferVariant | None = None


class MAFTPlusLoading(MaskSegmentor):
    """The part of a MAFT+ segmentor that loads.

    Attributes:
        teacher: frozen copy of the original CLIP's image tower, None without one.
        is_transferring: whether the text transfer is in use; a file of FC-CLIP switches it off.
    """

    published_parts: ClassVar[dict[str, str]] = PUBLISHED_PARTS

    teacher: Clip | None
    text_transfer: ContentDependentTransfer

    def prepare_loading(self) -> None:
        """Set what loading keeps track of; for the end of the constructor."""
        self.is_transferring, self._own_scoring = True, self.scoring
        self._teacher_ready, self._is_tuned = False, False
        self._file: str | None = None
        self._facts: FileFacts | None = None

    def use_transfer(self) -> None:
        """Switch the text transfer on, where a file of FC-CLIP had switched it off."""
        if not self.is_transferring:
            logger.info("the weights came from FC-CLIP: the text transfer is new and in use from now on")
            self.is_transferring, self.scoring = True, self._own_scoring

    def init_weights(self) -> None:
        """Load the weights that ``clip['pretrained']`` names, into the frozen copy as well."""
        super().init_weights()
        if self.teacher is not None and self._source.weights is not None:
            self.ensure_teacher()

    def ensure_teacher(self) -> None:
        """Fill the frozen copy, if no checkpoint has: from ``clip['pretrained']``, or from a trunk not yet tuned.

        Raises:
            ValueError: if neither is to be had.
        """
        if self._teacher_ready:
            return
        if self._source.weights is not None:
            load_clip_weights(self.teacher, self._source.path())
        elif self._is_tuned:
            raise ValueError(
                "the checkpoint's trunk is fine-tuned and it holds no frozen copy of the original CLIP, which this "
                "model compares or mixes with. Set clip=dict(pretrained=...) to the weights it was trained from."
            )
        else:
            self.teacher.visual.load_state_dict(self.clip.visual.state_dict())
        self._teacher_ready = True

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, local_metadata: Any, *args: Any) -> None:
        if not prefix:
            self._file = (local_metadata or {}).get("file")
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    def adapt_checkpoint(self, state: Mapping[str, Any]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
        """Accept published files of MAFT+ and FC-CLIP, checkpoints trained here, and CLIP's own files.

        Raises:
            ValueError: if a file's variant is not known or contradicts the configuration.
        """
        if is_published(state):
            return self._adapt_published(state)
        if any(key.startswith(_OWN) for key in state):
            return self._adapt_own(state)
        tensors, parts = super().adapt_checkpoint(state)
        return self._with_teacher("clip", tensors, parts, tensors)

    def _adapt_published(self, state: Mapping[str, Any]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
        kept = {key: value for key, value in state.items() if not key.startswith((TEACHER_PREFIX, *self._replaced))}
        tensors, parts = super().adapt_checkpoint(kept)
        if not has_transfer(state):
            self._check_fcclip()
            return self._with_teacher("fcclip", tensors, parts, tensors)
        transfer = self.text_transfer
        variant = decide_variant(state, self._file, transfer.variant if transfer.is_settled else None)
        if transfer.has_token_order and transfer.token_order != "legacy":
            logger.warning("published weights were trained with token_order='legacy', but this model reads otherwise")
        frozen = {} if self.teacher is None else teacher_tensors(state)
        if frozen:
            frozen = {f"clip.{key}": value for key, value in clip_state(self.teacher, frozen).tensors.items()}
        return self._with_teacher("maft", tensors, parts, frozen, variant)

    @property
    def _replaced(self) -> tuple[str, ...]:
        """Leading texts of the parts of published files that other proposals make needless here."""
        return () if self.has_decoder else ("sem_seg_head.", *(() if self.has_void else ("void_embedding.",)))

    def _check_fcclip(self) -> None:
        if self.gives_classes and self.train_vocabulary is None:
            raise ValueError(
                "a file without cdt.* is FC-CLIP's, whose scores treat the classes it was trained on apart: set "
                "train_vocabulary=dict(source=...)."
            )

    def _with_teacher(
        self,
        kind: Literal["clip", "fcclip", "maft"],
        tensors: dict[str, Tensor],
        parts: tuple[str, ...],
        clip: Mapping[str, Tensor],
        variant: TransferVariant | None = None,
    ) -> tuple[dict[str, Tensor], tuple[str, ...]]:
        """Add the frozen copy's tensors, out of those that are to be the original CLIP's."""
        image = {key: value for key, value in clip.items() if key.startswith("clip.visual.")}
        self._facts = FileFacts(kind, bool(image) and self.teacher is not None, kind == "maft", variant)
        if not self._facts.has_teacher:
            return tensors, parts
        copy = {_TEACHER + key.removeprefix("clip."): value for key, value in image.items()}
        return tensors | copy, (*parts, f"{_TEACHER}visual.")

    def _adapt_own(self, state: Mapping[str, Any]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
        if _RECORD in state:
            variant, order = recorded_choices(state[_RECORD])
            self.text_transfer.check_choices(variant=variant, token_order=order, source="the checkpoint")
        kept = {key: value for key, value in state.items() if not key.startswith(_TEACHER)}
        saved = {key: value for key, value in state.items() if key.startswith(_TEACHER)}
        tensors, parts = super().adapt_checkpoint(kept)
        self._facts = FileFacts("own", bool(saved), any(key.startswith("clip.visual.") for key in kept))
        if self.teacher is not None:
            own = {key: value for key, value in self.state_dict().items() if key.startswith(_TEACHER)}
            tensors |= saved or own
        return tensors, parts

    def note_loaded(self, parts: tuple[str, ...]) -> None:
        """Take over what the file says of itself; a file of FC-CLIP switches the transfer off."""
        super().note_loaded(parts)
        facts, self._facts = self._facts, None
        if facts is None:
            return
        self._teacher_ready = self._teacher_ready or facts.has_teacher
        self._is_tuned = facts.is_tuned
        self.is_transferring, self.scoring = True, self._own_scoring
        if facts.kind == "maft":
            self.text_transfer.settle(variant=facts.variant, source="the published file")
        elif facts.kind == "fcclip":
            logger.info("the file has no text transfer: it is FC-CLIP's and is scored as FC-CLIP does")
            self.is_transferring = False
            if self.gives_classes:
                self.scoring = _FCCLIP_SCORING
