"""CLIP's ConvNeXt tower: a timm trunk and a projection head under open_clip's parameter names."""

import torch.nn.functional as F
from torch import Tensor

from mmseg_plugins.towers.staged import StagedTower

# B batch, W channels of the last stage, D joint width, h w grid of the last stage

_STRIDE = 32


class ConvNeXt(StagedTower):
    """ConvNeXt image tower.

    Args:
        config: ``family='convnext'`` with the name of a timm trunk, and its options.
        embed_dim: joint width.
        **options: see :class:`StagedTower`.
    """

    stride = _STRIDE

    def run_trunk(self, image_B3HW: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the last stage's output and those of all four, strides 4, 8, 16 and 32.

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
        return stages[-1], stages

    def project(self, vectors: Tensor) -> Tensor:
        """Norm and project channel vectors of the last stage, pooled or single: (..., W) -> (..., D)."""
        norm = self.trunk.head.norm
        return self.head(F.layer_norm(vectors, (self.width,), norm.weight, norm.bias, norm.eps))
