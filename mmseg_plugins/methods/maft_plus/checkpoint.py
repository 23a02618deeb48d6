"""The published layout of MAFT+: what its files say of themselves, and the parts that FC-CLIP's lack."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from mmseg_plugins.classify.transfer import TransferVariant
from mmseg_plugins.segmentors.mask_checkpoint import CLIP_PREFIX, DECODER_PARTS
from mmseg_plugins.towers.download import file_sha256
from mmseg_plugins.towers.weights import WeightsRecord, list_named_records

TRANSFER_PREFIX = "cdt."
TEACHER_PREFIX = "backbone_t.clip_model."
PUBLISHED_PARTS = {**DECODER_PARTS, TRANSFER_PREFIX: "text_transfer."}

_CLASS_WEIGHTS = "criterion.empty_weight"
# Entries of the loss's class weights: the training classes (COCO-Stuff, COCO panoptic) and void.
_VARIANT_OF_CLASSES: dict[int, TransferVariant] = {172: "semantic", 134: "panoptic"}
# What the released files are, by the name of their record (assets/weights/maft_plus.json).
_VARIANT_OF_RECORD: dict[str, TransferVariant] = {
    "maft_plus_base": "semantic",
    "maft_plus_large": "semantic",
    "maft_plus_large_panoptic": "panoptic",
}


def transfer_tensors(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Pick the text transfer's tensors out of a published file, without their leading ``cdt.``."""
    return _below(state, TRANSFER_PREFIX)


def teacher_tensors(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Pick the frozen copy of CLIP out of a published file, under open_clip's names; empty where it was left out."""
    return _below(state, TEACHER_PREFIX)


def has_transfer(state: Mapping[str, Any]) -> bool:
    """Tell whether a published file is MAFT+'s; without the transfer it is FC-CLIP's."""
    return any(key.startswith(TRANSFER_PREFIX) for key in state)


def decide_variant(
    state: Mapping[str, Tensor], file: str | Path | None, chosen: TransferVariant | None
) -> TransferVariant:
    """Find out whether a published file is of the semantic or the panoptic variant; its key names do not tell.

    The configuration decides, then the file's name, if a record knows it (and its checksum, once the record has one).
    The number of training classes, where the file holds it, must agree.

    Args:
        state: the file's tensors under published names.
        file: where it was read from; None: not known.
        chosen: what the configuration says; None: nothing.

    Raises:
        ValueError: if nothing decides, or the number of training classes says otherwise.
    """
    variant = chosen or _variant_of_file(file)
    weights = state.get(_CLASS_WEIGHTS)
    trained = None if weights is None else _VARIANT_OF_CLASSES.get(len(weights))
    shown = "this MAFT+ file" if file is None else str(file)
    if variant is None:
        hint = "" if trained is None else f" (its {len(weights) - 1} training classes speak for {trained!r})"
        raise ValueError(
            f"the key names of {shown} do not tell whether it is of the semantic or the panoptic variant{hint}, and "
            "the two compute different numbers. Set variant='semantic' or variant='panoptic' in the model's config."
        )
    if trained is not None and trained != variant:
        raise ValueError(
            f"{shown} was trained on {len(weights) - 1} classes and so is of the {trained} variant, but "
            f"{'the config says' if chosen else 'its name says'} {variant!r}: the numbers would be wrong without an "
            f"error. Set variant={trained!r}, or load another file."
        )
    return variant


def _variant_of_file(file: str | Path | None) -> TransferVariant | None:
    record = None if file is None else _record_of_file(Path(file))
    return None if record is None else _VARIANT_OF_RECORD[record.name]


def _record_of_file(file: Path) -> WeightsRecord | None:
    for record in list_named_records():
        if record.name in _VARIANT_OF_RECORD and file.name in record.file_names:
            is_it = record.sha256 is None or (file.is_file() and file_sha256(file).startswith(record.sha256))
            return record if is_it else None
    return None


# Leading texts of our names and of the published ones; text tower and temperature of the frozen copy are the student's.
_TO_PUBLISHED = {
    "proposals.": ("sem_seg_head.",),
    "void_embedding.": ("void_embedding.",),
    "text_transfer.": (TRANSFER_PREFIX,),
    "clip.visual.": (f"{CLIP_PREFIX}visual.",),
    "clip.text.": (CLIP_PREFIX, TEACHER_PREFIX),
    "clip.logit_scale": (f"{CLIP_PREFIX}logit_scale", f"{TEACHER_PREFIX}logit_scale"),
    "teacher.visual.": (f"{TEACHER_PREFIX}visual.",),
}


def to_published_layout(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Bring a model's state to the names of the released files, for the authors' code or others that read these.

    Variant and token order have no place there. Without a frozen copy (``teacher=False``) none is written.

    Args:
        state: of a :class:`~mmseg_plugins.methods.maft_plus.model.MAFTPlus` with a mask decoder on a ConvNeXt.
    """
    has_teacher = any(key.startswith("teacher.visual.") for key in state)
    published = {}
    for key, value in state.items():
        leading = next((text for text in _TO_PUBLISHED if key.startswith(text)), None)
        if leading is None or key.endswith("_extra_state"):
            continue
        for target in _TO_PUBLISHED[leading]:
            if has_teacher or not target.startswith(TEACHER_PREFIX):
                published[target + key.removeprefix(leading)] = value
    return published


def _below(state: Mapping[str, Any], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
