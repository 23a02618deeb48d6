"""What towers of stages share whose last map is projected place by place: ConvNeXt, and MobileCLIP's FastViT."""

from abc import abstractmethod
from collections import OrderedDict

from torch import Tensor, nn

from mmseg_plugins.towers.config import CLIP_MEAN, CLIP_STD, VisionConfig
from mmseg_plugins.towers.dense import DenseFeatures, DenseOptions, Steering
from mmseg_plugins.towers.resnet import check_convolutional, pad_small, stage_taps

# B batch, W channels of the last map, D joint width, h w its grid


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


class StagedTower(nn.Module):
    """A timm trunk of stages with open_clip's projection head.

    The image embedding is the projection of the last map's mean. A derived class says how the trunk runs and how
    vectors of its last map are projected.

    Args:
        config: the trunk's name and options.
        embed_dim: joint width.
        trunk_classes: outputs of the trunk's own last layer; 0: it has none.
        mean, std: RGB statistics on the 0..255 scale that the tower was trained with; kept for whoever normalises.

    Attributes:
        embed_dim: joint width.
        width: channels of the last map.
        stride: pixels per place of the last map.
    """

    stride: int

    def __init__(
        self,
        config: VisionConfig,
        *,
        embed_dim: int,
        trunk_classes: int = 0,
        mean: tuple[float, float, float] = CLIP_MEAN,
        std: tuple[float, float, float] = CLIP_STD,
    ) -> None:
        import timm

        super().__init__()
        self.config, self.mean, self.std, self.embed_dim = config, mean, std, embed_dim
        self.trunk = timm.create_model(
            config.timm_name, pretrained=False, num_classes=trunk_classes, **dict(config.timm_options)
        )
        self.width = self.trunk.num_features
        self.head = build_head(self.width, embed_dim, config.timm_proj, config.timm_proj_bias)

    @abstractmethod
    def run_trunk(self, image_B3HW: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the (B, W, h, w) map that is projected, and the outputs of the stages, from stride 4 on.

        Args:
            image_B3HW: (B, 3, H, W), normalised.
        """

    @abstractmethod
    def project(self, vectors: Tensor) -> Tensor:
        """Project channel vectors of the last map, pooled or single: (..., W) -> (..., D)."""

    def forward_stages(self, image_B3HW: Tensor) -> list[Tensor]:
        """Return the outputs of the stages, from stride 4 on.

        Args:
            image_B3HW: (B, 3, H, W), normalised.
        """
        return self.run_trunk(image_B3HW)[1]

    def encode_image(self, image_B3HW: Tensor) -> Tensor:
        """Embed whole images, (B, D), not normalised.

        Args:
            image_B3HW: (B, 3, H, W), normalised.
        """
        return self.project(self.run_trunk(image_B3HW)[0].mean((-2, -1)))

    def forward(self, image_B3HW: Tensor) -> Tensor:
        """Embed whole images, see :meth:`encode_image`."""
        return self.encode_image(image_B3HW)

    def forward_dense(
        self, image_B3HW: Tensor, options: DenseOptions | None = None, *, steering: Steering | None = None
    ) -> DenseFeatures:
        """Compute features for every place of the last map: the projection, applied to each.

        Args:
            image_B3HW: (B, 3, H, W), normalised.
            options: ``taps, padding`` count here.
            steering: must be None: there is no attention to steer.

        Raises:
            ValueError: if the options ask for what only a transformer has.
        """
        options = options or DenseOptions()
        check_convolutional(options, steering)
        if options.qkv or options.attention_pooling:
            raise ValueError(
                "This tower has no attention of CLIP's kind to hand over: leave out qkv and attention_pooling."
            )
        last, stages = self.run_trunk(pad_small(image_B3HW, self.stride, options))
        return DenseFeatures(
            pixels=self.project(last.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
            trunk=last,
            grid=(last.shape[-2], last.shape[-1]),
            cls=self.project(last.mean((-2, -1))),
            extras=stage_taps(stages, options),
        )
