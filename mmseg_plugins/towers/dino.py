"""DINO's vision transformer from its published files, and what unsupervised methods read off its last block.

Caron et al.: "Emerging Properties in Self-Supervised Vision Transformers", ICCV 2021 (arXiv 2104.14294). It is the
transformer of :mod:`mmseg_plugins.towers.vit` without a projection: the patch convolution has a bias, there is no norm
in front of the blocks, and the layer norms have an epsilon of 1e-6.

B batch, N = h*w patches, W width, H W image, h w grid.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from mmseg_plugins.towers.attention import merge_heads
from mmseg_plugins.towers.config import VisionConfig
from mmseg_plugins.towers.files import read_tensors, unwrap_state_dict
from mmseg_plugins.towers.layouts import compare_keys, to_openai_layout
from mmseg_plugins.towers.position import Grid, pad_image, to_map
from mmseg_plugins.towers.vit import DenseViT

# ImageNet's statistics on the 0..255 scale, RGB.
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)

_NORM_EPS = 1e-6
_HEAD_WIDTH = 64  # of all published models
_NOT_BACKBONE = ("head.",)  # the projection head of a whole training checkpoint


@dataclass(frozen=True, kw_only=True)
class DinoConfig:
    """Sizes of a DINO transformer.

    Attributes:
        patch: patch side in pixels.
        width: token width.
        layers: blocks.
        heads: attention heads.
        image_size: side in pixels that the position table belongs to.
    """

    patch: int = 16
    width: int = 768
    layers: int = 12
    heads: int = 12
    image_size: int = 224


# The published models, under the names of their records of weights.
DINO_MODELS = {
    "dino_vitb16": DinoConfig(),
    "dino_vitb8": DinoConfig(patch=8),
    "dino_vits16": DinoConfig(width=384, heads=6),
    "dino_vits8": DinoConfig(patch=8, width=384, heads=6),
}


@dataclass(frozen=True, kw_only=True)
class DinoFeatures:
    """What the last block of DINO holds for each patch, the class token left out.

    Attributes:
        query, key, value: (B, W, h, w) of the last block's attention, heads side by side, biases included, unscaled.
        grid: (h, w).
        tokens: (B, W, h, w) output of the last block behind the last norm; None unless asked for.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    grid: Grid
    tokens: Tensor | None = None


class DinoViT(DenseViT):
    """DINO's transformer.

    Args:
        config: sizes, or the name of a published model (``dino_vitb16``, ``dino_vits8``, ...).

    Raises:
        KeyError: if there is no model of that name.
    """

    def __init__(self, config: DinoConfig | str = "dino_vitb16") -> None:
        config = find_dino_config(config)
        vision = VisionConfig(
            image_size=(config.image_size, config.image_size),
            width=config.width,
            layers=config.layers,
            heads=config.heads,
            patch=config.patch,
            act="gelu",
            norm_eps=_NORM_EPS,
            norm_before=False,
            patch_bias=True,
        )
        super().__init__(vision, embed_dim=0, mean=IMAGENET_MEAN, std=IMAGENET_STD)

    def features(self, image_B3HW: Tensor, *, with_tokens: bool = False) -> DinoFeatures:
        """Run the transformer and open its last block.

        Positions are resized as DINO does it: bicubic, by the factors (h + 0.1) / g and (w + 0.1) / g.

        Args:
            image_B3HW: (B, 3, H, W), normalised with ImageNet's statistics; a remainder of a patch at the bottom and
                right is dropped.
            with_tokens: also run the rest of the last block.
        """
        patches, grid = self.embed_patches(pad_image(image_B3HW, self.stride, "floor"))
        x = self.add_class_token(patches, self.positions(grid, "scale_factor"))
        for block in self.blocks[:-1]:
            x = block(x)
        last = self.blocks[-1]
        query, key, value = (
            to_map(merge_heads(part)[:, 1:], grid).contiguous() for part in last.attn.project(last.ln_1(x))
        )
        tokens = to_map(self.ln_post(last(x))[:, 1:], grid) if with_tokens else None
        return DinoFeatures(query=query, key=key, value=value, grid=grid, tokens=tokens)

    def load_published(self, source: str | Path | Mapping[str, Any]) -> None:
        """Fill the transformer from a published file: a backbone, or a whole training checkpoint (its teacher).

        Args:
            source: the file, or its content.

        Raises:
            FileNotFoundError: if the file does not exist.
            ValueError: naming what is missing, unexpected or of another shape.
        """
        is_content = isinstance(source, Mapping)
        shown = "the given weights" if is_content else str(source)
        content = source if is_content else read_tensors(source)
        try:
            state = dino_state(content)
        except ValueError as error:
            raise ValueError(f"{shown}: {error}") from error
        compare_keys(self.state_dict(), state, what=f"this DINO transformer ({shown})")
        self.load_state_dict(state)


def find_dino_config(config: DinoConfig | str | Mapping[str, Any]) -> DinoConfig:
    """Return the sizes of a published model, or those given.

    Args:
        config: sizes, fields of :class:`DinoConfig`, or a model's name.

    Raises:
        KeyError: if there is no such model.
    """
    if isinstance(config, DinoConfig):
        return config
    if isinstance(config, Mapping):
        return DinoConfig(**config)
    if config not in DINO_MODELS:
        raise KeyError(f"No DINO model {config!r}. Published: {', '.join(DINO_MODELS)}.")
    return DINO_MODELS[config]


def backbone_tensors(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the transformer of a self-supervised model's file under the publishers' names, which are timm's.

    Args:
        content: a backbone's tensors, in a trainer's wrapper or not; or a whole training checkpoint, of which the
            teacher is taken and its projection head left out.

    Raises:
        ValueError: if there are no tensors.
    """
    tensors = unwrap_state_dict(content.get("teacher", content))
    named = {key.removeprefix("backbone."): value for key, value in tensors.items()}
    return {key: value for key, value in named.items() if not key.startswith(_NOT_BACKBONE)}


def dino_state(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """Bring a published DINO file to the names of :class:`DinoViT`.

    Args:
        content: tensors under facebook's names (which are timm's), or a whole training checkpoint with ``teacher``.

    Raises:
        ValueError: if it is no such file.
    """
    named = {f"visual.{key}": value for key, value in backbone_tensors(content).items()}
    if "visual.cls_token" not in named:
        shown = ", ".join(sorted(key.removeprefix("visual.") for key in named)[:5])
        raise ValueError(f"These weights are of no DINO transformer: there is no 'cls_token'. Keys: {shown}, ...")
    renamed, _ = to_openai_layout(named)
    return {key.removeprefix("visual."): value for key, value in renamed.items()}


def infer_dino_config(state: Mapping[str, Tensor], *, heads: int | None = None) -> DinoConfig:
    """Read sizes off a file's tensors.

    Args:
        state: as :func:`dino_state` gives them.
        heads: attention heads, which no file tells; None: width / 64, as in every published model.
    """
    width, _, patch, _ = state["conv1.weight"].shape
    side = round((state["positional_embedding"].shape[0] - 1) ** 0.5)
    layers = len({key.split(".")[2] for key in state if key.startswith("transformer.resblocks.")})
    return DinoConfig(
        patch=patch,
        width=width,
        layers=layers,
        heads=heads or max(width // _HEAD_WIDTH, 1),
        image_size=side * patch,
    )
