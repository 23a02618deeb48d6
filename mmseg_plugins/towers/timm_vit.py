"""Image transformers that open_clip takes from timm: EVA, SigLIP, Perception Encoder, MobileCLIP-B and their like."""

import torch
from torch import Tensor, nn

from mmseg_plugins.towers.attention import merge_heads, split_heads
from mmseg_plugins.towers.config import CLIP_MEAN, CLIP_STD, VisionConfig
from mmseg_plugins.towers.dense import DenseFeatures, DenseOptions, Steering
from mmseg_plugins.towers.dense_path import DenseResult, run_blocks
from mmseg_plugins.towers.position import Grid, pad_image, to_map
from mmseg_plugins.towers.staged import build_head

# B batch, N = h*w patches, P = prefix + N, W width, D joint width

_SUPPORTED = ("Eva", "VisionTransformer")


class TimmViT(nn.Module):
    """A timm transformer as CLIP's image tower, under open_clip's parameter names.

    Dense features: the last block's attention is changed as the options say. Where the trunk ends in an attention
    pool with a learned query (SigLIP), the blocks stay as they are under the rule ``value``, and the pool's value path
    takes its place: value projection, output projection, and the pool's MLP for each patch. Any image size is taken;
    timm's own rule (bicubic with antialiasing) resizes the positions.

    Args:
        config: ``family='timm'`` with the trunk's name.
        embed_dim: joint width.
        mean, std: RGB statistics on the 0..255 scale that the tower was trained with; kept for whoever normalises.

    Attributes:
        embed_dim: joint width.
        width: trunk width.
        stride: pixels per patch.

    Raises:
        ValueError: if the trunk is not a plain transformer, or its width is not the joint one where it has to be.
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
        self.config, self.mean, self.std, self.embed_dim = config, mean, std, embed_dim
        self.trunk = _build_trunk(config, embed_dim)
        self.head = build_head(self.trunk.num_features, embed_dim, config.timm_proj, config.timm_proj_bias)
        if config.timm_proj == "none" and self.trunk.num_features != embed_dim:
            raise ValueError(
                f"The trunk {config.timm_name!r} gives {self.trunk.num_features} channels, and nothing projects them "
                f"into the joint space of {embed_dim}."
            )
        self.width, self.prefix = self.trunk.embed_dim, self.trunk.num_prefix_tokens
        self.stride = int(self.trunk.patch_embed.feat_ratio())

    def encode_image(self, image_B3HW: Tensor) -> Tensor:
        """Embed whole images, (B, D), not normalised.

        Args:
            image_B3HW: (B, 3, H, W), normalised; a remainder of a patch at the bottom and right is dropped.
        """
        return self.head(self.trunk(pad_image(image_B3HW, self.stride, "floor")))

    def forward(self, image_B3HW: Tensor) -> Tensor:
        """Embed whole images, see :meth:`encode_image`."""
        return self.encode_image(image_B3HW)

    def forward_dense(
        self, image_B3HW: Tensor, options: DenseOptions | None = None, *, steering: Steering | None = None
    ) -> DenseFeatures:
        """Compute features for every patch.

        Args:
            image_B3HW: (B, 3, H, W), normalised.
            options: how attention is changed; the value path without them.
            steering: what is known only for this image.

        Raises:
            ValueError: if the options do not fit this tower.
        """
        options = options or DenseOptions()
        image = pad_image(image_B3HW, self.stride, options.padding or "corner")
        tokens, ropes, grid = self._embed(image)
        blocks = [TimmBlock(block, rope) for block, rope in zip(self.trunk.blocks, ropes, strict=True)]
        if self.trunk.attn_pool is not None and options.rule == "value":
            result = _run_unchanged(blocks, tokens, grid)
        else:
            result = run_blocks(blocks, tokens, grid, options, steering, prefix=self.prefix)
        return self._gather(result, options)

    def finish(self, tokens_BPW: Tensor) -> Tensor:
        """Turn tokens behind the last block into joint-space vectors: (..., W) -> (..., D)."""
        return self.project(self.trunk.norm(tokens_BPW))

    def project(self, normed: Tensor) -> Tensor:
        """Pool's value path where there is one, norm, and projection, token by token."""
        pool = self.trunk.attn_pool
        if pool is not None:
            value = pool.proj(pool.kv(normed).chunk(2, dim=-1)[1])
            normed = value if pool.mlp is None else value + pool.mlp(pool.norm(value))
        return self.head(self.trunk.head(self.trunk.fc_norm(normed)))

    def pool(self, tokens_BPW: Tensor) -> Tensor:
        """Image embedding (B, D) of the last block's output, as the tower was trained."""
        return self.head(self.trunk.forward_head(self.trunk.norm(tokens_BPW)))

    def _embed(self, image_B3HW: Tensor) -> tuple[Tensor, list[Tensor | None], Grid]:
        patches_BhwW = self.trunk.patch_embed(image_B3HW)
        grid = (patches_BhwW.shape[1], patches_BhwW.shape[2])
        embedded = self.trunk._pos_embed(patches_BhwW)
        tokens, rope = embedded if isinstance(embedded, tuple) else (embedded, None)
        depth = len(self.trunk.blocks)
        is_mixed = getattr(self.trunk, "rope_mixed", False) and rope is not None
        return self.trunk.norm_pre(tokens), list(rope) if is_mixed else [rope] * depth, grid

    def _gather(self, result: DenseResult, options: DenseOptions) -> DenseFeatures:
        patches = result.stream[:, -result.grid[0] * result.grid[1] :]
        normed = self.trunk.norm(patches)
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
            features.patch_tokens = to_map(self.trunk.norm(result.ordinary[:, self.prefix :]), result.ordinary_grid)
        tokens = {"stream": lambda: result.stream, "tokens": lambda: self.finish(result.stream)}
        tokens["tokens_ordinary"] = lambda: self.finish(result.ordinary)
        features.extras.update({name: tokens[name]() for name in options.taps if name in tokens})
        return features


def _build_trunk(config: VisionConfig, embed_dim: int) -> nn.Module:
    import timm

    # Without a projection of its own, open_clip lets the trunk's classifier project.
    classes = embed_dim if config.timm_proj in (None, "") else 0
    options = {"global_pool": config.timm_pool} if config.timm_pool else {}
    try:
        trunk = timm.create_model(
            config.timm_name,
            pretrained=False,
            num_classes=classes,
            dynamic_img_size=True,
            **options,
            **dict(config.timm_options),
        )
    except TypeError:
        trunk = None
    if type(trunk).__name__ not in _SUPPORTED or any(_has_gate(block) for block in trunk.blocks):
        raise ValueError(
            f"The image tower {config.timm_name!r} is not a plain transformer, so there are no dense features of it "
            f"here. Supported timm trunks: EVA, SigLIP, Perception Encoder and other plain vision transformers; "
            f"ConvNeXt and FastViT have towers of their own."
        )
    return trunk


def _has_gate(block: nn.Module) -> bool:
    return getattr(block.attn, "gate", None) is not None or getattr(block.attn, "num_kv_groups", 1) > 1


def _run_unchanged(blocks: list["TimmBlock"], tokens: Tensor, grid: Grid) -> DenseResult:
    for block in blocks:
        tokens = block(tokens)
    return DenseResult(tokens, tokens, grid, grid)


class TimmBlock:
    """A timm block as the dense path sees it.

    Args:
        block: pre-norm block of a VisionTransformer or Eva, or Eva's post-norm block.
        rope: rotary positions of the patches, None where the trunk has none.
    """

    def __init__(self, block: nn.Module, rope: Tensor | None) -> None:
        self.block, self.rope, self.attn = block, rope, block.attn
        self.scale = block.attn.head_dim**-0.5
        self.is_post_norm = type(block).__name__ == "EvaBlockPostNorm"

    def __call__(self, x: Tensor) -> Tensor:
        """Run the unchanged block."""
        return self.block(x) if self.rope is None else self.block(x, rope=self.rope)

    def norm_attention(self, x: Tensor) -> Tensor:
        """Norm in front of the attention; post-norm blocks have none there."""
        return x if self.is_post_norm else self.block.norm1(x)

    def project(self, normed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return q, k, v, (B, heads, P, d) each; norms and rotary positions of q and k included."""
        q, k, v = (split_heads(part, self.attn.num_heads) for part in self._linear(normed))
        q, k = (self._rotate(part) for part in (self.attn.q_norm(q), self.attn.k_norm(k)))
        return q, k, v

    def project_value(self, normed: Tensor) -> Tensor:
        """Return v alone."""
        return split_heads(self._linear(normed)[2], self.attn.num_heads)

    def attention_output(self, context: Tensor) -> Tensor:
        """(B, heads, P, d) -> (B, P, W): the attention's norm, projection, and what scales the residual."""
        output = self.attn.proj(self.attn.norm(merge_heads(context)))
        return self.block.norm1(output) if self.is_post_norm else self._scaled(output, 1)

    def norm_mlp(self, x: Tensor) -> Tensor:
        """Norm in front of the MLP; post-norm blocks have none there."""
        return x if self.is_post_norm else self.block.norm2(x)

    def mlp_output(self, normed: Tensor) -> Tensor:
        """MLP and what scales the residual."""
        output = self.block.mlp(normed)
        return self.block.norm2(output) if self.is_post_norm else self._scaled(output, 2)

    def _linear(self, normed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        attn = self.attn
        if attn.qkv is None:
            return attn.q_proj(normed), attn.k_proj(normed), attn.v_proj(normed)
        stacked = attn.qkv(normed)
        if getattr(attn, "q_bias", None) is not None:
            stacked = stacked + torch.cat([attn.q_bias, attn.k_bias, attn.v_bias])
        return stacked.chunk(3, dim=-1)

    def _rotate(self, heads_BhPd: Tensor) -> Tensor:
        if self.rope is None:
            return heads_BhPd
        from timm.layers import apply_rot_embed_cat

        prefix = self.attn.num_prefix_tokens
        front, patches = heads_BhPd[:, :, :prefix], heads_BhPd[:, :, prefix:]
        rotated = apply_rot_embed_cat(patches, self.rope, half=getattr(self.attn, "rotate_half", False))
        return torch.cat([front, rotated], dim=2).type_as(heads_BhPd)

    def _scaled(self, output: Tensor, which: int) -> Tensor:
        gamma = getattr(self.block, f"gamma_{which}", None)
        if gamma is not None:
            return gamma * output
        layer_scale = getattr(self.block, f"ls{which}", None)
        return output if layer_scale is None else layer_scale(output)
