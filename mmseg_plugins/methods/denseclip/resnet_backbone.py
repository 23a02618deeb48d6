"""CLIP's ResNets as mmseg backbones: the plain one, and the one that also gives every place its joint-space embedding.

B batch, W channels of the last stage, D joint width, h w grid of the last stage.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from mmseg.registry import MODELS
from torch import Tensor

from mmseg_plugins.methods.denseclip.checkpoint import ClipPretrained
from mmseg_plugins.towers.config import VisionConfig
from mmseg_plugins.towers.position import Grid, PositionCache, resize_positions, to_map
from mmseg_plugins.towers.resnet import AttentionPool, ModifiedResNet, with_mean

PositionMode = Literal["interpolate", "crop"]
Embeddings = tuple[Tensor, Tensor]
"""Global vector (B, D) and dense map (B, D, h, w)."""

_PUBLISHED_HEADS = 32  # of every released attention pool, whatever its width
_STRIDE = 32


def _level_channels(width: int) -> tuple[int, ...]:
    return tuple(width * 4 * 2**stage for stage in range(4))


class DenseAttentionPool(AttentionPool):
    """CLIP's attention pool with every place as a query, so that every place gets its embedding.

    Args:
        grid: (h, w) that the position table belongs to.
        width: channels of the map.
        heads: attention heads.
        embed_dim: joint width.
        pos_mode: how the table meets another grid: ``interpolate`` (bilinear; segmentation) or ``crop`` (its top left
            part; the detection variant).
    """

    def __init__(
        self, grid: Grid, width: int, heads: int, embed_dim: int, *, pos_mode: PositionMode = "interpolate"
    ) -> None:
        if pos_mode not in get_args(PositionMode):
            raise ValueError(f"expected pos_mode to be one of {get_args(PositionMode)}, but got {pos_mode!r}.")
        if width % heads:
            raise ValueError(f"attention pool: {width} channels cannot be divided into {heads} heads. Set num_heads.")
        super().__init__(grid, width, heads, embed_dim)
        self.pos_mode = pos_mode
        self._positions = PositionCache()

    def positions(self, grid: Grid) -> Tensor:
        """Return the table for a grid, (1 + h * w, W).

        Raises:
            ValueError: if a grid to crop to is larger than the table's.
        """
        table = self.positional_embedding
        if self.pos_mode == "crop":
            if grid[0] > self.grid[0] or grid[1] > self.grid[1]:
                raise ValueError(
                    f"a map of {grid} places cannot be cropped from positions for {self.grid}. Build the backbone with "
                    "a larger input_resolution, or use pos_mode='interpolate'."
                )
            cells = table[1:].unflatten(0, self.grid)[: grid[0], : grid[1]]
            return torch.cat([table[:1], cells.flatten(0, 1)])
        if self.training or (torch.is_grad_enabled() and table.requires_grad):
            return resize_positions(table, self.grid, grid, "bilinear")
        return self._positions.get(table, self.grid, grid, "bilinear", "grid")

    def embed(self, map_BWhw: Tensor) -> Embeddings:
        """Embed a map as a whole and place by place."""
        grid = (map_BWhw.shape[-2], map_BWhw.shape[-1])
        tokens = with_mean(map_BWhw)
        tokens = tokens + self.positions(grid).to(tokens.dtype)
        embedded_BPD = self.attend(tokens, tokens)
        return embedded_BPD[:, 0], to_map(embedded_BPD[:, 1:], grid)


@MODELS.register_module()
class CLIPResNet(ClipPretrained, ModifiedResNet):
    """CLIP's ResNet without its attention pool: (F0, F1, F2, F3) at strides 4, 8, 16 and 32.

    Args:
        layers: blocks of the four stages.
        width: stem width.
        clip_pretrained: CLIP file for :meth:`init_weights`.
    """

    def __init__(self, *, layers: Sequence[int], width: int = 64, clip_pretrained: str | None = None) -> None:
        super().__init__(VisionConfig(family="resnet", layers=tuple(layers), width=width, heads=1), embed_dim=1)
        self.clip_pretrained, self.level_channels = clip_pretrained, _level_channels(width)
        del self.attnpool

    def forward(self, images: Tensor) -> tuple:
        """(B, 3, H, W) normalised images to four maps."""
        return tuple(self.forward_stages(images.to(self.conv1.weight.dtype)))


@MODELS.register_module()
class CLIPResNetWithAttention(ClipPretrained, ModifiedResNet):
    """CLIP's ResNet: (F0, F1, F2, F3, (global vector, dense map)), the map at stride 32 in the joint space.

    Args:
        layers: blocks of the four stages.
        width: stem width.
        output_dim: joint width.
        input_resolution: side in pixels that the position table is made for; images may have any size.
        pos_mode: see :class:`DenseAttentionPool`.
        clip_pretrained: CLIP file for :meth:`init_weights`.
    """

    def __init__(
        self,
        *,
        layers: Sequence[int],
        width: int = 64,
        output_dim: int = 1024,
        input_resolution: int = 512,
        pos_mode: PositionMode = "interpolate",
        clip_pretrained: str | None = None,
    ) -> None:
        size = (input_resolution, input_resolution)
        config = VisionConfig(
            family="resnet", layers=tuple(layers), width=width, heads=_PUBLISHED_HEADS, image_size=size
        )
        super().__init__(config, embed_dim=output_dim)
        self.clip_pretrained, self.level_channels = clip_pretrained, _level_channels(width)
        grid = (input_resolution // _STRIDE, input_resolution // _STRIDE)
        self.attnpool = DenseAttentionPool(grid, self.width, _PUBLISHED_HEADS, output_dim, pos_mode=pos_mode)

    def forward(self, images: Tensor) -> tuple:
        """(B, 3, H, W) normalised images to four maps and the embeddings."""
        stages = self.forward_stages(images.to(self.conv1.weight.dtype))
        return (*stages, self.attnpool.embed(stages[-1]))
