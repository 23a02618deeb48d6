"""Masked-attention query decoder with open-vocabulary class logits (Mask2Former's, as FC-CLIP changed it)."""

# B batch, Q queries, W hidden channels, T text rows, E joint width, S tokens of a source, h w its grid

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmseg_plugins.masks.mask2former.attention import (
    CrossAttentionLayer,
    FeedForwardLayer,
    Perceptron,
    SelfAttentionLayer,
)
from mmseg_plugins.masks.mask2former.pixel_decoder import DecodedPixels
from mmseg_plugins.masks.mask2former.positions import sine_positions
from mmseg_plugins.masks.mask2former.predictions import MaskPrediction
from mmseg_plugins.ops import mask_pool
from mmseg_plugins.vocabulary.class_logits import clip_scale

_NUM_SOURCES = 3
_INITIAL_LOGIT_SCALE = math.log(1 / 0.07)


class QueryDecoder(nn.Module):
    """Learnable queries that read from the maps where their last mask lies.

    Class logits come from the query joined with the mean of the mask features under its mask.

    Args:
        in_channels: channels of the sources.
        embed_dim: joint width E of the text rows.
        hidden_dim: channels W of the queries; must equal the channels of the mask features, which are pooled.
        num_queries: Q.
        num_layers: decoder layers.
        heads: attention heads.
        ffn: width of the feed-forward blocks.
    """

    def __init__(
        self,
        *,
        in_channels: int = 256,
        embed_dim: int = 768,
        hidden_dim: int = 256,
        num_queries: int = 250,
        num_layers: int = 9,
        heads: int = 8,
        ffn: int = 2048,
    ) -> None:
        super().__init__()
        attention = {"width": hidden_dim, "heads": heads}
        self.num_queries = num_queries
        self.transformer_self_attention_layers = nn.ModuleList(
            SelfAttentionLayer(**attention) for _ in range(num_layers)
        )
        self.transformer_cross_attention_layers = nn.ModuleList(
            CrossAttentionLayer(**attention) for _ in range(num_layers)
        )
        self.transformer_ffn_layers = nn.ModuleList(
            FeedForwardLayer(width=hidden_dim, hidden=ffn) for _ in range(num_layers)
        )
        self.decoder_norm = nn.LayerNorm(hidden_dim)
        self.query_feat = nn.Embedding(num_queries, hidden_dim)
        self.query_embed = nn.Embedding(num_queries, hidden_dim)
        self.level_embed = nn.Embedding(_NUM_SOURCES, hidden_dim)
        self.input_proj = nn.ModuleList(_source_projection(in_channels, hidden_dim) for _ in range(_NUM_SOURCES))
        self.mask_embed = Perceptron(hidden_dim, hidden_dim, hidden_dim, hidden_dim)
        self._mask_pooling_proj = nn.Sequential(nn.LayerNorm(hidden_dim), nn.Linear(hidden_dim, hidden_dim))
        self.class_embed = Perceptron(hidden_dim, hidden_dim, hidden_dim, embed_dim)
        self.logit_scale = nn.Parameter(torch.tensor(_INITIAL_LOGIT_SCALE))

    def forward(
        self,
        pixels: DecodedPixels,
        compare: Callable[..., Tensor],
        *,
        all_predictions: bool = True,
    ) -> list[MaskPrediction]:
        """Predict masks and class logits.

        Args:
            pixels: of the pixel decoder.
            compare: (B, Q, E) embeddings and a keyword ``scale`` to (B, Q, C) class logits.
            all_predictions: see :class:`~mmseg_plugins.masks.mask2former.head.Mask2FormerHead`.

        Returns:
            One prediction of the initial queries and one per layer, or the last alone.
        """
        memories = [self._memory(level, source) for level, source in enumerate(pixels.sources)]
        sizes = [tuple(source.shape[-2:]) for source in pixels.sources]
        shrunk = None if all_predictions else [_resize(pixels.mask_features, size) for size in sizes]
        batch = pixels.mask_features.shape[0]
        queries = self.query_feat.weight.expand(batch, -1, -1)
        query_positions = self.query_embed.weight
        predictions = []
        for index in range(len(self.transformer_ffn_layers)):
            level = index % _NUM_SOURCES
            if all_predictions:
                predictions.append(self._predict(queries, pixels.mask_features, compare))
                resized = _resize(predictions[-1].mask_logits.detach(), sizes[level])
            else:
                resized = self._mask_logits(self.decoder_norm(queries), shrunk[level])
            queries = self.transformer_cross_attention_layers[index](
                queries, query_positions, *memories[level], _allowed(resized)
            )
            queries = self.transformer_self_attention_layers[index](queries, query_positions)
            queries = self.transformer_ffn_layers[index](queries)
        predictions.append(self._predict(queries, pixels.mask_features, compare))
        return predictions

    def _memory(self, level: int, source: Tensor) -> tuple[Tensor, Tensor]:
        """Return the tokens of a source, (B, S, W), and their positions, (1, S, W)."""
        tokens = self.input_proj[level](source).flatten(2).transpose(1, 2)
        positions = sine_positions(*source.shape[-2:], tokens.shape[-1], device=tokens.device, dtype=tokens.dtype)
        return tokens + self.level_embed.weight[level], positions.flatten(2).transpose(1, 2)

    def _mask_logits(self, normed: Tensor, mask_features: Tensor) -> Tensor:
        return torch.einsum("bqd,bdhw->bqhw", self.mask_embed(normed), mask_features)

    def _predict(self, queries: Tensor, mask_features: Tensor, compare: Callable[..., Tensor]) -> MaskPrediction:
        normed = self.decoder_norm(queries)
        mask_logits = self._mask_logits(normed, mask_features)
        pooled = mask_pool(mask_features, mask_logits.detach(), mode="hard", eps=1e-8)
        embeddings = self.class_embed(self._mask_pooling_proj(pooled.to(normed.dtype)) + normed)
        return MaskPrediction(
            mask_logits=mask_logits, class_logits=compare(embeddings, scale=clip_scale(self.logit_scale))
        )


def _source_projection(in_channels: int, hidden_dim: int) -> nn.Module:
    if in_channels == hidden_dim:
        return nn.Identity()
    projection = nn.Conv2d(in_channels, hidden_dim, 1)
    nn.init.kaiming_uniform_(projection.weight, a=1)
    nn.init.zeros_(projection.bias)
    return projection


def _resize(maps: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)


def _allowed(resized: Tensor) -> Tensor:
    """Say where each query may look: inside its mask, or everywhere if no place of the source is inside.

    Args:
        resized: (B, Q, h, w) mask logits at the source's size.

    Returns:
        (B, Q, h * w) bool.
    """
    inside = (resized.detach().sigmoid() >= 0.5).flatten(2)
    return inside | ~inside.any(-1, keepdim=True)
