"""Metrics that register into mmseg on import of this package."""

from mmseg_plugins.evaluation.metrics.boundary_metric import BoundaryIoUMetric
from mmseg_plugins.evaluation.metrics.instance_metric import InstanceAPMetric
from mmseg_plugins.evaluation.metrics.iou_metric import OpenVocabularyIoUMetric
from mmseg_plugins.evaluation.metrics.panoptic_metric import PanopticQualityMetric
from mmseg_plugins.evaluation.metrics.segment_accuracy_metric import SegmentAccuracyMetric

__all__ = [
    "BoundaryIoUMetric",
    "InstanceAPMetric",
    "OpenVocabularyIoUMetric",
    "PanopticQualityMetric",
    "SegmentAccuracyMetric",
]
