"""Panoptic quality (Kirillov et al., CVPR 2019): segments matched at IoU above one half, counted per category.

The rules are the published evaluator's: areas of ground-truth segments are those of the JSON, void pixels leave the
union of a prediction, crowd segments are never matched and forgive predictions that lie on them, and of several crowd
segments of one category only the last one listed is remembered. Sums are kept as integers, so they are exact and do not
depend on the order of the images or on how they are spread over processes.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmseg_plugins.evaluation.boundary import boundary_pixels, boundary_width

VOID = 0

# A matched IoU is above one half, so as a float64 it is a multiple of 2^-53. The sum is kept in these units, split into
# two int64 of which the lower one holds _LOW_BITS bits: exact for 2^36 matches.
_UNIT_BITS = 53
_LOW_BITS = 27
_LARGEST_IOU = 512.0
_TP, _FP, _FN, _HIGH, _LOW = range(5)


@dataclass(frozen=True)
class Segments:
    """The segments of one image, as its JSON lists them.

    Attributes:
        ids: (S,) int64 segment ids, distinct and not 0.
        categories: (S,) int64 category indices 0..C-1.
        areas: (S,) int64 areas of the JSON; None for predictions, whose pixels are counted.
        is_crowd: (S,) bool; None means no crowd.
    """

    ids: NDArray[np.int64]
    categories: NDArray[np.int64]
    areas: NDArray[np.int64] | None = None
    is_crowd: NDArray[np.bool_] | None = None

    @classmethod
    def from_info(cls, segments_info: Sequence[dict], category_index: dict[int, int] | None = None) -> "Segments":
        """Read a ``segments_info`` list.

        Args:
            segments_info: entries with ``id`` and ``category_id``, and for ground truth ``area`` and ``iscrowd``, as in
                a COCO JSON; or those of our data samples, with ``label`` and ``is_crowd``.
            category_index: category id -> index; None takes the given categories as indices.

        Raises:
            ValueError: naming a repeated or void id, an unknown category or an area below 1.
        """
        ids = [int(entry["id"]) for entry in segments_info]
        repeated = sorted(value for value, times in Counter(ids).items() if times > 1)
        if repeated or VOID in ids:
            raise ValueError(f"segment ids {repeated or [VOID]} are listed twice or are the void id 0.")
        named = [entry["label"] if "label" in entry else entry["category_id"] for entry in segments_info]
        if category_index is not None:
            unknown = sorted({value for value in named if value not in category_index}, key=str)
            if unknown:
                raise ValueError(f"category ids {unknown} are not among the {len(category_index)} known categories.")
            named = [category_index[value] for value in named]
        crowd = [bool(entry.get("iscrowd", entry.get("is_crowd", False))) for entry in segments_info]
        return cls(
            ids=np.array(ids, dtype=np.int64),
            categories=np.array(named, dtype=np.int64),
            areas=_listed_areas(segments_info),
            is_crowd=np.array(crowd, dtype=bool),
        )


def _listed_areas(segments_info: Sequence[dict]) -> NDArray[np.int64] | None:
    areas = [entry.get("area") for entry in segments_info]
    if None in areas:
        return None
    if any(area < 1 for area in areas):
        raise ValueError("segments have areas below 1; drop empty segments from the JSON.")
    return np.array(areas, dtype=np.int64)


@dataclass(frozen=True)
class PanopticCounts:
    """Matches of C categories, summed over any number of images.

    Attributes:
        counts: (C, 5) int64: TP, FP, FN and the sum of matched IoU in units of 2^-53, split into a high and a low part.
    """

    counts: Tensor

    @classmethod
    def zeros(cls, num_categories: int, device: str | torch.device = "cpu") -> "PanopticCounts":
        """Return the counts of no image at all."""
        return cls(torch.zeros(num_categories, 5, dtype=torch.int64, device=device))

    @property
    def true_positive(self) -> NDArray[np.int64]:
        """(C,) matched pairs."""
        return self.counts[:, _TP].cpu().numpy()

    @property
    def false_positive(self) -> NDArray[np.int64]:
        """(C,) predicted segments without a match."""
        return self.counts[:, _FP].cpu().numpy()

    @property
    def false_negative(self) -> NDArray[np.int64]:
        """(C,) ground-truth segments without a match."""
        return self.counts[:, _FN].cpu().numpy()

    @property
    def iou_sum(self) -> NDArray[np.float64]:
        """(C,) sum of the matched IoU, the exact sum rounded once."""
        parts = self.counts[:, [_HIGH, _LOW]].tolist()
        return np.array([((high << _LOW_BITS) + low) / (1 << _UNIT_BITS) for high, low in parts], dtype=np.float64)

    def __add__(self, other: "PanopticCounts") -> "PanopticCounts":
        return PanopticCounts(self.counts + other.counts)


def panoptic_counts(
    prediction: Tensor,
    predicted_segments: Segments,
    label: Tensor,
    labelled_segments: Segments,
    num_categories: int,
    *,
    boundary_ratio: float | None = None,
) -> PanopticCounts:
    """Match the segments of one image and count per category.

    Args:
        prediction: (H, W) segment ids, 0 is void.
        predicted_segments: what the ids are; every id of the map must be listed and the reverse.
        label: (H, W) ground-truth segment ids.
        labelled_segments: with ``areas``; None counts the pixels of the map.
        num_categories: C.
        boundary_ratio: None matches on mask IoU; a number (0.02 as published) on min(mask IoU, boundary IoU).

    Returns:
        Counts on the prediction's device.

    Raises:
        ValueError: if the maps differ in shape, or an id is in a map but not listed, or is listed as a prediction but
            not in the map.
    """
    if prediction.ndim != 2 or prediction.shape != label.shape:
        raise ValueError(
            f"prediction {tuple(prediction.shape)} and ground truth {tuple(label.shape)} must be (H, W) maps of one "
            "size. Merge segments at the size of the original image."
        )
    label = label.to(prediction.device)
    overlap = _overlaps(label, labelled_segments, prediction, predicted_segments)
    missing = predicted_segments.ids[overlap.sum(0)[1:].cpu().numpy() == 0]
    if missing.size:
        raise ValueError(
            f"predicted segments {missing.tolist()} are listed but have no pixel. Drop them from the list."
        )
    iou = _pair_iou(overlap, labelled_segments)
    if boundary_ratio is not None:
        iou = torch.minimum(
            iou, _boundary_iou(label, labelled_segments, prediction, predicted_segments, boundary_ratio)
        )
    return _count_matches(overlap, iou, labelled_segments, predicted_segments, num_categories)


def _overlaps(rows: Tensor, row_segments: Segments, columns: Tensor, column_segments: Segments) -> Tensor:
    """Count pixels of every (ground truth, prediction) pair of segments.

    Neighbouring pixels mostly repeat a pair, so runs of equal pairs are looked up and added, not pixels.

    Returns:
        (G + 1, P + 1) int64; row and column 0 are void, the others follow the lists.
    """
    row_ids, column_ids = rows.flatten().to(torch.int64), columns.flatten().to(torch.int64)
    changed = (row_ids[1:] != row_ids[:-1]) | (column_ids[1:] != column_ids[:-1])
    ends = torch.cat((changed.nonzero().flatten() + 1, torch.tensor([row_ids.numel()], device=row_ids.device)))
    lengths = torch.diff(ends, prepend=ends.new_zeros(1))
    row = _positions(row_ids[ends - 1], row_segments.ids, "ground truth")
    column = _positions(column_ids[ends - 1], column_segments.ids, "prediction")
    side = len(column_segments.ids) + 1
    counts = lengths.new_zeros((len(row_segments.ids) + 1) * side)
    return counts.scatter_add_(0, row * side + column, lengths).view(-1, side)


def _positions(ids: Tensor, listed: NDArray[np.int64], what: str) -> Tensor:
    """Return for each id its place in the list, from 1; 0 for void.

    Raises:
        ValueError: naming ids that are not listed.
    """
    known = torch.as_tensor(np.concatenate(([VOID], listed)), device=ids.device)
    ordered, order = known.sort()
    place = torch.searchsorted(ordered, ids).clamp_(max=len(known) - 1)
    wrong = ordered[place] != ids
    if wrong.any():
        unlisted = ids[wrong].unique().tolist()
        raise ValueError(f"segment ids {unlisted[:10]} are in the {what} map but not in its segments_info.")
    return order[place]


def _areas(segments: Segments, counted: Tensor) -> Tensor:
    return counted if segments.areas is None else torch.as_tensor(segments.areas, device=counted.device)


def _pair_iou(overlap: Tensor, labelled: Segments) -> Tensor:
    """Return (G, P) float64 mask IoU; void pixels do not belong to the union of a prediction."""
    pairs = overlap[1:, 1:]
    label_area = _areas(labelled, overlap.sum(1)[1:])
    union = label_area[:, None] + (overlap.sum(0)[1:] - overlap[0, 1:]) - pairs
    return torch.where(pairs > 0, pairs.double() / union.clamp(min=1), 0.0)


def _boundary_iou(label: Tensor, labelled: Segments, prediction: Tensor, predicted: Segments, ratio: float) -> Tensor:
    """Return (G, P) float64 boundary IoU, from the boundaries of all segments at once."""
    width = boundary_width(*label.shape, ratio)
    of_label, of_prediction = boundary_pixels(label, width=width), boundary_pixels(prediction, width=width)
    label_areas = _pixels_per_segment(label, of_label, labelled, "ground truth")
    prediction_areas = _pixels_per_segment(prediction, of_prediction, predicted, "prediction")
    both = _overlaps(
        torch.where(of_label, label, VOID), labelled, torch.where(of_prediction, prediction, VOID), predicted
    )
    on_void = _pixels_per_segment(prediction, of_prediction & (label == VOID), predicted, "prediction")
    pairs = both[1:, 1:]
    union = label_areas[:, None] + (prediction_areas - on_void) - pairs
    return torch.where(pairs > 0, pairs.double() / union.clamp(min=1), 0.0)


def _pixels_per_segment(ids: Tensor, where: Tensor, segments: Segments, what: str) -> Tensor:
    positions = _positions(ids[where].to(torch.int64), segments.ids, what)
    return torch.bincount(positions, minlength=len(segments.ids) + 1)[1:]


def _count_matches(
    overlap: Tensor, iou: Tensor, labelled: Segments, predicted: Segments, num_categories: int
) -> PanopticCounts:
    device = overlap.device
    label_category = torch.as_tensor(labelled.categories, device=device)
    prediction_category = torch.as_tensor(predicted.categories, device=device)
    crowd = torch.as_tensor(
        np.zeros(len(labelled.ids), dtype=bool) if labelled.is_crowd is None else labelled.is_crowd, device=device
    )
    matched = (iou > 0.5) & (label_category[:, None] == prediction_category) & ~crowd[:, None]
    forgiven = overlap[0, 1:] + _overlap_with_crowd(overlap, labelled, predicted)
    false_positive = ~matched.any(0) & (2 * forgiven <= overlap.sum(0)[1:])
    false_negative = ~matched.any(1) & ~crowd

    # An IoU above 1 is possible where a JSON area is smaller than the segment; the bound keeps it inside int64.
    units = (iou.clamp(max=_LARGEST_IOU) * 2.0**_UNIT_BITS).to(torch.int64) * matched
    counts = PanopticCounts.zeros(num_categories, device).counts
    counts[:, _TP].index_add_(0, label_category, matched.sum(1))
    counts[:, _HIGH].index_add_(0, label_category, (units >> _LOW_BITS).sum(1))
    counts[:, _LOW].index_add_(0, label_category, (units & ((1 << _LOW_BITS) - 1)).sum(1))
    counts[:, _FN].index_add_(0, label_category, false_negative.to(torch.int64))
    counts[:, _FP].index_add_(0, prediction_category, false_positive.to(torch.int64))
    return PanopticCounts(counts)


def _overlap_with_crowd(overlap: Tensor, labelled: Segments, predicted: Segments) -> Tensor:
    """Return (P,) pixels of each prediction on the last listed crowd segment of its own category."""
    crowd = np.zeros(len(labelled.ids), dtype=bool) if labelled.is_crowd is None else labelled.is_crowd
    last = {int(labelled.categories[row]): int(row) + 1 for row in np.flatnonzero(crowd)}
    rows = torch.tensor([last.get(int(category), 0) for category in predicted.categories], device=overlap.device)
    if not last or not len(rows):
        return torch.zeros(len(predicted.ids), dtype=torch.int64, device=overlap.device)
    on_crowd = overlap[rows, torch.arange(1, len(rows) + 1, device=overlap.device)]
    return torch.where(rows > 0, on_crowd, 0)
