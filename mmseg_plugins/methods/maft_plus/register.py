"""Imports what MAFT+ registers into mmseg."""

from mmseg_plugins.classify import transfer
from mmseg_plugins.methods.maft_plus import model

__all__ = ["model", "transfer"]
