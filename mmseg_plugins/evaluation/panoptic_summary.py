"""From matched segments to PQ, SQ and RQ over all categories, things and stuff."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmseg_plugins.evaluation.panoptic import PanopticCounts


@dataclass(frozen=True)
class PanopticAverage:
    """Means over the categories that occur in ground truth or predictions, as fractions; NaN where there are none.

    Attributes:
        pq: panoptic quality.
        sq: segmentation quality, mean IoU of the matches.
        rq: recognition quality.
        n: number of categories in the means.
    """

    pq: float
    sq: float
    rq: float
    n: int


@dataclass(frozen=True)
class PanopticSummary:
    """Figures of a whole data set, as fractions.

    Attributes:
        averages: ``All``, ``Things`` and ``Stuff``.
        per_category: ``pq``, ``sq``, ``rq`` -> (C,) float64, 0 where undefined.
        counts: what they were computed from.
    """

    averages: dict[str, PanopticAverage]
    per_category: dict[str, NDArray[np.float64]]
    counts: PanopticCounts


def summarize_panoptic(counts: PanopticCounts, is_thing: Sequence[bool]) -> PanopticSummary:
    """Compute PQ, SQ and RQ from counts over the whole data set.

    Args:
        counts: matches of C categories.
        is_thing: C flags.

    Raises:
        ValueError: if there are not C flags.
    """
    things = np.asarray(is_thing, dtype=bool)
    tp, fp, fn, iou = counts.true_positive, counts.false_positive, counts.false_negative, counts.iou_sum
    if things.shape != tp.shape:
        raise ValueError(f"is_thing has {things.size} flags but there are {tp.size} categories.")
    touched = tp + fp + fn > 0
    weight = np.where(touched, tp + fp / 2 + fn / 2, 1.0)
    per_category = {"pq": iou / weight, "sq": np.where(tp > 0, iou / np.maximum(tp, 1), 0.0), "rq": tp / weight}
    averages = {}
    for name, group in (("All", touched), ("Things", touched & things), ("Stuff", touched & ~things)):
        n = int(group.sum())
        means = {key: float(values[group].mean()) if n else float("nan") for key, values in per_category.items()}
        averages[name] = PanopticAverage(**means, n=n)
    return PanopticSummary(averages, per_category, counts)
