"""The published file of the two layers, ``{'epoch': int, 'model_state_dict': {four tensors}}``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from mmseg_plugins.towers import weights
from mmseg_plugins.towers.files import asset_path

PREFIX = "layers."
_PUBLISHED = ("obj_proj.", "bkg_decoder.")
_ASSET = "asset://"


def is_layers_state(state: Mapping[str, Any]) -> bool:
    """Tell whether these tensors are the two layers and nothing else, under published names or this model's."""
    return bool(state) and all(key.removeprefix(PREFIX).startswith(_PUBLISHED) for key in state)


def to_model_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Bring the two layers' tensors to this model's names."""
    return {PREFIX + key.removeprefix(PREFIX): value for key, value in state.items()}


def to_published_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Pick the two layers' tensors out of a model's state, under published names."""
    return {key.removeprefix(PREFIX): value for key, value in state.items() if key.startswith(PREFIX)}


def find_file(name: str) -> Path:
    """Return a file of weights.

    Args:
        name: its path; ``asset://NAME`` of one that comes with the package; or its record's name, fetched on first use.

    Raises:
        KeyError: if there is no such record.
        FileNotFoundError: if the file does not exist and cannot be fetched.
    """
    return asset_path(name.removeprefix(_ASSET)) if name.startswith(_ASSET) else weights.find_file(name)
