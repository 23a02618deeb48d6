"""A CLIP model: image tower, text tower, temperature."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from mmseg_plugins.towers.config import ClipConfig
from mmseg_plugins.towers.dense import DenseFeatures, DenseOptions, Steering
from mmseg_plugins.towers.text import TextTower

# B batch, N prompts, D joint width, H W image

_INITIAL_LOGIT_SCALE = 2.6592600  # log(1 / 0.07), CLIP's start


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
    builders = {"vit": _vit, "resnet": _resnet, "convnext": _convnext, "timm": _timm, "pyramid": _pyramid}
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


def _pyramid() -> type[nn.Module]:
    from mmseg_plugins.towers.pyramid import PyramidTower

    return PyramidTower
