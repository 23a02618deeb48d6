"""The published file of the two layers, ``{'epoch': int, 'model_state_dict': {four tensors}}``."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

PREFIX = "layers."
_PUBLISHED = ("obj_proj.", "bkg_decoder.")


def is_layers_state(state: Mapping[str, Any]) -> bool:
    """Tell whether these tensors are the two layers and nothing else, under published names or this model's."""
    return bool(state) and all(key.removeprefix(PREFIX).startswith(_PUBLISHED) for key in state)


def to_model_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Bring the two layers' tensors to this model's names."""
    return {PREFIX + key.removeprefix(PREFIX): value for key, value in state.items()}


def to_published_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Pick the two layers' tensors out of a model's state, under published names."""
    return {key.removeprefix(PREFIX): value for key, value in state.items() if key.startswith(PREFIX)}
