"""From the key names that published CLIP files use to OpenAI's, which the towers are built on."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor

from mmseg_plugins.towers.config import ClipConfig, TextConfig, VisionConfig

# Entries that OpenAI's and Hugging Face's files carry beside the weights.
_NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size", "attn_mask", "text.attn_mask")
_POSITION_IDS = ".position_ids"

_TEXT_ROOTS = ("token_embedding.", "positional_embedding", "transformer.", "ln_final.", "text_projection")
_TOWER_ROOTS = ("conv1.weight", "class_embedding", "trunk.")

LAYOUTS = ("openai_clip", "open_clip", "hf_clip", "slip", "clip_refine", "vision_only", "text_only")
_REFINE_PREFIX = "backbone."

_HF_BLOCK = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
_TIMM_BLOCK = {
    "norm1": "ln_1",
    "norm2": "ln_2",
    "attn.proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def detect_layout(keys: Iterable[str]) -> str:
    """Tell from key names which layout a file has.

    Returns:
        ``openai_clip`` (text tower at the root; open_clip's plain models too), ``open_clip`` (text tower under
        ``text.``, or a timm image tower), ``hf_clip`` (Hugging Face), ``slip`` (SLIP, LaCLIP: timm image transformer
        beside OpenAI's text tower), ``clip_refine`` (a CLIP under ``backbone.`` beside a temperature of its own),
        ``vision_only`` or ``text_only`` (one tower in OpenAI's names).

    Raises:
        ValueError: if the keys are of no known CLIP file; the message shows some of them.
    """
    keys = set(keys)
    if any(key.startswith(("vision_model.", "text_model.")) for key in keys):
        return "hf_clip"
    if "visual.cls_token" in keys:
        return "slip"
    if any(key.startswith(f"{_REFINE_PREFIX}visual.") for key in keys):
        return "clip_refine"
    has_text = any(key.startswith(("text.", *_TEXT_ROOTS)) for key in keys)
    if any(key.startswith("visual.") for key in keys):
        is_nested = any(key.startswith(("text.", "visual.trunk.")) for key in keys)
        return "open_clip" if is_nested else "openai_clip" if has_text else "vision_only"
    if keys & set(_TOWER_ROOTS) or any(key.startswith("trunk.") for key in keys):
        return "vision_only"
    if "token_embedding.weight" in keys or "text.token_embedding.weight" in keys or "token_embedding.rows" in keys:
        return "text_only"
    shown = ", ".join(sorted(keys)[:5])
    raise ValueError(
        f"These weights are of no known CLIP file. Known layouts: {', '.join(LAYOUTS)}. Keys: {shown}, ..."
    )


def to_openai_layout(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """Rename a file's tensors to OpenAI's keys: ``visual.`` in front of the image tower, the text tower at the root.

    Args:
        state: flat dictionary, wrappers already removed.

    Returns:
        The renamed tensors, and the name of the layout that was found.

    Raises:
        ValueError: if the layout is not known.
    """
    layout = detect_layout(state)
    if layout == "hf_clip":
        return _from_hugging_face(state), layout
    if layout == "slip":
        return _from_slip(state), layout
    if layout == "clip_refine":
        inner = {key.removeprefix(_REFINE_PREFIX): value for key, value in state.items() if key != "logit_scale"}
        trained = {key: value for key, value in state.items() if key == "logit_scale"}
        return {**to_openai_layout(inner)[0], **trained}, layout
    kept = {key: value for key, value in state.items() if key not in _NOT_WEIGHTS and not key.endswith(_POSITION_IDS)}
    if layout == "vision_only" and not any(key.startswith("visual.") for key in kept):
        return {f"visual.{key}": value for key, value in kept.items()}, layout
    return {key.removeprefix("text."): value for key, value in kept.items()}, layout


def part_of(key: str) -> str:
    """Return which part of a model an OpenAI key belongs to: ``image``, ``text``, ``logits`` or ``unknown``."""
    if key.startswith("visual."):
        return "image"
    if key.startswith(_TEXT_ROOTS):
        return "text"
    return "logits" if key in ("logit_scale", "logit_bias") else "unknown"


def infer_clip_config(state: Mapping[str, Tensor], *, heads: int | None = None, act: str = "quick_gelu") -> ClipConfig:
    """Read a model's sizes off its tensors.

    Args:
        state: tensors of any layout that :func:`detect_layout` knows, with an OpenAI-style image tower or none.
        heads: attention heads of the image tower; None: width / 64, as in every OpenAI model.
        act: activation, which no file tells: OpenAI's and most Hugging Face files need ``quick_gelu``, open_clip's
            own training ``gelu``.

    Raises:
        ValueError: if the image tower is not one that its tensors describe (timm trunks: name the model instead).
    """
    tensors, layout = to_openai_layout(state)
    vision = _infer_vision(tensors, heads) if any(key.startswith("visual.") for key in tensors) else None
    text = _infer_text(tensors) if "ln_final.weight" in tensors else None
    if vision is not None:
        eps = 1e-6 if layout == "slip" else 1e-5
        vision = replace(vision, act="gelu" if layout == "slip" else act, norm_eps=eps)
    return ClipConfig(
        name=f"{layout} file",
        embed_dim=_infer_embed_dim(tensors),
        vision=vision,
        text=text and replace(text, act=act),
    )


def _infer_embed_dim(tensors: Mapping[str, Tensor]) -> int:
    for key, axis in (("visual.proj", 1), ("visual.attnpool.c_proj.weight", 0), ("text_projection", 1)):
        if key in tensors:
            return tensors[key].shape[axis]
    return 0


def _infer_vision(tensors: Mapping[str, Tensor], heads: int | None) -> VisionConfig:
    if "visual.layer1.0.conv1.weight" in tensors:
        return _infer_resnet(tensors, heads)
    if "visual.conv1.weight" not in tensors or "visual.class_embedding" not in tensors:
        raise ValueError("The image tower's sizes cannot be read off its tensors: give the model's name instead.")
    width, _, patch, _ = tensors["visual.conv1.weight"].shape
    side = round((tensors["visual.positional_embedding"].shape[0] - 1) ** 0.5)
    experts = _count(tensors, r"visual\.transformer\.resblocks\.\d+\.experts\.(\d+)\.")
    hidden = next(value.shape[0] for key, value in tensors.items() if re.search(r"^visual\..*\.c_fc\.weight$", key))
    return VisionConfig(
        family="vit",
        image_size=(side * patch, side * patch),
        width=width,
        layers=_count(tensors, r"visual\.transformer\.resblocks\.(\d+)\."),
        heads=heads or max(width // 64, 1),
        patch=patch,
        mlp_ratio=hidden / width,
        norm_before="visual.ln_pre.weight" in tensors,
        patch_bias="visual.conv1.bias" in tensors,
        experts=experts,
        expert_layers=_count_experts(tensors, "visual."),
    )


def _infer_resnet(tensors: Mapping[str, Tensor], heads: int | None) -> VisionConfig:
    width = tensors["visual.layer1.0.conv1.weight"].shape[0]
    side = 32 * round((tensors["visual.attnpool.positional_embedding"].shape[0] - 1) ** 0.5)
    return VisionConfig(
        family="resnet",
        image_size=(side, side),
        width=width,
        layers=tuple(_count(tensors, rf"visual\.layer{stage}\.(\d+)\.") for stage in (1, 2, 3, 4)),
        heads=heads or max(width * 32 // 64, 1),
    )


def _infer_text(tensors: Mapping[str, Tensor]) -> TextConfig:
    width = tensors["ln_final.weight"].shape[0]
    table = tensors.get("token_embedding.weight")
    return TextConfig(
        context_length=tensors["positional_embedding"].shape[0],
        vocab_size=49408 if table is None else table.shape[0],
        width=width,
        heads=max(width // 64, 1),
        layers=_count(tensors, r"transformer\.resblocks\.(\d+)\."),
        kept_positions=20 if "positional_embedding_res" in tensors else 0,
        experts=_count(tensors, r"transformer\.resblocks\.\d+\.experts\.(\d+)\."),
        expert_layers=_count_experts(tensors, "transformer."),
    )


def _count(tensors: Mapping[str, Tensor], pattern: str) -> int:
    return len({found.group(1) for key in tensors if (found := re.match(pattern, key))})


def _count_experts(tensors: Mapping[str, Tensor], front: str) -> int:
    gates = [key for key in tensors if key.startswith(front) and key.endswith(".gate.weight")]
    return len(gates) or VisionConfig.expert_layers


def _from_hugging_face(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    stacked: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        if key.endswith(_POSITION_IDS):
            continue
        block = re.fullmatch(r"(vision|text)_model\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", key)
        if block is None:
            renamed.update(_rename_hugging_face(key, value))
            continue
        tower, index, name, kind = block.groups()
        front = f"{'visual.' if tower == 'vision' else ''}transformer.resblocks.{index}."
        if name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"):
            stacked.setdefault(f"{front}attn.in_proj_{kind}", {})[name[-6]] = value
        else:
            renamed[f"{front}{_HF_BLOCK.get(name, name)}.{kind}"] = value
    for key, parts in stacked.items():
        if len(parts) != 3:
            raise ValueError(
                f"Weights do not fit: {key} needs q, k and v projections, but the file has {sorted(parts)}."
            )
        renamed[key] = torch.cat([parts["q"], parts["k"], parts["v"]])
    return renamed


_HF_NAMES = {
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
}
_HF_FRONTS = {
    "vision_model.pre_layrnorm.": "visual.ln_pre.",  # the library's own spelling
    "vision_model.post_layernorm.": "visual.ln_post.",
    "text_model.final_layer_norm.": "ln_final.",
}
_HF_TRANSPOSED = {"visual_projection.weight": "visual.proj", "text_projection.weight": "text_projection"}


def _rename_hugging_face(key: str, value: Tensor) -> dict[str, Tensor]:
    if key in _HF_TRANSPOSED:
        return {_HF_TRANSPOSED[key]: value.T}
    if key in _HF_NAMES:
        return {_HF_NAMES[key]: value}
    for front, ours in _HF_FRONTS.items():
        if key.startswith(front):
            return {ours + key.removeprefix(front): value}
    return {key: value}


def _from_slip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        if key == "image_projection":
            renamed["visual.proj"] = value
        elif key == "visual.cls_token":
            renamed["visual.class_embedding"] = value.flatten()
        elif key == "visual.pos_embed":
            renamed["visual.positional_embedding"] = value[0]
        else:
            renamed[_slip_name(key)] = value
    return renamed


def _slip_name(key: str) -> str:
    for front, ours in (("visual.patch_embed.proj.", "visual.conv1."), ("visual.norm.", "visual.ln_post.")):
        if key.startswith(front):
            return ours + key.removeprefix(front)
    block = re.fullmatch(r"visual\.blocks\.(\d+)\.(.+)\.(weight|bias)", key)
    if block is None:
        return key
    index, name, kind = block.groups()
    front = f"visual.transformer.resblocks.{index}."
    return f"{front}attn.in_proj_{kind}" if name == "attn.qkv" else f"{front}{_TIMM_BLOCK.get(name, name)}.{kind}"


def compare_keys(
    wanted: Mapping[str, Tensor], given: Mapping[str, Tensor], *, what: str, optional: tuple[str, ...] = ()
) -> None:
    """Check that tensors fit a module exactly.

    Args:
        wanted: the module's state dictionary.
        given: the file's tensors under the module's names.
        what: the part in words, for the message.
        optional: endings of keys that may be missing.

    Raises:
        ValueError: naming the first few and the number of missing, unexpected and wrongly shaped keys.
    """
    missing = [key for key in wanted if key not in given and not key.endswith(optional or ("\0",))]
    unexpected = [key for key in given if key not in wanted]
    misshapen = [
        f"{key}: {tuple(given[key].shape)} in the file, {tuple(wanted[key].shape)} in the model"
        for key in wanted
        if key in given and wanted[key].shape != given[key].shape
    ]
    if not missing and not unexpected and not misshapen:
        return
    problems = [
        f"{len(items)} {word}{_first_few(items)}"
        for word, items in (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen))
    ]
    remedy = "Name a file of this model, or build the model that the file is of."
    raise ValueError(f"Weights do not fit {what}: {', '.join(problems)}.{_closest(missing, unexpected)} {remedy}")


def _first_few(items: list[str], shown: int = 3) -> str:
    if not items:
        return ""
    return f" ({', '.join(items[:shown])}{', ...' if len(items) > shown else ''})"


def _closest(missing: list[str], unexpected: list[str]) -> str:
    if not missing or not unexpected:
        return ""
    close = get_close_matches(missing[0], unexpected, n=1, cutoff=0.8)
    return f" {close[0]!r} in the file resembles the missing {missing[0]!r}." if close else ""


def describe(config: ClipConfig) -> dict[str, Any]:
    """Return a model's sizes as plain values, for records and messages."""
    from dataclasses import asdict

    return {key: value for key, value in asdict(config).items() if value is not None}
