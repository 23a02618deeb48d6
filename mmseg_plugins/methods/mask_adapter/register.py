"""Imports what Mask-Adapter registers into mmseg."""

from mmseg_plugins.methods.mask_adapter import classifier, model

__all__ = ["classifier", "model"]
