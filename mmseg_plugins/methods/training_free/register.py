"""Imports what the training-free methods register into mmseg."""

from mmseg_plugins.methods.training_free import corrclip, model, proxyclip, region_sources, resclip, trident

__all__ = ["corrclip", "model", "proxyclip", "region_sources", "resclip", "trident"]
