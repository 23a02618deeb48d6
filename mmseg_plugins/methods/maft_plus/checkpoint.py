"""The published layout of MAFT+: what its files say of themselves, and the parts that FC-CLIP's lack."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

_TRANSFER = "cdt."


def transfer_tensors(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Pick the text transfer's tensors out of a published file, without their leading ``cdt.``."""
    return {key.removeprefix(_TRANSFER): value for key, value in state.items() if key.startswith(_TRANSFER)}
