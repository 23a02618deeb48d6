"""Imports every module of this room and the metrics, so that they register into mmseg."""

from mmseg_plugins.datasets import (
    folder,
    label_loading,
    panoptic_crop,
    segment_loading,
    segments,
    semantic,
    semantic_masks,
    test_views,
    unlabelled,
    views,
)
from mmseg_plugins.datasets.shapesworld import dataset as shapesworld
from mmseg_plugins.evaluation import metrics, saving_metric

__all__ = [
    "folder",
    "label_loading",
    "metrics",
    "panoptic_crop",
    "saving_metric",
    "segment_loading",
    "segments",
    "semantic",
    "semantic_masks",
    "shapesworld",
    "test_views",
    "unlabelled",
    "views",
]
