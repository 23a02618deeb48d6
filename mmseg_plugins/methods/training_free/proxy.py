"""Attention from another network's features: ProxyCLIP's weights, and images in other statistics than CLIP's.

Lan et al.: "ProxyCLIP: Proxy Attention Improves CLIP for Open-Vocabulary Segmentation", ECCV 2024 (arXiv 2408.04883).
"""

# B batch, M = h'*w' patches of the vision model, C channels, H W image

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmseg_plugins.towers.affinity import AffinitySource, ClipAffinity, TimmAffinity
from mmseg_plugins.vocabulary.suggest import unknown_name

_SOURCES: dict[str, type[AffinitySource]] = {"timm": TimmAffinity, "clip": ClipAffinity}


def build_source(settings: Mapping[str, Any] | AffinitySource) -> AffinitySource:
    """Build a vision model from a config.

    Args:
        settings: ``dict(type='timm', model=...)`` or ``dict(type='clip', clip=dict(...))`` and the arguments of
            :class:`~mmseg_plugins.towers.affinity.TimmAffinity` and
            :class:`~mmseg_plugins.towers.affinity.ClipAffinity`; ``timm`` when there is no type. Or a ready model.

    Raises:
        KeyError: if there is no such type.
    """
    if isinstance(settings, AffinitySource):
        return settings
    values = dict(settings)
    kind = values.pop("type", "timm")
    if kind not in _SOURCES:
        raise unknown_name("type of vision model", kind, list(_SOURCES))
    return _SOURCES[kind](**values)


def change_statistics(
    image_B3HW: Tensor,
    mean_from: Sequence[float],
    std_from: Sequence[float],
    mean_to: Sequence[float],
    std_to: Sequence[float],
) -> Tensor:
    """Normalise an image with other statistics than those it is normalised with.

    Args:
        image_B3HW: (B, 3, H, W) normalised.
        mean_from: mean that it is normalised with, 0..255.
        std_from: standard deviation that it is normalised with.
        mean_to: mean that it shall be normalised with.
        std_to: standard deviation that it shall be normalised with.
    """
    old_mean, old_std, new_mean, new_std = (
        torch.tensor(values, dtype=torch.float32, device=image_B3HW.device)[:, None, None]
        for values in (mean_from, std_from, mean_to, std_to)
    )
    return ((image_B3HW.float() * old_std + old_mean - new_mean) / new_std).to(image_B3HW.dtype)


def cosine_matrix(features_BChw: Tensor) -> Tensor:
    """Cosine of every two patches, (B, M, M) float32, in full precision under autocast as well."""
    with torch.autocast(features_BChw.device.type, enabled=False):
        unit_BCM = F.normalize(features_BChw.float().flatten(2), dim=1)
        return unit_BCM.transpose(1, 2) @ unit_BCM


def proxy_attention(cosines_BMM: Tensor, *, beta: float = 1.2, gamma: float = 3.0) -> Tensor:
    """ProxyCLIP's attention weights.

    ``softmax(gamma * (C - beta * mean(C)))`` over the entries that are not negative. The mean is taken over the image
    (the release takes it over the batch, which is the same for a batch of one). Where an image is so uniform that a row
    has no such entry, the patch attends to itself; the release then fails.

    Args:
        cosines_BMM: (B, M, M).
        beta: share of the mean that is subtracted.
        gamma: sharpness.

    Returns:
        (B, M, M), rows sum to 1.
    """
    scores = gamma * (cosines_BMM - beta * cosines_BMM.mean(dim=(1, 2), keepdim=True))
    return masked_softmax(scores, scores >= 0)


def masked_softmax(scores_BMM: Tensor, allowed_BMM: Tensor) -> Tensor:
    """Softmax over the allowed entries of each row; a row without any attends to itself."""
    itself = torch.eye(scores_BMM.shape[-1], dtype=torch.bool, device=scores_BMM.device)
    allowed_BMM = allowed_BMM | (itself & ~allowed_BMM.any(dim=-1, keepdim=True))
    return scores_BMM.masked_fill(~allowed_BMM, float("-inf")).softmax(dim=-1)
