"""What a CLIP model is made of: sizes, activations, pooling, normalisation, as plain values."""

import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, Literal

# OpenAI's image statistics on the 0..255 scale, RGB; most CLIP models share them.
CLIP_MEAN = (122.7709383, 116.7460125, 104.09373615)
CLIP_STD = (68.5005327, 66.6321579, 70.32316305)

_HEAD_WIDTH = 64  # of every published CLIP whose record does not say otherwise
_RESNET_EXPANSION = 32  # channels of layer4 per stem channel

Activation = Literal["gelu", "gelu_tanh", "quick_gelu"]


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """An image tower.

    Attributes:
        family: ``vit`` (OpenAI's transformer), ``resnet`` (OpenAI's ModifiedResNet), ``convnext``, ``timm``
            (timm's plain transformers) or ``pyramid`` (timm's FastViT).
        image_size: (H, W) in pixels that the position table belongs to.
        width: trunk width: token width of a ViT, stem width of a ResNet; 0 when the timm trunk decides.
        layers: number of blocks, or blocks of each of the four stages of a ResNet.
        heads: attention heads (ResNet: of the attention pool).
        patch: patch side in pixels (ViT).
        mlp_ratio: hidden width of the MLP over ``width``.
        act: activation of the MLP.
        norm_eps: epsilon of the layer norms.
        pool: ``tok`` (class token) or ``avg`` (mean of the patches): what the image embedding is made of.
        norm_before: whether there is a layer norm in front of the blocks.
        norm_after_pool: whether the last layer norm acts on the pooled vector instead of each token.
        layer_scale: initial value of the per-channel factors behind attention and MLP; None: there are none.
        patch_bias: whether the patch convolution has a bias.
        experts: experts of a mixture-of-experts MLP; 0: an ordinary MLP.
        experts_per_token: how many experts a token is sent to.
        expert_layers: how many of the last blocks have experts.
        timm_name, timm_pool, timm_proj, timm_proj_bias: open_clip's way to say which timm trunk, and how its
            output becomes the embedding.
        timm_options: further arguments of the trunk (``depths`` and ``dims`` of a small ConvNeXt).
    """

    family: Literal["vit", "resnet", "convnext", "timm", "pyramid"] = "vit"
    image_size: tuple[int, int] = (224, 224)
    width: int = 768
    layers: int | tuple[int, ...] = 12
    heads: int = 12
    patch: int | None = None
    mlp_ratio: float = 4.0
    act: Activation = "gelu"
    norm_eps: float = 1e-5
    pool: Literal["tok", "avg"] = "tok"
    norm_before: bool = True
    norm_after_pool: bool = False
    layer_scale: float | None = None
    patch_bias: bool = False
    experts: int = 0
    experts_per_token: int = 2
    expert_layers: int = 24
    timm_name: str | None = None
    timm_pool: str = "avg"
    timm_proj: str | None = "linear"
    timm_proj_bias: bool = False
    timm_options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """A text tower.

    Attributes:
        context_length: positions of the tower; a longer prompt is an error.
        vocab_size: rows of the token table.
        width, heads, layers, mlp_ratio, act, norm_eps: of the transformer.
        is_causal: whether a token sees only what stands before it. Only then may prompts be encoded at the length
            of the longest one; other towers need the full context length.
        pool: which position becomes the embedding: ``argmax`` (largest id: end of text), ``eos`` (first ``eos_id``),
            ``last`` or ``first``.
        eos_id: end-of-text id (only ``pool='eos'``).
        projection: ``linear``, ``linear_bias`` or ``none``.
        tokenizer: None for CLIP's byte-pair encoding, otherwise a Hugging Face tokeniser's name.
        tokenizer_options: what open_clip hands to that tokeniser.
        kept_positions: Long-CLIP's first positions that use the frozen table; 0: there is one table.
        experts, experts_per_token, expert_layers: as in :class:`VisionConfig`.
    """

    context_length: int = 77
    vocab_size: int = 49408
    width: int = 512
    heads: int = 8
    layers: int = 12
    mlp_ratio: float = 4.0
    act: Activation = "gelu"
    norm_eps: float = 1e-5
    is_causal: bool = True
    pool: Literal["argmax", "eos", "last", "first"] = "argmax"
    eos_id: int = 2
    projection: Literal["linear", "linear_bias", "none"] = "linear"
    tokenizer: str | None = None
    tokenizer_options: Mapping[str, Any] = field(default_factory=dict)
    kept_positions: int = 0
    experts: int = 0
    experts_per_token: int = 2
    expert_layers: int = 24


@dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """A CLIP model: two towers and the space they share.

    Attributes:
        name: what it is called in messages.
        embed_dim: width of the joint space; 0: the image tower has no projection (image-only models).
        vision: the image tower, None where there is none.
        text: the text tower, None where there is none.
        image_mean, image_std: RGB statistics on the 0..255 scale.
        logit_bias: initial bias of the logits (SigLIP), None where there is none.
    """

    name: str = "clip"
    embed_dim: int = 512
    vision: VisionConfig | None = None
    text: TextConfig | None = None
    image_mean: tuple[float, float, float] = CLIP_MEAN
    image_std: tuple[float, float, float] = CLIP_STD
    logit_bias: float | None = None

    @classmethod
    def from_open_clip(
        cls,
        model: str | Mapping[str, Any],
        *,
        quick_gelu: bool | None = None,
        name: str | None = None,
        image_mean: tuple[float, float, float] = CLIP_MEAN,
        image_std: tuple[float, float, float] = CLIP_STD,
    ) -> "ClipConfig":
        """Read one of open_clip's model configurations.

        Args:
            model: its name, such as ``ViT-B-16`` or ``convnext_large_d_320``, or the content of such a file.
            quick_gelu: overrides what the configuration says (OpenAI's weights under the plain name need it).
            name: what to call the model in messages.
            image_mean: RGB mean on the 0..255 scale, which depends on the weights rather than on the model.
            image_std: RGB standard deviation on the 0..255 scale.

        Raises:
            KeyError: if open_clip has no such model; the message lists the nearest names.
            ValueError: if the model has parts that are not supported here; the message names them.
        """
        name = name or (model if isinstance(model, str) else "open_clip model")
        content = _open_clip_content(model) if isinstance(model, str) else dict(model)
        is_quick = bool(content.get("quick_gelu", False)) if quick_gelu is None else quick_gelu
        return cls(
            name=name,
            embed_dim=content["embed_dim"],
            image_mean=tuple(image_mean),
            image_std=tuple(image_std),
            vision=_open_clip_vision(name, content["vision_cfg"], is_quick),
            text=_open_clip_text(name, content["text_cfg"], is_quick) if "text_cfg" in content else None,
            logit_bias=content.get("init_logit_bias"),
        )

    @classmethod
    def from_openai_numbers(
        cls,
        numbers: Mapping[str, Any],
        *,
        vision_heads: int | None = None,
        act: Activation = "quick_gelu",
        norm_eps: float = 1e-5,
        name: str = "clip",
    ) -> "ClipConfig":
        """Build the configuration from the numbers that OpenAI's model constructor takes.

        Args:
            numbers: ``embed_dim, image_resolution, vision_layers, vision_width, vision_patch_size`` and, for the text
                tower, ``context_length, vocab_size, transformer_width, transformer_heads, transformer_layers``;
                ``vision_heads``, ``act`` and ``eps`` where the source gives them.
            vision_heads: attention heads of the image tower where they are not width / 64.
            act: activation of both towers.
            norm_eps: epsilon of the layer norms of both towers.
            name: what to call the model in messages.
        """
        act, norm_eps = numbers.get("act", act), numbers.get("eps", norm_eps)
        vision = _openai_vision(numbers, vision_heads or numbers.get("vision_heads"))
        text = None
        if "transformer_width" in numbers:
            width = numbers["transformer_width"]
            text = TextConfig(
                context_length=numbers.get("context_length", 77),
                vocab_size=numbers.get("vocab_size", 49408),
                width=width,
                heads=numbers.get("transformer_heads") or max(width // _HEAD_WIDTH, 1),
                layers=numbers["transformer_layers"],
                act=act,
                norm_eps=norm_eps,
            )
        vision = vision and replace(vision, act=act, norm_eps=norm_eps)
        return cls(name=name, embed_dim=numbers["embed_dim"], vision=vision, text=text)


def list_open_clip_models() -> list[str]:
    """Return the names of the models that open_clip describes."""
    return sorted(path.stem for path in _open_clip_folder().glob("*.json"))


@cache
def _open_clip_folder() -> Path:
    # The files are read as data: importing open_clip takes seconds and is needed only by timm trunks and tokenisers.
    spec = importlib.util.find_spec("open_clip")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("open_clip is not installed. Install it with: pip install open_clip_torch")
    return Path(spec.submodule_search_locations[0]) / "model_configs"


def _open_clip_content(name: str) -> dict[str, Any]:
    path = _open_clip_folder() / f"{name}.json"
    if not path.is_file():
        names = list_open_clip_models()
        close = get_close_matches(name, names, n=3, cutoff=0.5)
        hint = f"Did you mean {', '.join(map(repr, close))}?" if close else f"Available: {', '.join(names)}."
        raise KeyError(f"Unknown CLIP model {name!r}. {hint}")
    return json.loads(path.read_text(encoding="utf-8"))


def _as_pair(size: int | list[int] | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _act(options: Mapping[str, Any], is_quick: bool) -> Activation:
    if is_quick:
        return "quick_gelu"
    return "gelu_tanh" if (options.get("act_kwargs") or {}).get("approximate") == "tanh" else "gelu"


def _norm_eps(options: Mapping[str, Any]) -> float:
    return float((options.get("norm_kwargs") or {}).get("eps", 1e-5))


def _refuse(name: str, tower: str, options: Mapping[str, Any], keys: tuple[str, ...]) -> None:
    used = [key for key in keys if options.get(key)]
    if used:
        raise ValueError(f"The {tower} tower of {name!r} uses {', '.join(used)}, which is not supported here.")


# What timm trunks' names start with, where they are not plain transformers.
_TIMM_FAMILIES = {"convnext": "convnext", "fastvit": "pyramid"}
_CUSTOM_ATTENTION = ("qk_norm", "scaled_cosine_attn", "scale_heads", "scale_attn_inner", "scale_attn", "scale_fc")


def _open_clip_vision(name: str, options: Mapping[str, Any], is_quick: bool) -> VisionConfig:
    size = _as_pair(options.get("image_size", 224))
    if options.get("timm_model_name"):
        trunk = options["timm_model_name"]
        return VisionConfig(
            family=next((family for front, family in _TIMM_FAMILIES.items() if trunk.startswith(front)), "timm"),
            image_size=size,
            width=0,
            layers=0,
            heads=0,
            timm_name=trunk,
            timm_pool=options.get("timm_pool", "avg"),
            timm_proj=options.get("timm_proj", "linear"),
            timm_proj_bias=options.get("timm_proj_bias", False),
        )
    _refuse(name, "image", options, ("attentional_pool", *_CUSTOM_ATTENTION))
    width, layers, head_width = options.get("width", 768), options.get("layers", 12), options.get("head_width", 64)
    is_resnet = isinstance(layers, (list, tuple))
    return VisionConfig(
        family="resnet" if is_resnet else "vit",
        image_size=size,
        width=width,
        layers=tuple(layers) if is_resnet else layers,
        heads=width * (_RESNET_EXPANSION if is_resnet else 1) // head_width,
        patch=None if is_resnet else options.get("patch_size", 16),
        mlp_ratio=options.get("mlp_ratio", 4.0),
        act=_act(options, is_quick),
        norm_eps=_norm_eps(options),
        pool=options.get("pool_type", "tok"),
        norm_before=not options.get("no_ln_pre", False),
        norm_after_pool=options.get("final_ln_after_pool", False),
        layer_scale=options.get("ls_init_value"),
    )


def _open_clip_text(name: str, options: Mapping[str, Any], is_quick: bool) -> TextConfig | None:
    if options.get("hf_model_name"):
        return None  # a Hugging Face language model; build_clip says so when its text tower is asked for
    _refuse(name, "text", options, ("embed_cls", *_CUSTOM_ATTENTION))
    projection = "linear_bias" if options.get("proj_bias") else options.get("proj_type", "linear")
    return TextConfig(
        context_length=options.get("context_length", 77),
        vocab_size=options.get("vocab_size", 49408),
        width=options.get("width", 512),
        heads=options.get("heads", 8),
        layers=options.get("layers", 12),
        mlp_ratio=options.get("mlp_ratio", 4.0),
        act=_act(options, is_quick),
        norm_eps=_norm_eps(options),
        is_causal=not options.get("no_causal_mask", False),
        pool=options.get("pool_type", "argmax"),
        eos_id=options.get("eos_id", 2),
        projection=projection,
        tokenizer=options.get("hf_tokenizer_name"),
        tokenizer_options=dict(options.get("tokenizer_kwargs") or {}),
    )


def _openai_vision(numbers: Mapping[str, Any], heads: int | None) -> VisionConfig | None:
    if "vision_layers" not in numbers:
        return None
    layers, width = numbers["vision_layers"], numbers["vision_width"]
    is_resnet = isinstance(layers, (list, tuple))
    total = width * (_RESNET_EXPANSION if is_resnet else 1)
    return VisionConfig(
        family="resnet" if is_resnet else "vit",
        image_size=_as_pair(numbers["image_resolution"]),
        width=width,
        layers=tuple(layers) if is_resnet else layers,
        heads=heads or max(total // _HEAD_WIDTH, 1),
        patch=None if is_resnet else numbers["vision_patch_size"],
    )
