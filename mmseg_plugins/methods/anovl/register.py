"""Imports what AnoVL registers into mmseg."""

from mmseg_plugins.methods.anovl import segmentor

__all__ = ["segmentor"]
