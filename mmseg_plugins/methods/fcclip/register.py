"""Imports what FC-CLIP, and mask segmentors without a method of their own, register into mmseg."""

from mmseg_plugins.classify import pooling
from mmseg_plugins.masks import register as masks
from mmseg_plugins.methods.fcclip import model
from mmseg_plugins.segmentors import mask

__all__ = ["mask", "masks", "model", "pooling"]
