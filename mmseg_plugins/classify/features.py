"""What masks pool from, for every kind of CLIP image tower."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from mmseg_plugins.classify.tokens import TokenOrder, image_tokens
from mmseg_plugins.towers.clip import Clip
from mmseg_plugins.towers.dense import DenseOptions
from mmseg_plugins.towers.pyramid import PyramidTower
from mmseg_plugins.towers.resnet import AttentionPool, ModifiedResNet

# B batch, W channels of the dense map, D joint width, h w its grid, H W image

_NUM_STAGES = 4  # strides 4 to 32; what a trunk has beyond them no decoder reads


@dataclass(kw_only=True)
class ClipMaskFeatures:
    """The dense map of a batch, and the way from it into the joint space.

    Attributes:
        dense: (B, W, h, w) map that masks pool from: ConvNeXt the last stage, FastViT the map behind it, ResNet layer4,
            ViT the pixel embeddings, which are in the joint space already. Covers the padded input.
        project: (..., W) to (..., D): CLIP's head (ConvNeXt, FastViT), the value path of the attention pool (ResNet),
            nothing (ViT).
        attention_pool: CLIP's attention pool (ResNet), which :class:`MaskPoolingClassifier` runs once per mask instead
            of an average and ``project``; None elsewhere.
        cls: (B, D) embedding of the whole image, where the tower gives it.
    """

    dense: Tensor
    project: Callable[[Tensor], Tensor]
    attention_pool: AttentionPool | None = None
    cls: Tensor | None = None

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) of the dense map."""
        return tuple(self.dense.shape[-2:])

    def joint(self, order: TokenOrder = "channels_last") -> Tensor:
        """Return (B, D, h, w): ``project`` at every position, not normalised.

        Args:
            order: ``channels_last``, or ``legacy`` for the scrambled tokens that MAFT+'s weights were trained on.
        """
        return image_tokens(self.dense, self.project, order)

    def image(self, index: int) -> "ClipMaskFeatures":
        """Return the features of one image, as a batch of one."""
        cls = None if self.cls is None else self.cls[index : index + 1]
        return ClipMaskFeatures(
            dense=self.dense[index : index + 1], project=self.project, attention_pool=self.attention_pool, cls=cls
        )

    def detach(self) -> "ClipMaskFeatures":
        """Return the same features without gradient."""
        return ClipMaskFeatures(
            dense=self.dense.detach(),
            project=self.project,
            attention_pool=self.attention_pool,
            cls=None if self.cls is None else self.cls.detach(),
        )


@dataclass(kw_only=True)
class EncodedImages:
    """What one run of an image tower gives.

    Attributes:
        features: what masks pool from.
        stages: maps of strides 4, 8, 16 and 32 (res2 to res5) for a mask decoder; None for a ViT, whose ``trunk`` a
            pyramid turns into stages.
        trunk: (B, W, h, w) of a ViT behind its last layer norm; None elsewhere.
        stride: pixels per place of ``trunk`` or of the last stage.
    """

    features: ClipMaskFeatures
    stages: list[Tensor] | None
    trunk: Tensor | None
    stride: int


def encode_images(clip: Clip, images: Tensor, options: DenseOptions | None = None) -> EncodedImages:
    """Run CLIP's image tower on a batch.

    Args:
        clip: a model with an image tower.
        images: (B, 3, H, W) normalised, sides multiples of the tower's stride.
        options: how a ViT's attention is changed for its pixel embeddings; the value path (MaskCLIP) without them.

    Raises:
        ValueError: if the tower was left out, or options are given for a convolutional tower.
    """
    tower = clip.visual
    if tower is None:
        raise ValueError(f"Model {clip.config.name!r} was built without its image tower. Build it with image=True.")
    if not has_stages(tower):
        dense = tower.forward_dense(images, options)
        features = ClipMaskFeatures(dense=dense.pixels, project=_nothing, cls=dense.cls)
        return EncodedImages(features=features, stages=None, trunk=dense.trunk, stride=tower.stride)
    if options is not None and options != DenseOptions():
        raise ValueError(f"dense options change a transformer, but {clip.config.name!r} has a convolutional tower.")
    if isinstance(tower, PyramidTower):  # its embedding comes from a convolution behind the last stage
        stages, last = tower.forward_all(images)
    else:
        stages = list(tower.forward_stages(images))
        last = stages[-1]
    features = features_of_stage(tower, last)
    return EncodedImages(features=features, stages=stages[:_NUM_STAGES], trunk=None, stride=tower.stride)


def has_stages(tower: nn.Module) -> bool:
    """Tell whether a tower has maps of four strides (convolutional), or one grid of patches."""
    return hasattr(tower, "forward_stages")


def features_of_stage(tower: nn.Module, last_BWhw: Tensor) -> ClipMaskFeatures:
    """Wrap the last map of a convolutional tower.

    Args:
        tower: ConvNeXt, ModifiedResNet or a timm pyramid.
        last_BWhw: output of its last stage, for a timm pyramid that of the convolution behind it.
    """
    if isinstance(tower, ModifiedResNet):
        pool = tower.attnpool

        def value_path(vectors: Tensor) -> Tensor:
            return pool.c_proj(pool.v_proj(vectors))

        return ClipMaskFeatures(dense=last_BWhw, project=value_path, attention_pool=pool)
    return ClipMaskFeatures(dense=last_BWhw, project=tower.project)


def _nothing(vectors: Tensor) -> Tensor:
    return vectors
