"""Attention and feed-forward blocks of the query decoder, normalised after each residual sum."""

# B batch, Q queries, S tokens, W channels, A heads

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FusedAttention(nn.Module):
    """Multi-head attention with ``nn.MultiheadAttention``'s parameter names and one mask for all heads.

    Args:
        width: channels W.
        heads: attention heads A.

    Raises:
        ValueError: if ``width`` is not a multiple of ``heads``.
    """

    def __init__(self, *, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of the {heads} heads.")
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.xavier_uniform_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None = None) -> Tensor:
        """Attend.

        Args:
            query: (B, Q, W).
            key: (B, S, W).
            value: (B, S, W).
            allowed: (B, Q, S) bool, True where a query may look; None: everywhere.

        Returns:
            (B, Q, W).
        """
        inputs = (query, key, value)
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        projected = (F.linear(x, weight, bias) for x, weight, bias in zip(inputs, weights, biases, strict=True))
        heads = [x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in projected]
        mask = None if allowed is None else allowed[:, None]
        return self.out_proj(F.scaled_dot_product_attention(*heads, attn_mask=mask).transpose(1, 2).flatten(2))


class CrossAttentionLayer(nn.Module):
    """Queries read from a map: q carries the query positions, k the map's, v none.

    Args:
        width: channels.
        heads: attention heads.
    """

    def __init__(self, *, width: int, heads: int) -> None:
        super().__init__()
        self.multihead_attn = FusedAttention(width=width, heads=heads)
        self.norm = nn.LayerNorm(width)

    def forward(
        self, queries: Tensor, query_positions: Tensor, memory: Tensor, memory_positions: Tensor, allowed: Tensor
    ) -> Tensor:
        """Map (B, Q, W) queries to queries, see :class:`FusedAttention` for ``allowed``."""
        read = self.multihead_attn(queries + query_positions, memory + memory_positions, memory, allowed)
        return self.norm(queries + read)


class SelfAttentionLayer(nn.Module):
    """Queries read from each other: q and k carry the query positions.

    Args:
        width: channels.
        heads: attention heads.
    """

    def __init__(self, *, width: int, heads: int) -> None:
        super().__init__()
        self.self_attn = FusedAttention(width=width, heads=heads)
        self.norm = nn.LayerNorm(width)

    def forward(self, queries: Tensor, query_positions: Tensor) -> Tensor:
        """Map (B, Q, W) queries to queries."""
        placed = queries + query_positions
        return self.norm(queries + self.self_attn(placed, placed, queries))


class FeedForwardLayer(nn.Module):
    """Two linear layers with a ReLU between.

    Args:
        width: channels.
        hidden: channels between.
    """

    def __init__(self, *, width: int, hidden: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(width, hidden)
        self.linear2 = nn.Linear(hidden, width)
        self.norm = nn.LayerNorm(width)
        for linear in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(linear.weight)

    def forward(self, queries: Tensor) -> Tensor:
        """Map (B, Q, W) queries to queries."""
        return self.norm(queries + self.linear2(F.relu(self.linear1(queries))))


class Perceptron(nn.Module):
    """Linear layers with ReLUs between, named ``layers``.

    Args:
        widths: channels from the input to the output.
    """

    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))

    def forward(self, vectors: Tensor) -> Tensor:
        """Map (..., widths[0]) to (..., widths[-1])."""
        for layer in self.layers[:-1]:
            vectors = F.relu(layer(vectors))
        return self.layers[-1](vectors)
