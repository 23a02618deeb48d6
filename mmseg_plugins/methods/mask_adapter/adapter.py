"""The module of Mask-Adapter: from a mask and the dense CLIP embedding to K activation maps.

Li, Cheng, Feng, Liu, Wang: "Mask-Adapter: The Devil is in the Masks for Open-Vocabulary Segmentation", CVPR 2025
(arXiv 2412.04533). Parameter names are the published ones.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmseg_plugins.ops._precision import without_autocast

# B batch, N masks, R masks of one chunk, K maps per mask, E joint width, W width of the blocks, M mask channels,
# h w feature grid, H W grid of the masks

_EPS_BLOCKS = 1e-6
_EPS_FINAL = 1e-5  # unlike the others, as published

# Masks times positions that run at once. On the CPU a hidden layer should stay in the cache: one mask at a time is a
# tenth faster than 32 at 28 x 28.
_PLACES_AT_ONCE = {"cpu": 1024, "accelerator": 32768}

HALF_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of (R, C, h, w)."""

    def forward(self, maps: Tensor) -> Tensor:
        """Normalise every place."""
        return super().forward(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class AdapterBlock(nn.Module):
    """ConvNeXt's block: depthwise 7x7, layer norm, two linear layers with a GELU, layer scale, residual.

    Args:
        width: channels.
        layer_scale: what ``gamma`` starts at.
    """

    def __init__(self, width: int, *, layer_scale: float = 1e-6) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), layer_scale))
        self.dwconv = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=_EPS_BLOCKS)
        self.pwconv1 = nn.Linear(width, 4 * width)
        self.pwconv2 = nn.Linear(4 * width, width)

    def forward(self, maps_RWhw: Tensor) -> Tensor:
        """Return maps of the same shape."""
        inner = self.norm(self.dwconv(maps_RWhw).permute(0, 2, 3, 1))
        inner = self.gamma * self.pwconv2(F.gelu(self.pwconv1(inner)))
        return maps_RWhw + inner.permute(0, 3, 1, 2)


class MaskAdapter(nn.Module):
    """Predict K activation maps for every mask.

    The published form adds a mask's embedding to the dense embedding and brings the sum from E to W channels, for every
    mask. Those steps are linear, so here the dense embedding is brought to W channels once per image, and a mask's M
    channels go to W channels in one step: equal up to rounding, without N copies of the dense embedding. Every mask is
    on its own, so they are worked off in chunks.

    Args:
        embed_dim: E, joint width of CLIP (ConvNeXt-L 768, ConvNeXt-B 640).
        width: W of the blocks.
        num_maps: K.
        mask_channels: M; a quarter of it in front of the second convolution.
        chunk: masks at once; None: as many as suit the device. Without gradients memory grows with it, the result does
            not change.
        half: ``bfloat16`` or ``float16``: run the blocks in that precision; None: as the input, or as autocast says.

    Raises:
        ValueError: if a size is not positive, ``mask_channels`` is no multiple of 4 or the precision is not known.
    """

    def __init__(
        self,
        *,
        embed_dim: int,
        width: int = 768,
        num_maps: int = 16,
        mask_channels: int = 16,
        chunk: int | None = None,
        half: str | None = None,
    ) -> None:
        super().__init__()
        _check_sizes(embed_dim, width, num_maps, mask_channels, chunk, half)
        self.embed_dim, self.num_maps, self.chunk, self.half = embed_dim, num_maps, chunk, half
        quarter = mask_channels // 4
        self.fuse = nn.Conv2d(embed_dim, width, 1)
        self.cnext1, self.cnext2, self.cnext3 = (AdapterBlock(width) for _ in range(3))
        self.norm = ChannelNorm(width, eps=_EPS_FINAL)
        self.final = nn.Conv2d(width, num_maps, 1)
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, quarter, 3, stride=2, padding=1),
            ChannelNorm(quarter, eps=_EPS_BLOCKS),
            nn.GELU(),
            nn.Conv2d(quarter, mask_channels, 3, stride=2, padding=1),
            ChannelNorm(mask_channels, eps=_EPS_BLOCKS),
            nn.GELU(),
            nn.Conv2d(mask_channels, embed_dim, 1),
        )

    @property
    def blocks(self) -> tuple[AdapterBlock, ...]:
        """The three blocks in order."""
        return self.cnext1, self.cnext2, self.cnext3

    def forward(self, dense_BEhw: Tensor, masks_BNHW: Tensor) -> Tensor:
        """Predict the maps.

        Args:
            dense_BEhw: CLIP's embedding of every place, not normalised.
            masks_BNHW: masks of any resolution that cover the same region, bool, or numbers from 0 to 1.

        Returns:
            (B, N * K, h, w) raw maps, map k of mask q at q * K + k; float32 or the precision of the weights.

        Raises:
            ValueError: if shapes do not fit.
        """
        self._check_inputs(dense_BEhw, masks_BNHW)
        grid, rows = tuple(dense_BEhw.shape[-2:]), masks_BNHW.flatten(0, 1)[:, None]
        if not len(rows):
            return dense_BEhw.new_zeros((len(masks_BNHW), 0, *grid))
        folded_BWhw = self.fold_dense(dense_BEhw)
        image_R = torch.arange(len(dense_BEhw), device=rows.device).repeat_interleave(masks_BNHW.shape[1])
        size, parts = self._masks_at_once(rows, grid), []
        for start in range(0, len(rows), size):
            some = slice(start, start + size)
            folded = folded_BWhw if len(folded_BWhw) == 1 else folded_BWhw[image_R[some]]
            parts.append(self.maps_of_chunk(folded, rows[some]))
        return torch.cat(parts).reshape(len(masks_BNHW), -1, *grid)

    def _masks_at_once(self, rows: Tensor, grid: tuple[int, int]) -> int:
        if self.chunk is not None:
            return self.chunk
        if torch.is_grad_enabled() and any(parameter.requires_grad for parameter in self.parameters()):
            return len(rows)  # everything is kept for the gradient anyway
        places = _PLACES_AT_ONCE["cpu" if rows.device.type == "cpu" else "accelerator"]
        return max(1, places // (grid[0] * grid[1]))

    def fold_dense(self, dense_BEhw: Tensor) -> Tensor:
        """Bring the dense embedding, and the constant part of the masks' embedding, to (B, W, h, w)."""
        with without_autocast(dense_BEhw):
            weight = self.fuse.weight
            bias = self.fuse.bias + weight.flatten(1) @ self.mask_downscaling[6].bias
            return F.conv2d(dense_BEhw.to(weight.dtype), weight, bias)

    def fold_masks(self) -> Tensor:
        """Return the (W, M, 1, 1) weight that brings a mask's channels straight to the blocks."""
        with without_autocast(self.fuse.weight):
            inner = self.mask_downscaling[6].weight
            return (self.fuse.weight.flatten(1) @ inner.flatten(1))[..., None, None]

    def resize_masks(self, masks_R1HW: Tensor, grid: tuple[int, int]) -> Tensor:
        """Resize masks to four times the feature grid: bilinear, half-pixel centres, no antialiasing."""
        size = (4 * grid[0], 4 * grid[1])
        masks = masks_R1HW.to(self.fuse.weight.dtype)
        if masks.shape[-2:] == size:
            return masks
        with without_autocast(masks):
            return F.interpolate(masks, size, mode="bilinear", align_corners=False)

    def mask_features(self, masks_R1HW: Tensor, grid: tuple[int, int]) -> Tensor:
        """Return (R, M, h, w) of masks, in front of the convolution that leads to the joint width."""
        return self.mask_downscaling[:6](self.resize_masks(masks_R1HW, grid))

    def fused(self, folded_RWhw: Tensor, masks_R1HW: Tensor) -> Tensor:
        """Return (R, W, h, w), what the blocks start from.

        Args:
            folded_RWhw: what :meth:`fold_dense` gave for each mask's image, or (1, W, h, w) if they are of one image.
            masks_R1HW: the masks.
        """
        inner_RMhw = self.mask_features(masks_R1HW, tuple(folded_RWhw.shape[-2:]))
        return folded_RWhw + F.conv2d(inner_RMhw, self.fold_masks())

    def maps_of_chunk(self, folded_RWhw: Tensor, masks_R1HW: Tensor) -> Tensor:
        """Return (R, K, h, w) raw maps, see :meth:`fused` for what goes in."""
        maps = self.fused(folded_RWhw, masks_R1HW)
        if maps.device.type == "cuda" or not torch.is_grad_enabled():
            maps = maps.contiguous(memory_format=torch.channels_last)
        with self._precision(maps):
            for block in self.blocks:
                maps = block(maps)
            maps = self.final(self.norm(maps))
        return maps.to(self.fuse.weight.dtype)

    def _precision(self, maps: Tensor) -> AbstractContextManager:
        if self.half is None:
            return nullcontext()
        return torch.autocast(maps.device.type, HALF_DTYPES[self.half])

    def _check_inputs(self, dense_BEhw: Tensor, masks_BNHW: Tensor) -> None:
        if dense_BEhw.dim() != 4 or dense_BEhw.shape[1] != self.embed_dim:
            raise ValueError(
                f"Expected a dense embedding (B, {self.embed_dim}, h, w), but got {tuple(dense_BEhw.shape)}. "
                "Set mask_classifier.embed_dim to the joint width of CLIP."
            )
        if masks_BNHW.dim() != 4 or len(masks_BNHW) != len(dense_BEhw):
            raise ValueError(
                f"Expected masks ({len(dense_BEhw)}, N, H, W) of the same images, but got {tuple(masks_BNHW.shape)}."
            )


def _check_sizes(
    embed_dim: int, width: int, num_maps: int, mask_channels: int, chunk: int | None, half: str | None
) -> None:
    if min(embed_dim, width, num_maps, mask_channels, chunk or 1) < 1 or mask_channels % 4:
        raise ValueError(
            "Expected positive sizes and mask_channels a multiple of 4, but got "
            f"embed_dim={embed_dim}, width={width}, num_maps={num_maps}, mask_channels={mask_channels}, chunk={chunk}."
        )
    if half is not None and half not in HALF_DTYPES:
        raise ValueError(f"Expected half to be None or one of {tuple(HALF_DTYPES)}, but got {half!r}.")
