"""Boundary IoU of semantic maps as an mmseg metric."""

from typing import Any

from mmengine.logging import print_log
from mmseg.registry import METRICS
from torch import Tensor

from mmseg_plugins.evaluation.boundary import DILATION_RATIO, boundary_width, semantic_boundary_areas
from mmseg_plugins.evaluation.metrics.iou_metric import class_table
from mmseg_plugins.evaluation.metrics.totals import TotalsMetric, plane, sample_name
from mmseg_plugins.evaluation.rules import ABSENT_RULES, AbsentRule
from mmseg_plugins.evaluation.semantic import SemanticAreas
from mmseg_plugins.evaluation.semantic_summary import SemanticSummary, summarize_semantic


@METRICS.register_module()
class BoundaryIoUMetric(TotalsMetric):
    """Boundary IoU per class: pixels counted only along each class's contour, over the whole data set.

    Args:
        ignore_index: label of pixels that do not count.
        dilation_ratio: width of the contour band as a share of the image diagonal.
        absent: which classes the mean is taken over.
        **options: of :class:`~mmseg_plugins.evaluation.metrics.totals.TotalsMetric`: where to save predictions, prefix.

    Returns of ``evaluate``: ``mBIoU`` (percent, two decimals), ``mBIoU_unrounded`` and
    ``mBIoU_classes_absent_<rule>``, the number of classes in the mean; ``summary`` holds the figures per class.
    """

    summary: SemanticSummary | None = None

    def __init__(
        self,
        *,
        ignore_index: int = 255,
        dilation_ratio: float = DILATION_RATIO,
        absent: AbsentRule = "error",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if absent not in ABSENT_RULES:
            raise ValueError(f"unknown rule absent={absent!r}, expected one of: {', '.join(ABSENT_RULES)}.")
        boundary_width(1, 1, dilation_ratio)
        self.ignore_index = ignore_index
        self.dilation_ratio = dilation_ratio
        self.absent = absent

    def empty(self) -> Tensor:
        """Return the counts of no sample, (3, K + 1)."""
        return SemanticAreas.zeros(self.num_classes).counts

    def count(self, sample: dict[str, Any]) -> Tensor:
        """Count the boundary pixels of one sample.

        Raises:
            ValueError: naming the file, if the maps differ in size.
        """
        prediction, label = plane(sample["pred_sem_seg"]["data"]), plane(sample["gt_sem_seg"]["data"])
        try:
            return semantic_boundary_areas(
                prediction,
                label,
                self.num_classes,
                ignore_index=self.ignore_index,
                dilation_ratio=self.dilation_ratio,
            ).counts
        except ValueError as error:
            raise ValueError(f"{sample_name(sample)}: {error}") from error

    def report(self, totals: Tensor) -> dict[str, float]:
        """Log the per-class table and return the figures."""
        self.summary = summary = summarize_semantic(SemanticAreas(totals), absent=self.absent)
        print_log("boundary IoU per class:\n" + class_table(self.dataset_meta["classes"], summary), logger="current")
        print_log(summary.rule.replace("mIoU", "mBIoU", 1), logger="current")
        mean = 100 * summary.figures["mIoU"]
        count_key = f"mBIoU_classes_absent_{summary.absent}"
        return {"mBIoU": round(mean, 2), "mBIoU_unrounded": mean, count_key: summary.classes_in_mean}
