"""Imports every module of this room that registers something into mmseg, and the metric that saves predictions."""

from mmseg_plugins.datasets import folder, label_loading, segment_loading, segments, semantic
from mmseg_plugins.datasets.shapesworld import dataset as shapesworld
from mmseg_plugins.evaluation import saving_metric

__all__ = ["folder", "label_loading", "saving_metric", "segment_loading", "segments", "semantic", "shapesworld"]
