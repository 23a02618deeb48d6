"""CLIP's ConvNeXt tower: a timm trunk and a projection head under open_clip's parameter names."""

from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn

from mmseg_plugins.towers.config import CLIP_MEAN, CLIP_STD, VisionConfig
from mmseg_plugins.towers.dense import DenseFeatures, DenseOptions, Steering
from mmseg_plugins.towers.resnet import check_convolutional, pad_small, stage_taps

# B batch, W channels of the last stage, D joint width, h w grid of the last stage

_STRIDE = 32


def build_head(width: int, embed_dim: int, projection: str | None, bias: bool) -> nn.Sequential:
    """Build open_clip's projection head of a timm trunk, with its parameter names.

    Args:
        width: channels that come in.
        embed_dim: joint width.
        projection: ``linear``, ``mlp`` (hidden width twice the joint one), or None where the trunk projects itself.
        bias: whether the last layer has a bias.

    Raises:
        ValueError: if there is no such projection.
    """
    from timm.layers import Mlp

    if projection in (None, "", "none"):
        return nn.Sequential()
    if projection == "linear":
        return nn.Sequential(OrderedDict(drop=nn.Dropout(0.0), proj=nn.Linear(width, embed_dim, bias=bias)))
    if projection == "mlp":
        return nn.Sequential(OrderedDict(mlp=Mlp(width, 2 * embed_dim, embed_dim, bias=(True, bias))))
    raise ValueError(f"Expected a projection out of 'linear', 'mlp', 'none', but got {projection!r}.")


class ConvNeXt(nn.Module):
    """ConvNeXt image tower.

    Args:
        config: ``family='convnext'`` with the name of a timm trunk, and its options.
        embed_dim: joint width.
        mean, std: RGB statistics on the 0..255 scale that the tower was trained with; kept for whoever normalises.

    Attributes:
        embed_dim: joint width.
        width: channels of the last stage.
        stride: pixels per place of the last stage.
    """

    def __init__(
        self,
        config: VisionConfig,
        *,
        embed_dim: int,
        mean: tuple[float, float, float] = CLIP_MEAN,
        std: tuple[float, float, float] = CLIP_STD,
    ) -> None:
        import timm

        super().__init__()
        self.config, self.mean, self.std = config, mean, std
        self.trunk = timm.create_model(config.timm_name, pretrained=False, num_classes=0, **dict(config.timm_options))
        self.embed_dim, self.width, self.stride = embed_dim, self.trunk.num_features, _STRIDE
        self.head = build_head(self.width, embed_dim, config.timm_proj, config.timm_proj_bias)

    def forward_stages(self, image_B3HW: Tensor) -> list[Tensor]:
        """Return the four stages' outputs, strides 4, 8, 16 and 32.

        Args:
            image_B3HW: (B, 3, H, W), normalised, sides at least 32; a remainder of the stride is dropped.

        Raises:
            ValueError: if a side is below 32.
        """
        if min(image_B3HW.shape[-2:]) < _STRIDE:
            raise ValueError(
                f"Image of {image_B3HW.shape[-2]} x {image_B3HW.shape[-1]} pixels is smaller than this tower's stride "
                f"of {_STRIDE}. Enlarge it."
            )
        x, stages = self.trunk.stem(image_B3HW), []
        for stage in self.trunk.stages:
            x = stage(x)
            stages.append(x)
        stages[-1] = self.trunk.norm_pre(stages[-1])
        return stages

    def project(self, vectors: Tensor) -> Tensor:
        """Norm and project channel vectors of the last stage, pooled or single: (..., W) -> (..., D)."""
        norm = self.trunk.head.norm
        return self.head(F.layer_norm(vectors, (self.width,), norm.weight, norm.bias, norm.eps))

    def encode_image(self, image_B3HW: Tensor) -> Tensor:
        """Embed whole images, (B, D), not normalised.

        Args:
            image_B3HW: (B, 3, H, W), normalised.
        """
        return self.project(self.forward_stages(image_B3HW)[-1].mean((-2, -1)))

    def forward(self, image_B3HW: Tensor) -> Tensor:
        """Embed whole images, see :meth:`encode_image`."""
        return self.encode_image(image_B3HW)

    def forward_dense(
        self, image_B3HW: Tensor, options: DenseOptions | None = None, *, steering: Steering | None = None
    ) -> DenseFeatures:
        """Compute features for every place of the last stage: the projection, applied to each.

        Args:
            image_B3HW: (B, 3, H, W), normalised.
            options: ``taps, padding`` count here.
            steering: must be None: there is no transformer to steer.

        Raises:
            ValueError: if the options ask for what only a transformer has.
        """
        options = options or DenseOptions()
        check_convolutional(options, steering)
        if options.qkv or options.attention_pooling:
            raise ValueError("A ConvNeXt has no attention: leave out qkv and attention_pooling.")
        stages = self.forward_stages(pad_small(image_B3HW, self.stride, options))
        last = stages[-1]
        return DenseFeatures(
            pixels=self.project(last.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
            trunk=last,
            grid=(last.shape[-2], last.shape[-1]),
            cls=self.project(last.mean((-2, -1))),
            extras=stage_taps(stages, options),
        )
