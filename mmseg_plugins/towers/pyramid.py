"""Image towers of stages that end in a pooled linear projection: MobileCLIP's FastViT."""

from typing import Any

from torch import Tensor

from mmseg_plugins.towers.config import VisionConfig
from mmseg_plugins.towers.staged import StagedTower

# B batch, W channels of the last map, D joint width, h w its grid


class PyramidTower(StagedTower):
    """A timm trunk of stages as CLIP's image tower, under open_clip's parameter names.

    The embedding is the mean of the last map, projected by one linear layer; so projecting each place gives dense
    features whose mean is the image embedding.

    Args:
        config: ``family='pyramid'`` with the trunk's name.
        embed_dim: joint width.
        **options: see :class:`StagedTower`.
    """

    def __init__(self, config: VisionConfig, *, embed_dim: int, **options: Any) -> None:
        super().__init__(config, embed_dim=embed_dim, trunk_classes=0 if config.timm_proj else embed_dim, **options)
        self.stride = self.trunk.feature_info[-1]["reduction"]

    def run_trunk(self, image_B3HW: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the map behind the trunk's last convolution, and the stages' outputs, in one run."""
        return self.trunk.forward_intermediates(image_B3HW)

    def forward_all(self, image_B3HW: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return the stages' outputs and the last map behind the trunk's final convolution, from one run.

        Args:
            image_B3HW: (B, 3, H, W), normalised.
        """
        last, stages = self.trunk.forward_intermediates(image_B3HW)
        return stages, last

    def project(self, vectors: Tensor) -> Tensor:
        """Project channel vectors of the last map, pooled or single: (..., W) -> (..., D)."""
        return self.head(self.trunk.head.fc(vectors))
