"""The layout that FC-CLIP, Mask-Adapter and MAFT+ publish their weights in, brought to a mask segmentor's names."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

CLIP_PREFIX = "backbone.clip_model."
# Leading texts of published names, and of ours.
DECODER_PARTS = {"sem_seg_head.": "proposals.", "void_embedding.": "void_embedding."}
# What published files hold beside the model: the loss's class weights.
NOT_MODEL = ("criterion.",)
# Leading texts that only some methods' files have, and what loads these.
_PARTS_OF_METHODS = {
    "mask_adapter.": "It is Mask-Adapter's: use a config named mask-adapter_* (type='MaskAdapterSegmentor').",
    "cdt.": "It is MAFT+'s: use a config named maftp_* (type='MAFTPlus').",
}


@dataclass(frozen=True)
class PublishedState:
    """A published file, taken apart.

    Attributes:
        clip: CLIP's tensors under open_clip's names; empty where the file leaves CLIP out.
        own: the other tensors under the model's names.
        parts: leading texts, in the model's names, of what the file declares to hold besides CLIP.
        ignored: tensors that belong to no model (``criterion.empty_weight``, a teacher), under their published names.
    """

    clip: dict[str, Tensor] = field(repr=False)
    own: dict[str, Tensor] = field(repr=False)
    parts: tuple[str, ...]
    ignored: dict[str, Tensor] = field(repr=False)


def is_published(state: Mapping[str, Tensor]) -> bool:
    """Tell whether a file has the layout of FC-CLIP and what builds on it."""
    return any(key.startswith((CLIP_PREFIX, "sem_seg_head.")) for key in state)


def split_published(
    state: Mapping[str, Tensor],
    parts: Mapping[str, str] = DECODER_PARTS,
    *,
    ignored: tuple[str, ...] = NOT_MODEL,
) -> PublishedState:
    """Take a published file apart.

    Args:
        state: tensors under published names, wrappers removed.
        parts: leading texts of published names to those of the model; names that start with none keep theirs, and the
            check of the keys will name them.
        ignored: leading texts of what is left out.
    """
    clip, own, left_out, found = {}, {}, {}, []
    for key, value in state.items():
        if key.startswith(ignored):
            left_out[key] = value
        elif key.startswith(CLIP_PREFIX):
            clip[key.removeprefix(CLIP_PREFIX)] = value
        else:
            leading = next((text for text in parts if key.startswith(text)), None)
            own[key if leading is None else parts[leading] + key.removeprefix(leading)] = value
            if leading is not None and parts[leading] not in found:
                found.append(parts[leading])
    return PublishedState(clip, own, tuple(found), left_out)


def check_method(state: Mapping[str, Tensor], parts: Mapping[str, str], model: str) -> None:
    """Raise if a published file holds a part of another method than the model's.

    Args:
        state: tensors under published names.
        parts: leading texts of published names that the model takes.
        model: what it is, for the message.

    Raises:
        ValueError: saying whose file it is and which configs load it.
    """
    for leading, remedy in _PARTS_OF_METHODS.items():
        if leading not in parts and any(key.startswith(leading) for key in state):
            raise ValueError(f"the file holds {leading}*, which {model} has no place for. {remedy}")


def check_queries(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    """Raise if a file was trained with another number of queries than the model has.

    Args:
        own: the model's state.
        given: the file's tensors under the model's names.

    Raises:
        ValueError: naming both numbers and the option.
    """
    name = next((key for key in given if key.endswith("query_feat.weight") and key in own), None)
    if name is not None and len(given[name]) != len(own[name]):
        raise ValueError(
            f"the file has {len(given[name])} queries, but this model {len(own[name])}. "
            f"Set model.proposals.num_queries={len(given[name])}."
        )
