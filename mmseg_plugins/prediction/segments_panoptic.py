"""Panoptic maps from classified masks: each pixel to one mask, then segments that keep enough of themselves.

Q masks, K classes, H W original image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmseg_plugins.prediction.segments import MaskGeometry, mask_bands

_INSIDE = 0.5  # probability from which on a pixel belongs to a mask


@dataclass(frozen=True)
class PanopticMap:
    """Segments of one image.

    Attributes:
        ids: (H, W) int64 segment ids from 1 on, 0 unassigned.
        segments_info: per segment ``id``, ``category_id`` (class index), ``isthing``, ``score`` (class probability of
            its mask, 0 to 1; of merged masks the largest) and ``area`` in pixels.
    """

    ids: Tensor
    segments_info: list[dict[str, Any]]


@dataclass
class _Contest:
    """Who wins each pixel.

    Attributes:
        winner: (H, W) place among the kept masks, -1 where the winner's probability is below one half.
        won: (Q,) pixels won.
        full: (Q,) pixels of the mask.
        core: (Q,) pixels won that are inside the mask.
    """

    winner: Tensor
    won: Tensor
    full: Tensor
    core: Tensor


def panoptic_segments(
    scores: Tensor,
    mask_logits: Tensor,
    geometry: MaskGeometry,
    *,
    is_thing: Sequence[bool],
    object_mask_threshold: float = 0.0,
    overlap_threshold: float = 0.8,
) -> PanopticMap:
    """Merge masks into a panoptic map.

    Masks whose best class is void, or whose probability does not exceed ``object_mask_threshold``, are left out. Each
    pixel goes to the mask with the largest probability times mask probability. A mask is a segment where it won and its
    probability is at least one half, if it won any such pixel and as many as ``overlap_threshold`` of its own size.
    Stuff segments of one class become one.

    Args:
        scores: (Q, K + 1) log scores, void last.
        mask_logits: (Q, h, w).
        geometry: where the masks lie.
        is_thing: K flags.
        object_mask_threshold: 0 as published for FC-CLIP; the comparison is strict.
        overlap_threshold: 0.8 as published for FC-CLIP.

    Raises:
        ValueError: if the number of flags does not fit.
    """
    num_classes = scores.shape[-1] - 1
    if len(is_thing) != num_classes:
        raise ValueError(f"is_thing must have one flag for each of {num_classes} classes, but has {len(is_thing)}.")
    probability_Q, label_Q = scores.float().softmax(-1).max(-1)
    keep_Q = (label_Q != num_classes) & (probability_Q > object_mask_threshold)
    probability, labels = probability_Q[keep_Q], label_Q[keep_Q].tolist()
    if not labels:
        ids = torch.zeros(geometry.output_size, dtype=torch.int64, device=mask_logits.device)
        return PanopticMap(ids, [])
    contest = _contest(probability, mask_logits[keep_Q], geometry)
    segment_of, info = _segments(contest, labels, probability.tolist(), is_thing, overlap_threshold)
    table = torch.tensor([*segment_of, 0], device=contest.winner.device)  # the last entry serves winner -1
    return PanopticMap(table[contest.winner], info)


def _contest(probability_Q: Tensor, mask_logits: Tensor, geometry: MaskGeometry) -> _Contest:
    count = len(probability_Q)
    winner = torch.empty(geometry.output_size, dtype=torch.int64, device=mask_logits.device)
    won, full, core = (torch.zeros(count, dtype=torch.int64, device=mask_logits.device) for _ in range(3))
    for band in mask_bands(mask_logits, geometry):
        inside_QRW = band.logits.sigmoid()
        best_RW = (inside_QRW * probability_Q[:, None, None]).argmax(0)
        is_core_RW = inside_QRW.gather(0, best_RW[None])[0] >= _INSIDE
        full += (inside_QRW >= _INSIDE).flatten(1).sum(1)
        won += torch.bincount(best_RW.flatten(), minlength=count)
        core += torch.bincount(best_RW[is_core_RW], minlength=count)
        winner[band.rows] = best_RW.masked_fill(~is_core_RW, -1)
    return _Contest(winner, won, full, core)


def _segments(
    contest: _Contest,
    labels: Sequence[int],
    probability: Sequence[float],
    is_thing: Sequence[bool],
    overlap_threshold: float,
) -> tuple[list[int], list[dict[str, Any]]]:
    """Number the segments in the order of their masks: the segment of each mask (0: none), and their entries."""
    numbers = zip(contest.won.tolist(), contest.full.tolist(), contest.core.tolist(), strict=True)
    segment_of, info, stuff = [], [], {}
    for (won, full, core), label, score in zip(numbers, labels, probability, strict=True):
        if core == 0 or won / full < overlap_threshold:
            segment_of.append(0)
            continue
        entry = None if is_thing[label] else stuff.get(label)
        if entry is None:
            entry = {
                "id": len(info) + 1,
                "category_id": label,
                "isthing": bool(is_thing[label]),
                "score": 0.0,
                "area": 0,
            }
            info.append(entry)
            stuff[label] = entry
        entry["score"], entry["area"] = max(entry["score"], score), entry["area"] + core
        segment_of.append(entry["id"])
    return segment_of, info
