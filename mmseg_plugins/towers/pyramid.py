"""Image towers of stages that end in a pooled linear projection: MobileCLIP's FastViT."""

from torch import Tensor, nn

from mmseg_plugins.towers.config import CLIP_MEAN, CLIP_STD, VisionConfig
from mmseg_plugins.towers.convnext import build_head
from mmseg_plugins.towers.dense import DenseFeatures, DenseOptions, Steering
from mmseg_plugins.towers.resnet import check_convolutional, pad_small, stage_taps

# B batch, W channels of the last map, D joint width, h w its grid


class PyramidTower(nn.Module):
    """A timm trunk of stages as CLIP's image tower, under open_clip's parameter names.

    The embedding is the mean of the last map, projected by one linear layer; so projecting each place gives dense
    features whose mean is the image embedding.

    Args:
        config: ``family='pyramid'`` with the trunk's name.
        embed_dim: joint width.
        mean, std: RGB statistics on the 0..255 scale that the tower was trained with; kept for whoever normalises.

    Attributes:
        embed_dim: joint width.
        width: channels of the last map.
        stride: pixels per place of the last map.
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
        self.config, self.mean, self.std, self.embed_dim = config, mean, std, embed_dim
        classes = 0 if config.timm_proj else embed_dim
        self.trunk = timm.create_model(
            config.timm_name, pretrained=False, num_classes=classes, **dict(config.timm_options)
        )
        self.width, self.stride = self.trunk.num_features, self.trunk.feature_info[-1]["reduction"]
        self.head = build_head(self.width, embed_dim, config.timm_proj, config.timm_proj_bias)

    def forward_stages(self, image_B3HW: Tensor) -> list[Tensor]:
        """Return the outputs of the trunk's stages, from stride 4 on.

        Args:
            image_B3HW: (B, 3, H, W), normalised.
        """
        return self.trunk.forward_intermediates(image_B3HW, intermediates_only=True)

    def project(self, vectors: Tensor) -> Tensor:
        """Project channel vectors of the last map, pooled or single: (..., W) -> (..., D)."""
        return self.head(self.trunk.head.fc(vectors))

    def encode_image(self, image_B3HW: Tensor) -> Tensor:
        """Embed whole images, (B, D), not normalised.

        Args:
            image_B3HW: (B, 3, H, W), normalised.
        """
        return self.head(self.trunk(image_B3HW))

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
            raise ValueError("This tower has no attention to hand over: leave out qkv and attention_pooling.")
        image = pad_small(image_B3HW, self.stride, options)
        last = self.trunk.forward_features(image)
        stages = self.forward_stages(image) if options.taps else []
        return DenseFeatures(
            pixels=self.project(last.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
            trunk=last,
            grid=(last.shape[-2], last.shape[-1]),
            cls=self.project(last.mean((-2, -1))),
            extras=stage_taps(stages, options),
        )
