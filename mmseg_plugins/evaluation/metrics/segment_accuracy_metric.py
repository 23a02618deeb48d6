"""How many annotated segments are named rightly, as an mmseg metric."""

from typing import Any

import torch
from mmengine.logging import print_log
from mmseg.registry import METRICS
from torch import Tensor

from mmseg_plugins.evaluation.metrics.totals import TotalsMetric, plane, sample_name
from mmseg_plugins.evaluation.panoptic import Segments


@METRICS.register_module()
class SegmentAccuracyMetric(TotalsMetric):
    """Share of annotated segments whose most frequent predicted class is theirs.

    With the annotated masks as proposals (``OracleProposals``) this is the accuracy of naming masks; with any other
    model it says how its label maps name true segments.

    Samples carry ``pred_sem_seg`` and ``gt_panoptic_seg`` (``data`` and ``segments_info`` with ``id``, ``label`` and
    ``is_crowd``), as ``PackSegments`` makes it. Crowd segments and those without a pixel do not count; of equally
    frequent classes the lowest counts.

    Args:
        **options: of :class:`~mmseg_plugins.evaluation.metrics.totals.TotalsMetric`.

    Returns of ``evaluate``: ``segment_accuracy`` over all segments and ``segment_accuracy_mean`` over the classes that
    occur, in percent; where ``dataset_meta`` has ``seen`` flags, the latter for ``_seen`` and ``_unseen`` classes too;
    ``segments``, their number.
    """

    def empty(self) -> Tensor:
        """Return the counts of no sample: (K, 2), segments named rightly and all segments."""
        return torch.zeros((self.num_classes, 2), dtype=torch.int64)

    def count(self, sample: dict[str, Any]) -> Tensor:
        """Count the segments of one sample.

        Raises:
            ValueError: naming the file, if ground truth is missing or sizes differ.
        """
        truth = sample.get("gt_panoptic_seg")
        if truth is None:
            raise ValueError(f"{sample_name(sample)}: the sample has no gt_panoptic_seg. Load it in the pipeline.")
        labels, ids = plane(sample["pred_sem_seg"]["data"]), plane(truth["data"])
        if labels.shape != ids.shape:
            raise ValueError(
                f"{sample_name(sample)}: prediction {tuple(labels.shape)} and segments {tuple(ids.shape)} (H, W) "
                "differ in size."
            )
        counts = self.empty()
        segments = Segments.from_info(truth["segments_info"])
        for number, category, crowd in zip(segments.ids, segments.categories, segments.is_crowd, strict=True):
            inside = labels[ids.to(labels.device) == int(number)]
            if crowd or not inside.numel():
                continue
            named = int(torch.bincount(inside.flatten()).argmax())
            counts[int(category)] += torch.tensor([named == int(category), 1])
        return counts

    def report(self, totals: Tensor) -> dict[str, float]:
        """Log the figures and return them."""
        right, number = totals.double().T
        occurs = number > 0
        shares = 100 * right / number.clamp(min=1)
        figures = {
            "segment_accuracy": _mean(100 * right.sum() / number.sum().clamp(min=1), number.sum() > 0),
            "segment_accuracy_mean": _mean(shares, occurs),
            "segments": float(number.sum()),
        }
        seen = self.dataset_meta.get("seen")
        if seen is not None:
            flags = torch.tensor(list(seen), dtype=torch.bool)
            figures["segment_accuracy_seen"] = _mean(shares, occurs & flags)
            figures["segment_accuracy_unseen"] = _mean(shares, occurs & ~flags)
        print_log(
            f"segments named rightly: {figures['segment_accuracy']:.2f} % of {int(number.sum())}; mean over the "
            f"{int(occurs.sum())} classes that occur {figures['segment_accuracy_mean']:.2f} %",
            logger="current",
        )
        return figures


def _mean(values: Tensor, chosen: Tensor) -> float:
    return float(values[chosen].mean()) if chosen.any() else float("nan")
