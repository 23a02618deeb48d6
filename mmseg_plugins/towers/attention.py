"""The attention rules of dense CLIP as functions on q, k and v.

Shapes: q, k, v (B, heads, P, d) with biases and without any scale; weights (B, heads, P, P) as they multiply v.
P counts the class token, which stands first.
"""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mmseg_plugins.towers.dense import parse_rule
from mmseg_plugins.towers.position import Grid

# B batch, h heads, P tokens with class token, N patches, d head width, W trunk width

ScoreChange = Callable[[Tensor], Tensor]


def split_heads(tokens_BPW: Tensor, heads: int) -> Tensor:
    """(B, P, W) -> (B, heads, P, W / heads)."""
    return tokens_BPW.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge_heads(tokens_BhPd: Tensor) -> Tensor:
    """(B, heads, P, d) -> (B, P, heads * d)."""
    return tokens_BhPd.transpose(1, 2).flatten(2)


def gaussian_neighbourhood(grid: Grid, std: float, *, prefix: int = 1, like: Tensor | None = None) -> Tensor:
    """Closeness of every two patches: exp(-distance² / (2 std²)), distance in patches (NACLIP's prior).

    Args:
        grid: (h, w).
        std: width in patches.
        prefix: tokens in front of the patches; their rows and columns are 0.
        like: tensor whose dtype and device the result takes.

    Returns:
        (1, prefix + N, prefix + N), values in [0, 1].
    """
    rows, columns = (torch.arange(side, device=None if like is None else like.device).float() for side in grid)
    row_part = torch.exp(-((rows[:, None] - rows) ** 2) / (2 * std**2))
    column_part = torch.exp(-((columns[:, None] - columns) ** 2) / (2 * std**2))
    # exp of a sum is the product of the two axes' parts, which never builds the N x N x 2 differences
    closeness = torch.kron(row_part, column_part)
    padded = F.pad(closeness, (prefix, 0, prefix, 0))[None]
    return padded if like is None else padded.to(like.dtype)


def norm_temperature(normed_BPW: Tensor, scale: float) -> Tensor:
    """GEM's factor of the scores: ``scale`` times the mean length of all tokens of an image.

    Args:
        normed_BPW: (B, P, W) output of the block's first layer norm.
        scale: head width^-0.5.

    Returns:
        (B,).
    """
    return scale * normed_BPW.norm(dim=-1).mean(dim=-1)


def mean_length_product(q: Tensor, k: Tensor) -> Tensor:
    """Mean of |q_p| |k_r| over heads and all pairs of tokens: (B,)."""
    return (q.norm(dim=-1).mean(-1) * k.norm(dim=-1).mean(-1)).mean(-1)


def self_average(z: Tensor, temperature: float | Tensor, iterations: int) -> Tensor:
    """Average rows by their own similarity, ``iterations`` times: z <- softmax(t ẑ ẑᵀ) ẑ with unit rows ẑ (GEM)."""
    for _ in range(iterations):
        unit = F.normalize(z, dim=-1)
        z = F.scaled_dot_product_attention(unit * _per_image(temperature), unit, unit, scale=1.0)
    return z


def _per_image(factor: float | Tensor) -> float | Tensor:
    return factor[:, None, None, None] if isinstance(factor, Tensor) else factor


def pair_members(
    rule: str, q: Tensor, k: Tensor, v: Tensor, *, unit_rows: bool, temperature: float | Tensor, iterations: int
) -> list[tuple[Tensor, Tensor]]:
    """Return (left, right) for each pair of a rule, such that its scores are left @ rightᵀ; left holds the factor."""
    members = {"q": q, "k": k, "v": v}
    used = {name for pair in parse_rule(rule) for name in pair}
    for name in used:
        z = self_average(members[name], temperature, iterations)
        members[name] = F.normalize(z, dim=-1) if unit_rows else z
    return [(members[pair[0]] * _per_image(temperature), members[pair[1]]) for pair in parse_rule(rule)]


def neighbourhood_scores(q: Tensor, k: Tensor, closeness: Tensor, scale: float) -> Tensor:
    """Scores by distance alone, at the strength of ordinary ones (NACLIP's ``nonly``): (B, 1, P, P)."""
    return _per_image(scale * mean_length_product(q, k)) * closeness[:, None]


def rule_weights(
    rule: str,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    temperature: float | Tensor | None = None,
    combine: Literal["sum", "mean"] = "sum",
    unit_rows: bool = False,
    iterations: int = 0,
    closeness: Tensor | None = None,
    modify_scores: ScoreChange | None = None,
) -> Tensor:
    """Attention weights of a rule.

    Args:
        rule: as :attr:`DenseOptions.rule <mmseg_plugins.towers.dense.DenseOptions>`.
        q: (B, heads, P, d).
        k: (B, heads, P, d).
        v: (B, heads, P, d).
        temperature: factor of the scores, a number or (B,); None: d^-0.5.
        combine: how several pairs are joined.
        unit_rows: whether rows are scaled to unit length first.
        iterations: of :func:`self_average` before that.
        closeness: (1, P, P) added to the scores of every pair; the scores of ``neighbourhood`` are made of it.
        modify_scores: changes scores before ``closeness`` is added.

    Returns:
        (B, heads, P, P); rows sum to 1, or to the number of pairs where they are added.

    Raises:
        ValueError: if ``neighbourhood`` comes without ``closeness``.
    """
    if rule == "value":
        return torch.eye(q.shape[-2], dtype=v.dtype, device=v.device).expand(*v.shape[:2], -1, -1)
    scale = q.shape[-1] ** -0.5
    temperature = scale if temperature is None else temperature
    if rule == "neighbourhood":
        if closeness is None:
            raise ValueError("Rule 'neighbourhood' needs a width: set gaussian_std.")
        return neighbourhood_scores(q, k, closeness, scale).softmax(-1).expand(-1, q.shape[1], -1, -1)
    members = pair_members(rule, q, k, v, unit_rows=unit_rows, temperature=temperature, iterations=iterations)
    total = None
    for left, right in members:
        scores = left @ right.transpose(-2, -1)
        scores = scores if modify_scores is None else modify_scores(scores)
        weights = (scores if closeness is None else scores + closeness[:, None]).softmax(-1)
        total = weights if total is None else total + weights
    return total / len(members) if combine == "mean" else total


def rule_output(
    rule: str,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    temperature: float | Tensor | None = None,
    combine: Literal["sum", "mean"] = "sum",
    unit_rows: bool = False,
    iterations: int = 0,
    closeness: Tensor | None = None,
) -> Tensor:
    """``rule_weights(...) @ v`` without the weights in memory, where PyTorch's fused attention can do it.

    Returns:
        (B, heads, P, d).
    """
    if rule == "value":
        return v
    if rule == "neighbourhood":
        return rule_weights(rule, q, k, v, closeness=closeness) @ v
    temperature = q.shape[-1] ** -0.5 if temperature is None else temperature
    members = pair_members(rule, q, k, v, unit_rows=unit_rows, temperature=temperature, iterations=iterations)
    mask = None if closeness is None else closeness[:, None].to(v.dtype)
    outputs = [F.scaled_dot_product_attention(left, right, v, attn_mask=mask, scale=1.0) for left, right in members]
    total = sum(outputs[1:], outputs[0])
    return total / len(outputs) if combine == "mean" else total


def join_heads(weights: Tensor, heads: Literal["separate", "sum", "mean"]) -> Tensor:
    """Replace the weights by their sum or mean over heads, (B, 1, P, P), or leave them."""
    if heads == "separate":
        return weights
    return weights.sum(1, keepdim=True) if heads == "sum" else weights.mean(1, keepdim=True)


def resize_heads(tokens_BhNd: Tensor, grid: Grid, grid_out: Grid) -> Tensor:
    """Resize patch tokens to another grid, bilinear: (B, heads, N, d) -> (B, heads, N', d)."""
    if grid == grid_out:
        return tokens_BhNd
    heads, width = tokens_BhNd.shape[1], tokens_BhNd.shape[-1]
    map_BWhw = tokens_BhNd.transpose(-2, -1).flatten(1, 2).unflatten(-1, grid)
    resized = F.interpolate(map_BWhw, size=grid_out, mode="bilinear", align_corners=False)
    return resized.flatten(2).unflatten(1, (heads, width)).transpose(-2, -1)
