"""The decoder through which the text embeddings look at the image (paper section 3.3, "post-model prompting").

B batch, K classes, P memory tokens, C joint width, d decoder width.
"""

import torch.nn.functional as F
from mmengine.model import BaseModule
from mmseg.registry import MODELS
from torch import Tensor, nn

from mmseg_plugins.towers.attention import merge_heads, split_heads

_INITIAL_STD = 0.02


class UnbiasedAttention(nn.Module):
    """Multi-head attention whose q, k and v projections have no bias.

    Args:
        width: token width.
        heads: attention heads.
        dropout: probability behind the output projection; there is none on the attention weights.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width, bias=False)
        self.proj = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, queries: Tensor, memory: Tensor) -> Tensor:
        """Attend from (B, K, d) to (B, P, d): (B, K, d)."""
        q = split_heads(self.q_proj(queries), self.heads)
        k, v = (split_heads(project(memory), self.heads) for project in (self.k_proj, self.v_proj))
        return self.dropout(self.proj(merge_heads(F.scaled_dot_product_attention(q, k, v))))


class ContextDecoderLayer(nn.Module):
    """Pre-norm layer: attention among the classes, attention to the image, MLP.

    Args:
        width: token width.
        heads: attention heads.
        dropout: probability of the dropouts.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = UnbiasedAttention(width, heads, dropout)
        self.cross_attn = UnbiasedAttention(width, heads, dropout)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.mlp = nn.Sequential(
            nn.Linear(width, width * 4), nn.GELU(), nn.Dropout(dropout), nn.Linear(width * 4, width)
        )

    def forward(self, x_BKd: Tensor, memory_BPd: Tensor) -> Tensor:
        """(B, K, d) with a memory of (B, P, d): (B, K, d)."""
        normed = self.norm1(x_BKd)
        x = x_BKd + self.self_attn(normed, normed)
        x = x + self.cross_attn(self.norm2(x), memory_BPd)
        return x + self.dropout(self.mlp(self.norm3(x)))


@MODELS.register_module()
class ContextDecoder(BaseModule):
    """Turns text embeddings and visual context into a correction of the text embeddings.

    Args:
        transformer_width: d.
        transformer_heads: attention heads.
        transformer_layers: number of layers.
        visual_dim: C, width of the joint space.
        dropout: probability of the dropouts.
    """

    def __init__(
        self,
        *,
        transformer_width: int = 256,
        transformer_heads: int = 4,
        transformer_layers: int = 3,
        visual_dim: int = 1024,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if transformer_width % transformer_heads:
            raise ValueError(
                f"context decoder: width {transformer_width} cannot be divided into {transformer_heads} heads."
            )
        width = transformer_width
        self.visual_dim = visual_dim
        self.memory_proj = nn.Sequential(nn.LayerNorm(visual_dim), nn.Linear(visual_dim, width), nn.LayerNorm(width))
        self.text_proj = nn.Sequential(nn.LayerNorm(visual_dim), nn.Linear(visual_dim, width))
        self.decoder = nn.ModuleList(
            [ContextDecoderLayer(width, transformer_heads, dropout) for _ in range(transformer_layers)]
        )
        self.out_proj = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, visual_dim))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=_INITIAL_STD)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, text_BKC: Tensor, visual_BPC: Tensor) -> Tensor:
        """Let the classes look at the image.

        Args:
            text_BKC: text embeddings, not normalised.
            visual_BPC: visual context, not normalised, the global vector first.

        Returns:
            (B, K, C).
        """
        memory, x = self.memory_proj(visual_BPC), self.text_proj(text_BKC)
        for layer in self.decoder:
            x = layer(x, memory)
        return self.out_proj(x)
