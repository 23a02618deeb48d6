"""Instances from classified masks: the best pairs of mask and class.

Q masks, K classes, N instances, H W original image.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmseg_plugins.prediction.segments import MaskGeometry, class_weights, mask_bands

_EPS = 1e-6  # added to a mask's area, as published


@dataclass(frozen=True)
class Instances:
    """Instances of one image, best first.

    Attributes:
        masks: (N, H, W) bool.
        labels: (N,) int64 class indices.
        scores: (N,) float32, class probability times the mean mask probability inside the mask.
    """

    masks: Tensor
    labels: Tensor
    scores: Tensor


def instance_masks(
    scores: Tensor,
    mask_logits: Tensor,
    geometry: MaskGeometry,
    *,
    top_k: int = 100,
    is_thing: Sequence[bool] | None = None,
) -> Instances:
    """Pick the best pairs of mask and class; one mask may occur with several classes.

    Args:
        scores: (Q, K + 1) log scores, void last.
        mask_logits: (Q, h, w); positive is inside.
        geometry: where the masks lie.
        top_k: how many pairs.
        is_thing: K flags: of the ``top_k`` pairs only things stay, as published where panoptic output is on. None:
            all stay.

    Returns:
        At most ``top_k`` instances, sorted by score, then class.

    Raises:
        ValueError: if the number of flags does not fit.
    """
    weights_QK = class_weights(scores)
    num_classes = weights_QK.shape[1]
    if is_thing is not None and len(is_thing) != num_classes:
        raise ValueError(f"is_thing must have one flag for each of {num_classes} classes, but has {len(is_thing)}.")
    best, place = weights_QK.flatten().topk(min(top_k, weights_QK.numel()))
    mask_index, labels = place // num_classes, place % num_classes
    if is_thing is not None:
        keep = torch.tensor(list(is_thing), dtype=torch.bool, device=labels.device)[labels]
        best, mask_index, labels = best[keep], mask_index[keep], labels[keep]
    used, inverse = mask_index.unique(return_inverse=True)
    masks_UHW, confidence_U = _binary_masks(mask_logits[used], geometry)
    total = best * confidence_U[inverse]
    order = torch.sort(labels, stable=True).indices
    order = order[torch.sort(total[order], descending=True, stable=True).indices]
    return Instances(masks_UHW[inverse[order]], labels[order], total[order])


def _binary_masks(mask_logits: Tensor, geometry: MaskGeometry) -> tuple[Tensor, Tensor]:
    """(U, H, W) bool masks, and the mean probability inside each, (U,)."""
    count = len(mask_logits)
    masks = torch.empty((count, *geometry.output_size), dtype=torch.bool, device=mask_logits.device)
    inside, area = (torch.zeros(count, device=mask_logits.device) for _ in range(2))
    for band in mask_bands(mask_logits, geometry):
        part = band.logits > 0
        masks[:, band.rows] = part
        inside += (band.logits.sigmoid() * part).flatten(1).sum(1)
        area += part.flatten(1).sum(1)
    return masks, inside / (area + _EPS)
