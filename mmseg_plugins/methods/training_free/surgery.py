"""CLIP Surgery: features without what all classes share, and its attention pool for ResNets.

Li et al.: "A closer look at the explainability of contrastive language-image pre-training", Pattern Recognition 2025
(arXiv 2304.05653).
"""

# B batch, P tokens with class token, N texts, D joint width, W channels, h w grid

import torch.nn.functional as F
from torch import Tensor

from mmseg_plugins.towers.attention import merge_heads, split_heads
from mmseg_plugins.towers.position import resize_positions, to_map
from mmseg_plugins.towers.resnet import AttentionPool, with_mean

_POOL_SHARPNESS = 8  # factor of the scores that the release gives its ResNets
_POOL_EPS = 1e-6  # added to the length of v there


def class_weights(cls_BD: Tensor, text_ND: Tensor, temperature: float = 2.0) -> Tensor:
    """How much each text belongs to an image, with a mean of 1 over the texts.

    Args:
        cls_BD: (B, D) unit image embeddings.
        text_ND: (N, D) unit rows.
        temperature: factor of the cosines in the softmax.

    Returns:
        (B, N), positive.
    """
    weights_BN = (temperature * cls_BD @ text_ND.T).softmax(dim=-1)
    return weights_BN / weights_BN.mean(dim=-1, keepdim=True)


def feature_surgery(tokens_BPD: Tensor, cls_BD: Tensor, text_ND: Tensor, temperature: float = 2.0) -> Tensor:
    """Similarities without their mean over the texts, each weighted by the image's own classes.

    ``S[p, n] = w[n] <f[p], T[n]> - mean over m of w[m] <f[p], T[m]>``.

    Args:
        tokens_BPD: (B, P, D) unit features.
        cls_BD: (B, D) unit image embeddings.
        text_ND: (N, D) unit rows.
        temperature: see :func:`class_weights`.

    Returns:
        (B, P, N).
    """
    weighted_BPN = tokens_BPD @ text_ND.T * class_weights(cls_BD, text_ND, temperature)[:, None]
    return weighted_BPN - weighted_BPN.mean(dim=-1, keepdim=True)


def redundant_surgery(tokens_BPD: Tensor, text_ND: Tensor, redundant_D: Tensor) -> Tensor:
    """Similarities with texts from which a fixed feature was subtracted (without bringing them to unit length again).

    Args:
        tokens_BPD: (B, P, D) unit features.
        text_ND: (N, D) unit rows.
        redundant_D: (D,) or (1, D), the unit embedding of the empty text.

    Returns:
        (B, P, N).
    """
    return tokens_BPD @ (text_ND - redundant_D).T


def scale_maps(maps: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Scale each map to [0, 1] by its own least and largest value; a constant map becomes 0.

    Args:
        maps: any shape.
        dims: the axes of one map.
    """
    least = maps.amin(dims, keepdim=True)
    extent = maps.amax(dims, keepdim=True) - least
    return (maps - least) / extent.masked_fill(extent == 0, 1)


def consistent_pool(pool: AttentionPool, map_BWhw: Tensor) -> tuple[Tensor, Tensor]:
    """The attention pool of a ResNet with v in the place of q and k.

    For the weights v has unit length and the scores are eight times as sharp; positions are resized bilinearly.

    Args:
        pool: the tower's attention pool.
        map_BWhw: (B, W, h, w) output of its last stage.

    Returns:
        (B, D, h, w) features of every place, and the (B, D) image embedding of the ordinary pool.
    """
    grid = (map_BWhw.shape[-2], map_BWhw.shape[-1])
    positions_PW = resize_positions(pool.positional_embedding, pool.grid, grid, "bilinear")
    tokens_BPW = with_mean(map_BWhw) + positions_PW.to(map_BWhw.dtype)
    v_BhPd = split_heads(pool.v_proj(tokens_BPW), pool.heads)
    unit_BhPd = v_BhPd / (v_BhPd.norm(dim=-1, keepdim=True) + _POOL_EPS)
    scale = _POOL_SHARPNESS * v_BhPd.shape[-1] ** -0.5
    attended = F.scaled_dot_product_attention(unit_BhPd, unit_BhPd, v_BhPd, scale=scale)
    pixels_BND = pool.c_proj(merge_heads(attended))[:, 1:]
    return to_map(pixels_BND, grid), pool.attend(tokens_BPW[:, :1], tokens_BPW)[:, 0]


def unit_tokens(pixels_BDhw: Tensor, cls_BD: Tensor) -> tuple[Tensor, Tensor]:
    """Bring features to unit length, float32: (B, N, D) of the places and (B, D) of the image."""
    return F.normalize(pixels_BDhw.float(), dim=1).flatten(2).transpose(1, 2), F.normalize(cls_BD.float(), dim=-1)
