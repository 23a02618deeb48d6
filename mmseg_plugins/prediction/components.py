"""Segments of a label map: the panoptic map that any method of pixels gives without masks of its own.

K classes, H W image.
"""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmseg_plugins.prediction.segments_panoptic import PanopticMap

_CONNECTIVITIES = (4, 8)


def panoptic_from_label_map(
    labels: Tensor,
    *,
    is_thing: Sequence[bool],
    scores: Tensor | None = None,
    min_area: int = 1,
    connectivity: int = 8,
) -> PanopticMap:
    """Make every connected component of a thing class a segment, and all pixels of a stuff class one segment.

    The baseline for methods that find masks: touching things of one class stay together, things cut apart by what
    stands in front of them become several.

    Args:
        labels: (H, W) integer class indices; pixels of any other value belong to no segment.
        is_thing: K flags.
        scores: (H, W) confidence of the pixels, whose mean is a segment's score; None: every score is 1.
        min_area: smaller segments are dropped, their pixels belong to none.
        connectivity: 4, or 8 to join over corners as well.

    Returns:
        Segment ids from 1 on, by class and then from the top, on the device of ``labels``; 0 is unassigned.

    Raises:
        ValueError: if shapes do not fit, or an option is out of range.

    Example:
        >>> labels = torch.tensor([[0, 1, 0], [0, 1, 0]])
        >>> panoptic_from_label_map(labels, is_thing=[True, False]).ids
        tensor([[1, 3, 2],
                [1, 3, 2]])
    """
    _validate(labels, scores, min_area, connectivity)
    label_map = labels.cpu().numpy()
    confidence = None if scores is None else scores.detach().double().cpu().numpy()
    ids = np.zeros(label_map.shape, dtype=np.int64)
    segments_info: list[dict[str, Any]] = []
    for index, thing in enumerate(is_thing):
        mask = label_map == index
        if not mask.any():
            continue
        parts = _components(mask, connectivity) if thing else mask.astype(np.int32)
        areas = np.bincount(parts.ravel())
        sums = areas if confidence is None else np.bincount(parts.ravel(), confidence.ravel())
        numbers = np.zeros(len(areas), dtype=np.int64)
        for part in np.flatnonzero(areas[1:] >= min_area) + 1:
            numbers[part] = len(segments_info) + 1
            segments_info.append(
                {
                    "id": int(numbers[part]),
                    "category_id": index,
                    "isthing": bool(thing),
                    "score": float(sums[part] / areas[part]),
                    "area": int(areas[part]),
                }
            )
        ids += numbers[parts]
    return PanopticMap(torch.from_numpy(ids).to(labels.device), segments_info)


def _components(mask: NDArray[np.bool_], connectivity: int) -> NDArray[np.int32]:
    """Number the connected parts of a mask from 1 on, by their first pixel in reading order; 0 is outside."""
    _, parts = cv2.connectedComponents(mask.astype(np.uint8), connectivity=connectivity, ltype=cv2.CV_32S)
    numbers, first = np.unique(parts[mask], return_index=True)
    table = np.zeros(int(numbers.max()) + 1, dtype=np.int32)
    table[numbers[np.argsort(first)]] = np.arange(1, len(numbers) + 1)
    return table[parts]


def _validate(labels: Tensor, scores: Tensor | None, min_area: int, connectivity: int) -> None:
    if labels.dim() != 2 or labels.is_floating_point() or labels.is_complex():
        raise ValueError(
            f"expected labels to be an (H, W) map of integers, but got {labels.dtype} {tuple(labels.shape)}."
        )
    if scores is not None and scores.shape != labels.shape:
        raise ValueError(f"scores {tuple(scores.shape)} and labels {tuple(labels.shape)} (H, W) differ in size.")
    if connectivity not in _CONNECTIVITIES:
        raise ValueError(f"expected connectivity to be one of {_CONNECTIVITIES}, but got {connectivity}.")
    if min_area < 1:
        raise ValueError(f"expected min_area to be at least 1 pixel, but got {min_area}.")
