"""The published layout of Mask-Adapter: what its files say of themselves, and how a base completes a first-phase file.

A file holds the adapter below ``mask_adapter.`` beside the layout of its base (FC-CLIP, or MAFT+ with ``cdt.``), flat
or inside ``{"model": ...}``. Files of the first phase have no decoder.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from mmseg_plugins.classify.tokens import TokenOrder
from mmseg_plugins.segmentors.mask_checkpoint import DECODER_PARTS, is_published

Base = Literal["fcclip", "maft_plus"]

ADAPTER_PREFIX = "mask_adapter."
TRANSFER_PREFIX = "cdt."
OWN_ADAPTER = "mask_classifier.adapter."
PUBLISHED_PARTS = {**DECODER_PARTS, ADAPTER_PREFIX: OWN_ADAPTER, TRANSFER_PREFIX: "text_transfer."}

_DECODER = "sem_seg_head."
_CLASSIFIER = "mask_classifier."
_QUERIES = f"{_DECODER}predictor.query_feat.weight"
_BASE_OF_QUERIES: dict[int, Base] = {250: "fcclip", 100: "maft_plus"}
NAMES: dict[Base, str] = {"fcclip": "FC-CLIP", "maft_plus": "MAFT+"}
# The published adapters on MAFT+ were trained on its scrambled tokens.
TOKEN_ORDERS_OF_BASE: dict[Base, TokenOrder] = {"fcclip": "channels_last", "maft_plus": "legacy"}


@dataclass(frozen=True)
class FileFacts:
    """What a published file is.

    Attributes:
        base: what the adapter stands on; None where the file leaves out everything that tells.
        queries: masks per image of its decoder; None without one.
        has_adapter: whether it holds an adapter, or is a base alone.
        has_decoder: False for files of the first phase.
    """

    base: Base | None
    queries: int | None
    has_adapter: bool
    has_decoder: bool

    def __str__(self) -> str:
        base = "an unknown base" if self.base is None else NAMES[self.base]
        what = f"Mask-Adapter on {base}" if self.has_adapter else f"{base} without an adapter"
        decoder = f"{self.queries} queries" if self.has_decoder else "no decoder (first phase)"
        return f"{what}, {decoder}"


def is_published_layout(state: Mapping[str, Any]) -> bool:
    """Tell whether a file has published names, the adapter alone included."""
    return is_published(state) or any(key.startswith(ADAPTER_PREFIX) for key in state)


def inspect_file(state: Mapping[str, Any]) -> FileFacts:
    """Find out what a published file is.

    The text transfer of MAFT+ tells its base, otherwise the number of queries does (FC-CLIP 250, MAFT+ 100); a decoder
    of another number without a transfer is of FC-CLIP's kind.

    Args:
        state: tensors under published names, wrappers removed.

    Example:
        >>> print(inspect_file({"mask_adapter.final.bias": None}))
        Mask-Adapter on an unknown base, no decoder (first phase)
    """
    queries = None if state.get(_QUERIES) is None else len(state[_QUERIES])
    has_decoder = any(key.startswith(_DECODER) for key in state)
    base: Base | None = None
    if any(key.startswith(TRANSFER_PREFIX) for key in state):
        base = "maft_plus"
    elif has_decoder:
        base = _BASE_OF_QUERIES.get(queries or 0, "fcclip")
    has_adapter = any(key.startswith(ADAPTER_PREFIX) for key in state)
    return FileFacts(base, queries, has_adapter, has_decoder)


def check_base(facts: FileFacts, *, has_transfer: bool, transfers: bool) -> None:
    """Raise if a file stands on another base than the model.

    Args:
        facts: of the file.
        has_transfer: whether the file holds MAFT+'s text transfer.
        transfers: whether the model has one.

    Raises:
        ValueError: saying which config fits.
    """
    if facts.base == "maft_plus" and not transfers:
        raise ValueError(
            f"the file is {facts}, but this model has no text transfer. Use a config named "
            "mask-adapter_maftp_*, or set text_transfer=dict(type='ContentDependentTransfer', ...)."
        )
    if facts.has_decoder and transfers and not has_transfer:
        raise ValueError(
            f"the file is {facts}, and its text transfer (cdt.*) is missing, which this model needs. Use a config "
            "named mask-adapter_fcclip_*, or leave out text_transfer."
        )


def complete_file(first_phase: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Put the adapter of a first-phase file into its base.

    As published, decoder and void embedding are the base's; so is everything else, that the two are of one CLIP.

    Args:
        first_phase: tensors of the file that holds the adapter, under this package's names.
        base: tensors of FC-CLIP's or MAFT+'s file, under the same.

    Raises:
        ValueError: if the first holds no adapter.
    """
    adapter = {key: value for key, value in first_phase.items() if key.startswith(_CLASSIFIER)}
    if not adapter:
        raise ValueError("the first-phase file has no adapter: expected tensors below mask_adapter.")
    return {key: value for key, value in base.items() if not key.startswith(_CLASSIFIER)} | adapter
