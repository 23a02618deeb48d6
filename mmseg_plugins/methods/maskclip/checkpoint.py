"""The release's converted CLIP files, back under OpenAI's names.

The release splits OpenAI's file in two: ``*_clip_backbone.pth`` (the trunk under ``backbone.``) and
``*_clip_weights.pth`` (the trunk under ``clip`` and the projections beside it). Only the second holds everything the
dense features need, so it is the one that loads here; OpenAI's own file loads as well and also brings the text tower.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

_VIT = [
    (r"^cls_token$", "class_embedding"),
    (r"^pos_embed$", "positional_embedding"),
    (r"^patch_embed\.projection\.", "conv1."),
    (r"^ln0\.", "ln_pre."),
    (r"^ln1\.", "ln_post."),
    (r"^layers\.(\d+)\.attn\.attn\.", r"transformer.resblocks.\1.attn."),
    (r"^layers\.(\d+)\.ffn\.layers\.0\.0\.", r"transformer.resblocks.\1.mlp.c_fc."),
    (r"^layers\.(\d+)\.ffn\.layers\.1\.", r"transformer.resblocks.\1.mlp.c_proj."),
    (r"^layers\.(\d+)\.ln([12])\.", r"transformer.resblocks.\1.ln_\2."),
]
_STEM = {"0": "conv1", "1": "bn1", "3": "conv2", "4": "bn2", "6": "conv3", "7": "bn3"}
_ATTENTION_POOL = ("q_proj", "k_proj", "v_proj", "c_proj")


def is_release_file(content: Mapping[str, Any]) -> bool:
    """Tell whether this is the content of ``*_clip_weights.pth``: the trunk nested under ``clip``."""
    return isinstance(content.get("clip"), Mapping)


def flatten_release(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors of ``*_clip_weights.pth`` under dotted names: ``clip.layers.0...``, ``proj.weight``."""
    flat = {}
    for name, value in content.items():
        entries = value.items() if isinstance(value, Mapping) else [("weight", value)]
        flat |= {f"{name}.{leaf}": tensor for leaf, tensor in entries}
    return flat


def is_release_state(state: Mapping[str, Any]) -> bool:
    """Tell whether these tensors come from one of the two converted files."""
    trunk = "backbone." if all(key.startswith("backbone.") for key in state) else "clip."
    firsts = tuple(f"{trunk}{first}" for first in ("patch_embed.", "stem.", "layers."))
    return any(key.startswith(firsts) for key in state)


def to_clip_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a ``*_clip_weights.pth`` file to OpenAI's ``visual.*`` names.

    Args:
        state: its tensors as :func:`flatten_release` gives them.

    Raises:
        ValueError: for the other file of the pair, which lacks the projections.
    """
    if any(key.startswith("backbone.") for key in state):
        raise ValueError(
            "this is the release's *_clip_backbone.pth, which lacks the projection into the joint space. "
            "Load the *_clip_weights.pth beside it, or OpenAI's own file."
        )
    renamed = {}
    for key, value in state.items():
        if key.startswith("clip."):
            name, tensor = _trunk(key.removeprefix("clip."), value)
        else:
            name, tensor = _projection(key, value)
        renamed[f"visual.{name}"] = tensor
    return renamed


def _trunk(key: str, value: Tensor) -> tuple[str, Tensor]:
    if key in ("cls_token", "pos_embed"):
        value = value.reshape(value.shape[-1] if key == "cls_token" else value.shape[1:])
    for pattern, replacement in _VIT:
        key, count = re.subn(pattern, replacement, key)
        if count:
            return key, value
    key = re.sub(r"^stem\.(\d+)\.", lambda match: f"{_STEM[match[1]]}.", key)
    # The release keeps the average pool as entry 0 of the shortcut.
    return re.sub(r"\.downsample\.([12])\.", lambda match: f".downsample.{int(match[1]) - 1}.", key), value


def _projection(key: str, value: Tensor) -> tuple[str, Tensor]:
    name, _, leaf = key.partition(".")
    matrix = value.flatten(1) if leaf == "weight" else value  # stored as 1x1 convolutions
    if name == "proj":
        return "proj", matrix.T
    if name in _ATTENTION_POOL:
        return f"attnpool.{key}", matrix
    raise ValueError(f"unexpected entry {key!r} in a file of MaskCLIP's release.")
