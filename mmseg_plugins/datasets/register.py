"""Imports every module of this room that registers something into mmseg."""

from mmseg_plugins.datasets import label_loading, semantic

__all__ = ["label_loading", "semantic"]
