"""CorrCLIP's two further branches: earlier blocks through the last one's values, and a class token for each region.

B batch, P = 1 + N tokens, N patches of CLIP, R regions, W trunk width.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmseg_plugins.methods.training_free.regions import resize_regions
from mmseg_plugins.towers.dense_path import DenseBlock
from mmseg_plugins.towers.position import Grid

_SPATIAL_BLOCKS = {12: 5, 24: 12, 32: 28}  # depth of the tower: blocks that the release averages
_NOT_AVERAGED = 4  # of a tower of any other depth


def choose_spatial_blocks(depth: int, count: int | None = None) -> range:
    """Return which blocks the spatial branch averages, counted from 0; the last of them is the third from the end.

    Args:
        depth: blocks of the tower.
        count: how many; None: as published for this depth.

    Raises:
        ValueError: if the tower has too few blocks.
    """
    count = _SPATIAL_BLOCKS.get(depth, depth - _NOT_AVERAGED) if count is None else count
    if not 0 < count <= depth - 2:
        raise ValueError(f"The spatial branch cannot average {count} blocks before the last two of {depth}.")
    return range(depth - 2 - count, depth - 2)


def region_tokens(blocks: Sequence[DenseBlock], inputs: Sequence[Tensor], regions_N: Tensor) -> tuple[Tensor, Tensor]:
    """Run a class token for every region through the tower.

    Each starts as the class token and attends in every block to the ordinary class token and the patches of its region;
    nothing attends to it.

    Args:
        blocks: all blocks of the tower.
        inputs: what each of them reads in the ordinary stream of one image, (1, P, W).
        regions_N: (N,) int64 region of every patch.

    Returns:
        The numbers present, ascending (R,), and their (R, W) states behind the last block.
    """
    numbers = regions_N.unique()
    sees_cls = torch.ones(len(numbers), 1, dtype=torch.bool, device=regions_N.device)
    mask_RP = torch.cat([sees_cls, numbers[:, None] == regions_N], dim=1)
    state_1RW = inputs[0][:, :1].expand(-1, len(numbers), -1)
    for block, tokens_1PW in zip(blocks, inputs, strict=True):
        _, k, v = block.project(block.norm_attention(tokens_1PW))
        q, _, _ = block.project(block.norm_attention(state_1RW))
        context = F.scaled_dot_product_attention(q, k, v, attn_mask=mask_RP, scale=block.scale)
        state_1RW = state_1RW + block.attention_output(context)
        state_1RW = state_1RW + block.mlp_output(block.norm_mlp(state_1RW))
    return numbers, state_1RW[0]


def spread_tokens(regions_hw: Tensor, numbers_R: Tensor, tokens_RW: Tensor, grid: Grid) -> Tensor:
    """Write every region's token to its places, enlarged to another grid (nearest): (h' * w', W)."""
    index_hw = torch.searchsorted(numbers_R, regions_hw.flatten()).unflatten(0, tuple(regions_hw.shape))
    return tokens_RW[resize_regions(index_hw, grid).flatten()]
