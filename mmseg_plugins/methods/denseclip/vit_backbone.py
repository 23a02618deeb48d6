"""CLIP's image transformer as an mmseg backbone with four levels.

B batch, P = 1 + h*w tokens with the class token in front, W width, D joint width, h w grid of the patches.
"""

from collections.abc import Sequence

import torch
from mmcv.cnn.bricks.drop import drop_path
from mmseg.registry import MODELS
from torch import Tensor, nn

from mmseg_plugins.methods.denseclip.checkpoint import ClipPretrained
from mmseg_plugins.towers.config import Activation, VisionConfig
from mmseg_plugins.towers.position import to_map
from mmseg_plugins.towers.prompts import append_prompt, image_input
from mmseg_plugins.towers.transformer import Block
from mmseg_plugins.towers.vit import DenseViT

_LEVELS = 4
_PYRAMID_PATCHES = (8, 16)


@MODELS.register_module()
class CLIPVisionTransformer(ClipPretrained, DenseViT):
    """CLIP's ViT: four levels made from the outputs of four blocks, and (global vector, dense map) behind them.

    The dense map is at the patches' resolution: that of level 2 for patches of 16, of level 1 for patches of 8.

    Args:
        patch_size: 8 or 16.
        width: token width.
        layers: number of blocks.
        heads: attention heads.
        output_dim: joint width.
        input_resolution: side in pixels that the position table is made for; images may have any size.
        out_indices: the four blocks that feed the levels, from 0; none of them gives the embeddings alone.
        drop_path_rate: of the last block; it rises linearly from 0.
        get_embeddings: whether to compute global vector and dense map; without them there is no ``ln_post`` and
            ``proj``.
        act: activation of the MLPs, which the published models have as QuickGELU.
        is_class_embedding_doubled: whether the class token contains its embedding twice, as in the release, where all
            weights were trained so. False gives CLIP's own class token.
        clip_pretrained: CLIP file for :meth:`init_weights`.
    """

    def __init__(
        self,
        *,
        patch_size: int = 16,
        width: int = 768,
        layers: int = 12,
        heads: int = 12,
        output_dim: int = 512,
        input_resolution: int = 640,
        out_indices: Sequence[int] = (3, 5, 7, 11),
        drop_path_rate: float = 0.0,
        get_embeddings: bool = True,
        act: Activation = "quick_gelu",
        is_class_embedding_doubled: bool = True,
        clip_pretrained: str | None = None,
    ) -> None:
        config = VisionConfig(
            width=width,
            layers=layers,
            heads=heads,
            patch=patch_size,
            image_size=(input_resolution, input_resolution),
            act=act,
        )
        super().__init__(config, embed_dim=output_dim)
        self.clip_pretrained, self.level_channels = clip_pretrained, (width,) * _LEVELS
        self.out_indices = _check_indices(out_indices, layers, get_embeddings)
        self.get_embeddings = get_embeddings
        self.is_class_embedding_doubled = is_class_embedding_doubled
        self.drop_path_rates = [drop_path_rate * index / max(layers - 1, 1) for index in range(layers)]
        if not get_embeddings:
            del self.ln_post
            self.proj = None
        self.fpn1, self.fpn2, self.fpn3, self.fpn4 = build_pyramid(width, patch_size)

    def add_class_token(self, patches_BNW: Tensor, positions_PW: Tensor) -> Tensor:
        """Put the class token in front, add positions and norm: input of the first block, (B, P, W)."""
        if self.is_class_embedding_doubled:
            first = positions_PW[:1] + self.class_embedding
            positions_PW = torch.cat([first, positions_PW[1:]])
        return super().add_class_token(patches_BNW, positions_PW)

    def forward(self, images: Tensor, prompts: Sequence[Tensor] | None = None) -> tuple:
        """(B, 3, H, W) normalised images to four maps and the embeddings.

        Args:
            images: sides are rounded down to whole patches.
            prompts: (n, W) learned tokens of the first blocks (MaPLe); they stand behind the patches.
        """
        patches, grid = self.embed_patches(images.to(self.conv1.weight.dtype))
        x = self.add_class_token(patches, self.positions(grid, "bilinear"))
        tokens = x.shape[1]
        before_block = None
        if prompts:
            x, before_block = append_prompt(x, prompts[0], self.ln_pre), image_input(prompts)
        maps = []
        for index, block in enumerate(self.blocks):
            x = x if before_block is None else before_block(index, x)
            x = _run_block(block, x, self.drop_path_rates[index] if self.training else 0.0)
            if index in self.out_indices:
                maps.append(to_map(x[:, 1:tokens], grid))
        levels = [
            op(map_BWhw) for op, map_BWhw in zip((self.fpn1, self.fpn2, self.fpn3, self.fpn4), maps, strict=False)
        ]
        if not self.get_embeddings:
            return tuple(levels)
        embedded_BPD = self.finish(x[:, :tokens])
        return (*levels, (embedded_BPD[:, 0], to_map(embedded_BPD[:, 1:], grid)))


def _check_indices(out_indices: Sequence[int], layers: int, get_embeddings: bool) -> frozenset[int]:
    indices = frozenset(out_indices)
    if any(not 0 <= index < layers for index in indices) or len(indices) != len(out_indices):
        raise ValueError(f"expected out_indices to be different blocks from 0 to {layers - 1}, but got {out_indices}.")
    if len(indices) != _LEVELS and (indices or not get_embeddings):
        raise ValueError(f"expected {_LEVELS} out_indices, one for each level, but got {len(out_indices)}.")
    return indices


def _run_block(block: Block, x_BPW: Tensor, rate: float) -> Tensor:
    """One block; in training each of its two branches is dropped with this probability, per image."""
    if rate == 0.0:
        return block(x_BPW)
    x = x_BPW + drop_path(block.ls_1(block.attn(block.ln_1(x_BPW))), rate, True)
    return x + drop_path(block.mlp_residual(block.ln_2(x)), rate, True)


def build_pyramid(width: int, patch: int) -> tuple[nn.Module, nn.Module, nn.Module, nn.Module]:
    """Build what brings the patches' grid to strides 4, 8, 16 and 32, under the published names.

    Args:
        width: channels.
        patch: patch side in pixels.

    Raises:
        ValueError: for other patches than 8 and 16, for which there is no published pyramid.
    """
    if patch not in _PYRAMID_PATCHES:
        raise ValueError(f"there is a pyramid for patches of 8 and 16 pixels, not of {patch}.")

    def norm() -> nn.GroupNorm:
        return nn.GroupNorm(1, width)

    def double() -> nn.ConvTranspose2d:
        return nn.ConvTranspose2d(width, width, kernel_size=2, stride=2)

    if patch == 16:
        stride_4 = nn.Sequential(norm(), double(), nn.BatchNorm2d(width), nn.GELU(), double())
        return stride_4, nn.Sequential(norm(), double()), norm(), nn.Sequential(norm(), nn.MaxPool2d(2))
    return (
        nn.Sequential(norm(), double()),
        norm(),
        nn.Sequential(norm(), nn.MaxPool2d(2)),
        nn.Sequential(norm(), nn.MaxPool2d(4)),
    )
