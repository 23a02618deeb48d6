"""Any mmseg or timm backbone for DenseCLIP (paper section 3.4, "DenseCLIP for any visual backbones")."""

from collections.abc import Mapping
from typing import Any

from mmengine.model import BaseModule
from mmseg.registry import MODELS
from torch import Tensor

from mmseg_plugins.methods.denseclip.resnet_backbone import DenseAttentionPool, PositionMode
from mmseg_plugins.towers.position import Grid

_LEVELS = 4


@MODELS.register_module()
class AttnPoolBackbone(BaseModule):
    """Appends a randomly initialised attention pool to the last level of a backbone.

    No code was released for this; it follows the authors' answers: ImageNet weights on the visual side, the training
    settings of the CLIP models, the text encoder of CLIP ViT-B/16 (so 512 joint channels).

    Args:
        backbone: config of a backbone that returns four levels (``ResNet``, ``SwinTransformer``, ``TIMMBackbone`` with
            four ``out_indices``, ...).
        in_channels: channels of its last level.
        output_dim: joint width.
        grid_size: (h, w) of the position table, the last level's size at the training crop.
        num_heads: attention heads; must divide ``in_channels``.
        pos_mode: see :class:`DenseAttentionPool`.
        init_cfg: mmengine's initialisation config.
    """

    def __init__(
        self,
        *,
        backbone: Mapping[str, Any],
        in_channels: int,
        output_dim: int = 512,
        grid_size: int | Grid = 16,
        num_heads: int = 32,
        pos_mode: PositionMode = "interpolate",
        init_cfg: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        grid = (grid_size, grid_size) if isinstance(grid_size, int) else tuple(grid_size)
        self.in_channels = in_channels
        self.embed_dim = output_dim
        self.level_channels = (None, None, None, in_channels)
        self.backbone = MODELS.build(backbone)
        self.attnpool = DenseAttentionPool(grid, in_channels, num_heads, output_dim, pos_mode=pos_mode)

    def forward(self, images: Tensor) -> tuple:
        """(B, 3, H, W) normalised images to four maps and the embeddings.

        Raises:
            ValueError: if the backbone's levels are not as described.
        """
        levels = tuple(self.backbone(images))
        if len(levels) != _LEVELS:
            raise ValueError(
                f"the backbone returns {len(levels)} levels, but DenseCLIP needs {_LEVELS}: set its out_indices."
            )
        if levels[-1].shape[1] != self.in_channels:
            raise ValueError(
                f"the backbone's last level has {levels[-1].shape[1]} channels, but in_channels is {self.in_channels}."
            )
        return (*levels, self.attnpool.embed(levels[-1]))
