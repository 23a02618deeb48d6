"""A CLIP model: image tower, text tower, temperature; built by name and filled from any published layout."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mmseg_plugins.towers.config import Activation, ClipConfig, VisionConfig
from mmseg_plugins.towers.dense import DenseFeatures, DenseOptions, Steering
from mmseg_plugins.towers.files import asset_path, read_tensors, unwrap_state_dict
from mmseg_plugins.towers.layouts import compare_keys, part_of, to_openai_layout
from mmseg_plugins.towers.text import TextTower

if TYPE_CHECKING:
    from mmseg_plugins.towers.weights import WeightsRecord

EMBEDDED_MODEL = "shapesworld"
_EMBEDDED_ASSET = "shapes_clip"
_INITIAL_LOGIT_SCALE = 2.6592600  # log(1 / 0.07), CLIP's start
WeightsSource = str | Path | Mapping[str, Tensor]
_SPARSE_ROWS, _SPARSE_IDS = "token_embedding.rows", "token_embedding.ids"


class Clip(nn.Module):
    """Two towers and the space they share.

    Args:
        config: what to build.
        image, text: which towers to build; a model without one cannot do what needs it, and says so.

    Attributes:
        visual: image tower, None where it was left out.
        text: text tower, None where it was left out.
        logit_scale: logarithm of the temperature's inverse.
        logit_bias: bias of the logits, None where the model has none.
        config: what was built.
    """

    def __init__(self, config: ClipConfig, *, image: bool = True, text: bool = True) -> None:
        super().__init__()
        if image and config.vision is None:
            raise ValueError(f"Model {config.name!r} has no image tower. Pass image=False.")
        if text and config.text is None:
            raise ValueError(f"Model {config.name!r} has no text tower that is supported here. Pass text=False.")
        self.config = config
        self.visual = build_image_tower(config) if image else None
        self.text = TextTower(config.text, embed_dim=config.embed_dim) if text else None
        self.logit_scale = nn.Parameter(torch.tensor(_INITIAL_LOGIT_SCALE))
        self.logit_bias = None if config.logit_bias is None else nn.Parameter(torch.tensor(float(config.logit_bias)))

    @property
    def embed_dim(self) -> int:
        """Width of the joint space."""
        return self.config.embed_dim

    def encode_image(self, image_B3HW: Tensor) -> Tensor:
        """Embed whole images, (B, D), not normalised."""
        return self._need(self.visual, "image").encode_image(image_B3HW)

    def forward_dense(
        self, image_B3HW: Tensor, options: DenseOptions | None = None, *, steering: Steering | None = None
    ) -> DenseFeatures:
        """Compute features for every place of images; see the image tower."""
        return self._need(self.visual, "image").forward_dense(image_B3HW, options, steering=steering)

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """Embed prompts given as strings, (N, D), not normalised."""
        tower = self._need(self.text, "text")
        tokens = tower.tokenize(prompts)
        return tower.encode_tokens(tokens.to(tower.positional_embedding.device))

    def forward(self, image_B3HW: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Embed images and tokenised prompts: (B, D) and (N, D), both of unit length."""
        image = nn.functional.normalize(self.encode_image(image_B3HW), dim=-1)
        text = nn.functional.normalize(self._need(self.text, "text").encode_tokens(tokens), dim=-1)
        return image, text

    def _need(self, tower: nn.Module | None, name: str) -> nn.Module:
        if tower is None:
            raise ValueError(
                f"Model {self.config.name!r} was built without its {name} tower. Build it with {name}=True."
            )
        return tower


def build_image_tower(config: ClipConfig) -> nn.Module:
    """Build the image tower of a configuration.

    Raises:
        ValueError: if there is no such family.
    """
    vision = config.vision
    builders = {"vit": _vit, "resnet": _resnet, "convnext": _convnext, "timm": _timm}
    if vision.family not in builders:
        raise ValueError(f"Unknown image tower family {vision.family!r}. Available: {', '.join(builders)}.")
    tower: Callable[..., nn.Module] = builders[vision.family]()
    return tower(vision, embed_dim=config.embed_dim, mean=config.image_mean, std=config.image_std)


# Imported when built: timm and open_clip take seconds to import and most towers do not need them.
def _vit() -> type[nn.Module]:
    from mmseg_plugins.towers.vit import DenseViT

    return DenseViT


def _resnet() -> type[nn.Module]:
    from mmseg_plugins.towers.resnet import ModifiedResNet

    return ModifiedResNet


def _convnext() -> type[nn.Module]:
    from mmseg_plugins.towers.convnext import ConvNeXt

    return ConvNeXt


def _timm() -> type[nn.Module]:
    from mmseg_plugins.towers.timm_vit import TimmViT

    return TimmViT


def build_clip(
    model: str | ClipConfig,
    *,
    pretrained: str | Path | None = None,
    act: Activation | None = None,
    norm_eps: float | None = None,
    image: bool = True,
    text: bool = True,
) -> Clip:
    """Build a CLIP model, filled with weights if any are named.

    Args:
        model: open_clip's name (``ViT-B-16``, ``RN50``, ``convnext_large_d_320``, ...), ``shapesworld`` for the
            embedded model, or a configuration.
        pretrained: one of open_clip's tags (``openai``, ``laion2b_s34b_b88k``, ...), downloaded on first use; or a
            file in any published layout; None: random weights (the embedded model always has its own).
        act: activation of the image tower instead of the model's own (MaskCLIP's release: ``gelu``).
        norm_eps: epsilon of the image tower's layer norms instead of the model's own (MaskCLIP's release: 1e-6).
        image: whether to build the image tower.
        text: whether to build the text tower.

    Returns:
        The model in eval mode.

    Raises:
        KeyError: if there is no such model or tag.
        FileNotFoundError: if a file does not exist and cannot be fetched.
        ValueError: if the weights do not fit.
    """
    source = find_clip(model, pretrained=pretrained, act=act, norm_eps=norm_eps)
    clip = Clip(source.config, image=image, text=text)
    path = source.path()
    if path is not None:
        load_clip_weights(clip, path)
    return clip.eval()


@dataclass(frozen=True)
class ClipSource:
    """What to build, and where its weights are to be had.

    Attributes:
        config: the model.
        weights: a file, a record of a download, or None for random weights.
    """

    config: ClipConfig
    weights: "Path | WeightsRecord | None"

    def path(self) -> Path | None:
        """Return the file of weights, downloaded on first use; None where there is none."""
        if self.weights is None or isinstance(self.weights, Path):
            return self.weights
        from mmseg_plugins.towers.weights import resolve

        return resolve(self.weights)


def find_clip(
    model: str | ClipConfig,
    *,
    pretrained: str | Path | None = None,
    act: Activation | None = None,
    norm_eps: float | None = None,
) -> ClipSource:
    """Find out what :func:`build_clip` would build, without building or downloading anything.

    Args:
        model: as for :func:`build_clip`.
        pretrained: as for :func:`build_clip`.
        act: as for :func:`build_clip`.
        norm_eps: as for :func:`build_clip`.

    Raises:
        KeyError: if there is no such model or tag.
    """
    source = _find_source(model, pretrained)
    if source.config.vision is None or (act is None and norm_eps is None):
        return source
    return replace(source, config=replace(source.config, vision=_override(source.config.vision, act, norm_eps)))


def _override(vision: VisionConfig, act: Activation | None, norm_eps: float | None) -> VisionConfig:
    if vision.family != "vit":
        raise ValueError(f"act and norm_eps change a 'vit' image tower, but this one is a {vision.family!r}.")
    return replace(
        vision, act=vision.act if act is None else act, norm_eps=vision.norm_eps if norm_eps is None else norm_eps
    )


def _find_source(model: str | ClipConfig, pretrained: str | Path | None) -> ClipSource:
    if isinstance(model, ClipConfig):
        return ClipSource(model, None if pretrained is None else Path(pretrained))
    if model == EMBEDDED_MODEL:
        from mmseg_plugins.towers.embedded import embedded_config

        return ClipSource(embedded_config(), Path(pretrained) if pretrained else asset_path(_EMBEDDED_ASSET))
    if pretrained is None:
        return ClipSource(ClipConfig.from_open_clip(model), None)
    if Path(pretrained).expanduser().is_file():
        return ClipSource(ClipConfig.from_open_clip(model), Path(pretrained).expanduser())
    from mmseg_plugins.towers.weights import find_record

    record = find_record(f"{model}/{pretrained}")
    config = ClipConfig.from_open_clip(model, quick_gelu=record.quick_gelu)
    return ClipSource(replace(config, image_mean=record.mean, image_std=record.std, name=record.name), record)


@dataclass(frozen=True)
class ClipState:
    """A published file's tensors under the names of a :class:`Clip`.

    Attributes:
        tensors: name -> tensor.
        parts: leading texts of the names that the file declares to hold: ``visual.``, ``text.``, ``logit_``.
        known_ids: token ids that have a row, where the file stores only some.
    """

    tensors: dict[str, Tensor]
    parts: tuple[str, ...]
    known_ids: list[int] | None = None


def clip_state(clip: Clip, content: Mapping[str, Tensor]) -> ClipState:
    """Bring a file in any published layout to the names of a model's state; towers that the model lacks are left out.

    Args:
        clip: the model.
        content: flat tensors, wrappers removed.

    Raises:
        ValueError: if the layout is not known.
    """
    tensors, _ = to_openai_layout(content)
    wanted = {"image": clip.visual is not None, "text": clip.text is not None, "logits": True, "unknown": True}
    groups: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if wanted[part_of(key)]:
            groups.setdefault(part_of(key), {})[key] = value
    known = None
    if "text" in groups:
        groups["text"], known = _with_full_token_table(groups["text"], clip.text.config.vocab_size)
    named = {
        (f"text.{key}" if part == "text" else key): value for part in groups for key, value in groups[part].items()
    }
    leading = {"image": "visual.", "text": "text.", "logits": "logit_"}
    return ClipState(named, tuple(leading[part] for part in groups if part in leading), known)


def load_clip_weights(clip: Clip, source: WeightsSource, *, partial: bool = False) -> tuple[str, ...]:
    """Fill a model from a file in any published layout.

    A part of the model (image tower, text tower) is filled whole or not at all; parts that only the file has are left
    alone. Tensors of lower precision are widened.

    Args:
        clip: the model.
        source: a file, or its content.
        partial: whether a tower that the file does not have may keep its weights; otherwise that is an error.

    Returns:
        Names of the parts that were filled: ``image``, ``text``, ``logits``.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if keys are missing, unexpected or of another shape, or a tower has no weights in the file.
    """
    shown = "the given weights" if isinstance(source, Mapping) else str(source)
    content = source if isinstance(source, Mapping) else read_tensors(source)
    try:
        tensors, layout = to_openai_layout(unwrap_state_dict(content))
    except ValueError as error:
        raise ValueError(f"{shown}: {error}") from error
    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        parts.setdefault(part_of(key), {})[key] = value
    if "unknown" in parts:
        names = sorted(parts["unknown"])
        raise ValueError(f"{shown} ({layout}) has {len(names)} keys of no part of a CLIP model: {names[0]}, ...")
    towers = {"image": clip.visual, "text": clip.text}
    filled = tuple(name for name, tower in towers.items() if tower is not None and name in parts)
    absent = [name for name, tower in towers.items() if tower is not None and name not in parts]
    if (absent and not partial) or not filled:
        raise ValueError(
            f"{shown} ({layout}) has no weights of the {' and the '.join(absent) or 'wanted'} tower; it holds: "
            f"{', '.join(sorted(parts))}. Build the model with {absent[0] if absent else 'another'}=False, or give a "
            f"file that has them."
        )
    loads = [_prepare(clip, name, parts[name], shown) for name in filled]
    for load in loads:  # only when every part fits
        load()
    return (*filled, *_load_logits(clip, parts.get("logits", {})))


def _prepare(clip: Clip, name: str, tensors: dict[str, Tensor], shown: str) -> Callable[[], None]:
    """Check one tower's tensors and return what fills it."""
    if name == "image":
        module, given = clip.visual, {key.removeprefix("visual."): value for key, value in tensors.items()}
        known = None
    else:
        module = clip.text
        given, known = _with_full_token_table(tensors, module.config.vocab_size)
    own = module.state_dict()
    what = f"the {name} tower of {clip.config.name!r} ({shown})"
    compare_keys(own, given, what=what, optional=("num_batches_tracked",))

    def load() -> None:
        module.load_state_dict({**{key: value for key, value in own.items() if key not in given}, **given})
        if known is not None:
            module.set_known_ids(known)

    return load


def _with_full_token_table(tensors: dict[str, Tensor], vocab_size: int) -> tuple[dict[str, Tensor], list[int] | None]:
    """Scatter a table that stores only the rows of its known ids."""
    if _SPARSE_ROWS not in tensors:
        return tensors, None
    rows, ids = tensors[_SPARSE_ROWS], tensors.get(_SPARSE_IDS)
    if ids is None or len(ids) != len(rows):
        raise ValueError(f"{_SPARSE_ROWS} has {len(rows)} rows, but {_SPARSE_IDS} does not give as many ids.")
    table = rows.new_zeros(vocab_size, rows.shape[1]).index_copy(0, ids.long(), rows)
    rest = {key: value for key, value in tensors.items() if key not in (_SPARSE_ROWS, _SPARSE_IDS)}
    return {**rest, "token_embedding.weight": table}, ids.tolist()


def _load_logits(clip: Clip, tensors: dict[str, Tensor]) -> tuple[str, ...]:
    with torch.no_grad():
        for name, value in tensors.items():
            parameter = getattr(clip, name, None)
            if parameter is not None:
                parameter.copy_(value.reshape(()))
    return ("logits",) if tensors else ()
