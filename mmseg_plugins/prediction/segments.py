"""Where masks lie, mask logits at full size band by band, and semantic maps from classified masks.

The published models resize at two places:

* ``masks`` (panoptic or instance output is on): mask logits go to the padded input size, are cropped to the image, go
  to the original size, and then the sigmoid and everything else follow;
* ``scores`` (semantic output only, and mmseg's own post-processing): mask logits go to the padded size, the sigmoid
  and the sum over masks follow, and the class scores are cropped and go to the original size.

Q masks, K classes, h w mask logits, H W original image. Neither K x H x W nor Q x H x W exists, but on request.
"""

import torch
from torch import Tensor

from mmseg_plugins.ops import mask_argmax
from mmseg_plugins.ops._precision import without_autocast
from mmseg_plugins.prediction.mask_bands import (
    RESIZE_ORDERS,
    MaskBand,
    MaskGeometry,
    ResizeOrder,
    check_order,
    full_masks,
    mask_bands,
)
from mmseg_plugins.prediction.mask_sums import sum_strips
from mmseg_plugins.prediction.segments_candidates import best_of_candidates

# Up to here, holding the sums of a few rows costs less than keeping a running maximum over classes.
_MOST_CLASSES_AT_ONCE = 256

__all__ = [
    "RESIZE_ORDERS",
    "MaskBand",
    "MaskGeometry",
    "ResizeOrder",
    "check_order",
    "class_weights",
    "full_masks",
    "mask_bands",
    "semantic_labels",
    "semantic_scores",
]


def class_weights(scores: Tensor) -> Tensor:
    """(..., K) share of each class in a mask: softmax of (..., K + 1) log scores, void last and dropped afterwards."""
    return scores.float().softmax(-1)[..., :-1]


def semantic_labels(
    scores: Tensor,
    mask_logits: Tensor,
    geometry: MaskGeometry,
    *,
    order: ResizeOrder = "masks",
    threshold: float | None = None,
    background_index: int = 0,
    return_score: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Name every pixel: the class with the largest sum over masks of its share times the mask's probability.

    Args:
        scores: (Q, K + 1) log scores, void last.
        mask_logits: (Q, h, w).
        geometry: where the masks lie.
        order: what is resized to the original size, see the module.
        threshold: pixels whose winning sum is smaller become background; None: no such rule.
        background_index: the class of those pixels.
        return_score: also return the winning sums.

    Returns:
        (H, W) int64 label map, ties to the lower class, and (H, W) float32 winning sums or None. Without masks all
        pixels are class 0 with a sum of 0.
    """
    check_order(order)
    if not len(mask_logits):
        labels = torch.zeros(geometry.output_size, dtype=torch.int64, device=mask_logits.device)
        winning = torch.zeros(geometry.output_size, device=mask_logits.device)
    else:
        labels, winning = _best_classes(class_weights(scores), mask_logits, geometry, order)
    if threshold is not None:
        labels = labels.masked_fill(winning < threshold, background_index)
    return labels, winning if return_score else None


def _best_classes(
    weights_QK: Tensor, mask_logits: Tensor, geometry: MaskGeometry, order: ResizeOrder
) -> tuple[Tensor, Tensor]:
    """(H, W) best classes and their sums."""
    few = best_of_candidates(weights_QK, mask_logits, geometry, order)
    if few is not None:
        return few
    covers_itself = geometry.padded_size is None and tuple(mask_logits.shape[-2:]) == geometry.output_size
    is_small = weights_QK.shape[1] <= _MOST_CLASSES_AT_ONCE and mask_logits.device.type == "cpu"
    if is_small or covers_itself:
        return _best_by_strips(weights_QK, mask_logits, geometry, order)
    result = mask_argmax(
        weights_QK[None],
        mask_logits[None].float(),
        geometry.output_size,
        order=order,
        padded_size=geometry.padded_size,
        crop=geometry.image_size,
        return_score=True,
    )
    return result.labels[0], result.score[0]


def _best_by_strips(
    weights_QK: Tensor, mask_logits: Tensor, geometry: MaskGeometry, order: ResizeOrder
) -> tuple[Tensor, Tensor]:
    """The same, one product per strip of rows; integer masks become floats a few rows at a time."""
    labels = torch.empty(geometry.output_size, dtype=torch.int64, device=mask_logits.device)
    winning = torch.empty(geometry.output_size, device=mask_logits.device)
    with without_autocast(mask_logits):
        for strip in sum_strips(weights_QK.T.contiguous(), mask_logits, geometry, order):
            best, label = strip.sums.unflatten(1, (-1, geometry.output_size[1])).max(0)
            winning[strip.rows], labels[strip.rows] = best, label
    return labels, winning


def semantic_scores(
    scores: Tensor, mask_logits: Tensor, geometry: MaskGeometry, *, order: ResizeOrder = "masks"
) -> Tensor:
    """Return the sums that :func:`semantic_labels` compares, (K, H, W) float32; this does hold them all.

    Args:
        scores: (Q, K + 1) log scores, void last.
        mask_logits: (Q, h, w).
        geometry: where the masks lie.
        order: what is resized to the original size.
    """
    check_order(order)
    weights_KQ = class_weights(scores).T
    if order == "masks":
        bands = [_weighted_sum(weights_KQ, band.logits) for band in mask_bands(mask_logits, geometry)]
        return torch.cat(bands, dim=1)
    padded = MaskGeometry(output_size=geometry.padded_size or tuple(mask_logits.shape[-2:]))
    crop = geometry.image_size or padded.output_size
    sums = semantic_scores(scores, mask_logits, padded)[:, : crop[0], : crop[1]]
    return full_masks(sums, MaskGeometry(output_size=geometry.output_size))


def _weighted_sum(weights_KQ: Tensor, logits_QRW: Tensor) -> Tensor:
    return (weights_KQ @ logits_QRW.sigmoid().flatten(1)).unflatten(1, logits_QRW.shape[1:])
