"""CLIP's image transformer with dense features: one tower, whose attention is changed by switches."""

import torch
from torch import Tensor, nn

from mmseg_plugins.ops._precision import is_autocast_on, without_autocast
from mmseg_plugins.towers.config import CLIP_MEAN, CLIP_STD, VisionConfig
from mmseg_plugins.towers.dense import DenseFeatures, DenseOptions, Steering
from mmseg_plugins.towers.dense_path import ClipBlock, DenseResult, run_blocks
from mmseg_plugins.towers.position import (
    Grid,
    PositionCache,
    PositionMatch,
    PositionResize,
    pad_image,
    resize_positions,
    to_map,
)
from mmseg_plugins.towers.transformer import build_transformer

# B batch, N = h*w patches, P = 1 + N with the class token in front, W width, D joint width, H W image

_DEFAULT_PADDING = "corner"


class DenseViT(nn.Module):
    """Image transformer under OpenAI's parameter names (without their leading ``visual.``).

    ``forward`` is :meth:`encode_image`. Any image size is taken: the position table is resized to its grid.

    Args:
        config: sizes of the tower, ``family='vit'``.
        embed_dim: joint width; 0: no projection, ``pixels`` are the trunk's features.
        mean, std: RGB statistics on the 0..255 scale that the tower was trained with; kept for whoever normalises.

    Attributes:
        embed_dim: joint width.
        width: trunk width.
        stride: patch side in pixels.
        grid: (h, w) of the stored position table.
    """

    def __init__(
        self,
        config: VisionConfig,
        *,
        embed_dim: int,
        mean: tuple[float, float, float] = CLIP_MEAN,
        std: tuple[float, float, float] = CLIP_STD,
    ) -> None:
        super().__init__()
        if config.patch is None:
            raise ValueError("A ViT needs a patch side: set VisionConfig.patch.")
        self.config, self.mean, self.std = config, mean, std
        self.width, self.stride, self.embed_dim = config.width, config.patch, embed_dim or config.width
        self.grid: Grid = (config.image_size[0] // config.patch, config.image_size[1] // config.patch)
        scale = config.width**-0.5
        self.conv1 = nn.Conv2d(3, config.width, config.patch, stride=config.patch, bias=config.patch_bias)
        self.class_embedding = nn.Parameter(scale * torch.randn(config.width))
        self.positional_embedding = nn.Parameter(scale * torch.randn(1 + self.grid[0] * self.grid[1], config.width))
        self.ln_pre = nn.LayerNorm(config.width, eps=config.norm_eps) if config.norm_before else nn.Identity()
        self.transformer = build_transformer(
            config.width,
            config.layers,
            config.heads,
            mlp_ratio=config.mlp_ratio,
            act=config.act,
            norm_eps=config.norm_eps,
            layer_scale=config.layer_scale,
            experts=config.experts,
            experts_per_token=config.experts_per_token,
            expert_layers=config.expert_layers,
        )
        self.ln_post = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.proj = nn.Parameter(scale * torch.randn(config.width, embed_dim)) if embed_dim else None
        self._positions = PositionCache()

    @property
    def blocks(self) -> nn.ModuleList:
        """The transformer's blocks."""
        return self.transformer.resblocks

    def embed_patches(self, image_B3HW: Tensor) -> tuple[Tensor, Grid]:
        """Return patch embeddings (B, N, W) without positions, and their grid (h, w).

        Args:
            image_B3HW: (B, 3, H, W), normalised, sides multiples of the patch (a remainder is ignored).
        """
        map_BWhw = self.conv1(image_B3HW)
        return map_BWhw.flatten(2).transpose(1, 2), (map_BWhw.shape[-2], map_BWhw.shape[-1])

    def positions(self, grid: Grid, mode: PositionResize = "size", match: PositionMatch = "grid") -> Tensor:
        """Return the position table for a grid, (1 + h * w, W); from memory in eval mode."""
        table = self.positional_embedding
        if self.training or (torch.is_grad_enabled() and table.requires_grad):
            return resize_positions(table, self.grid, grid, mode, match=match)
        return self._positions.get(table, self.grid, grid, mode, match)

    def add_class_token(self, patches_BNW: Tensor, positions_PW: Tensor) -> Tensor:
        """Put the class token in front, add positions and norm: input of the first block, (B, 1 + N, W).

        Under autocast the stream is float32, as it is on a GPU, where norms are: blocks add to it at full precision.
        """
        patches_BNW = patches_BNW.float() if is_autocast_on(patches_BNW) else patches_BNW
        cls = self.class_embedding.to(patches_BNW.dtype).expand(patches_BNW.shape[0], 1, -1)
        return self.ln_pre(torch.cat([cls, patches_BNW], dim=1) + positions_PW.to(patches_BNW.dtype))

    def finish(self, tokens_BPW: Tensor) -> Tensor:
        """Last layer norm and projection of tokens or pooled vectors: (..., W) -> (..., D)."""
        return self.project(self.ln_post(tokens_BPW))

    def project(self, normed: Tensor) -> Tensor:
        """Projection into the joint space behind the last layer norm: (..., W) -> (..., D)."""
        if self.proj is None:
            return normed
        with without_autocast(normed):
            return normed.to(self.proj.dtype) @ self.proj

    def pool(self, tokens_BPW: Tensor) -> Tensor:
        """Image embedding (B, D) of the last block's output, as the tower was trained."""
        if self.config.pool == "tok":
            return self.finish(tokens_BPW[:, 0])
        if self.config.norm_after_pool:
            return self.finish(tokens_BPW[:, 1:].mean(1))
        return self.project(self.ln_post(tokens_BPW[:, 1:]).mean(1))

    def encode_image(self, image_B3HW: Tensor, *, position_resize: PositionResize = "size") -> Tensor:
        """Embed whole images.

        Args:
            image_B3HW: (B, 3, H, W), normalised; a remainder of a patch at the bottom and right is dropped.
            position_resize: how the position table meets another grid.

        Returns:
            (B, D), not normalised.
        """
        patches, grid = self.embed_patches(pad_image(image_B3HW, self.stride, "floor"))
        return self.pool(self.transformer(self.add_class_token(patches, self.positions(grid, position_resize))))

    def forward(self, image_B3HW: Tensor) -> Tensor:
        """Embed whole images, see :meth:`encode_image`."""
        return self.encode_image(image_B3HW)

    def forward_dense(
        self, image_B3HW: Tensor, options: DenseOptions | None = None, *, steering: Steering | None = None
    ) -> DenseFeatures:
        """Compute features for every patch.

        Args:
            image_B3HW: (B, 3, H, W), normalised.
            options: how attention is changed; MaskCLIP's value path without them.
            steering: what is known only for this image.

        Returns:
            Features on the grid of the patches, or of the affinity in ``steering``.

        Raises:
            ValueError: if the options do not fit this tower.
        """
        options = options or DenseOptions()
        image = pad_image(image_B3HW, self.stride, options.padding or _DEFAULT_PADDING)
        patches, grid = self.embed_patches(image)
        positions = self.positions(grid, options.position_resize, options.position_match)
        return self.forward_tokens(self.add_class_token(patches, positions), grid, options, steering=steering)

    def forward_tokens(
        self,
        tokens_BPW: Tensor,
        grid: Grid,
        options: DenseOptions,
        *,
        steering: Steering | None = None,
        start: int = 0,
    ) -> DenseFeatures:
        """Compute features from the input of a block (for methods that change what goes in, or run blocks twice).

        Args:
            tokens_BPW: (B, 1 + N, W).
            grid: (h, w) with h * w = N.
            options: how attention is changed; blocks are counted from ``start``.
            steering: what is known only for this image.
            start: block whose input the tokens are; negative counts from the end.
        """
        blocks = [ClipBlock(block) for block in self.blocks[start:]]
        result = run_blocks(blocks, tokens_BPW, grid, options, steering)
        return self._gather(result, options)

    def _gather(self, result: DenseResult, options: DenseOptions) -> DenseFeatures:
        patches = result.stream[:, -result.grid[0] * result.grid[1] :]
        normed = self.ln_post(patches)
        features = DenseFeatures(
            pixels=to_map(self.project(normed), result.grid),
            trunk=to_map(normed, result.grid),
            grid=result.grid,
            extras=result.taps,
        )
        if result.handed_over is not None:
            features.query, features.key, features.value = result.handed_over
        if result.ordinary is not None:
            features.cls = self.pool(result.ordinary)
            features.patch_tokens = to_map(self.ln_post(result.ordinary[:, 1:]), result.ordinary_grid)
        self._add_taps(features, result, options)
        return features

    def _add_taps(self, features: DenseFeatures, result: DenseResult, options: DenseOptions) -> None:
        if "stream" in options.taps:
            features.extras["stream"] = result.stream
        if "tokens" in options.taps:
            features.extras["tokens"] = self.finish(result.stream)
        if "tokens_ordinary" in options.taps:
            features.extras["tokens_ordinary"] = self.finish(result.ordinary)
