"""CLIP models by name: what to build, where its weights are, and how they get in."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mmseg_plugins.towers.config import Activation, ClipConfig, VisionConfig
from mmseg_plugins.towers.embedded import EMBEDDED_MODELS, embedded_config
from mmseg_plugins.towers.files import asset_path, read_tensors, unwrap_state_dict
from mmseg_plugins.towers.layouts import infer_clip_config
from mmseg_plugins.towers.loading import ClipState, clip_state, load_clip_weights
from mmseg_plugins.towers.model import Clip, build_image_tower

if TYPE_CHECKING:
    from mmseg_plugins.towers.weights import WeightsRecord

__all__ = [
    "AUTO_MODEL",
    "EMBEDDED_MODEL",
    "Clip",
    "ClipSource",
    "ClipState",
    "build_clip",
    "build_image_tower",
    "clip_state",
    "find_clip",
    "load_clip_weights",
]

EMBEDDED_MODEL = "shapesworld"
AUTO_MODEL = "auto"


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
        model: open_clip's name (``ViT-B-16``, ``RN50``, ``convnext_large_d_320``, ...), ``shapesworld`` or
            ``shapesworld_all`` for an embedded model, the name of another record (``longclip_b``), ``auto`` to read
            the sizes off the file, or a configuration.
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
    file = None if pretrained is None else Path(pretrained).expanduser()
    if isinstance(model, ClipConfig):
        return ClipSource(model, file)
    if model in EMBEDDED_MODELS:
        return ClipSource(embedded_config(model), file or asset_path(EMBEDDED_MODELS[model]))
    if model == AUTO_MODEL:
        if file is None:
            raise ValueError(f"Model {AUTO_MODEL!r} is read off a file of weights: pass pretrained=PATH.")
        return ClipSource(infer_clip_config(unwrap_state_dict(read_tensors(file), file)), file)
    if file is None or file.is_file():
        return _named_source(model, file)
    from mmseg_plugins.towers.weights import find_record, is_file_name

    if is_file_name(file):
        raise FileNotFoundError(f"Weights file {file} does not exist.")

    return _record_source(find_record(f"{model}/{pretrained}"))


def _named_source(model: str, file: Path | None) -> ClipSource:
    """A model of open_clip, or the model of a record of its own (Long-CLIP), with a file or without weights."""
    try:
        return ClipSource(ClipConfig.from_open_clip(model), file)
    except KeyError:
        from mmseg_plugins.towers.weights import list_named_records

        records = {record.name: record for record in list_named_records() if record.model is not None}
        if model not in records:
            raise
    source = _record_source(records[model])
    return source if file is None else replace(source, weights=file)


def _record_source(record: "WeightsRecord") -> ClipSource:
    config = ClipConfig.from_open_clip(
        record.model,
        quick_gelu=record.quick_gelu,
        name=record.name,
        image_mean=record.mean,
        image_std=record.std,
    )
    if record.text_options and config.text is not None:
        config = replace(config, text=replace(config.text, **record.text_options))
    if record.vision_options and config.vision is not None:
        config = replace(config, vision=replace(config.vision, **record.vision_options))
    return ClipSource(config, record)
