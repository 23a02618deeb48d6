"""Registers sources of masks into mmseg."""

from mmseg.registry import MODELS

from mmseg_plugins.masks.mask2former.head import Mask2FormerHead
from mmseg_plugins.masks.oracle import OracleProposals
from mmseg_plugins.masks.pyramid import SimplePyramid
from mmseg_plugins.masks.sam.proposals import SamProposals

__all__ = ["Mask2FormerHead", "OracleProposals", "SamProposals", "SimplePyramid"]

# mmseg registers a head of its own as Mask2FormerHead, which needs mmdet.
MODELS.register_module(name="OpenVocabularyMask2Former", module=Mask2FormerHead)
MODELS.register_module(name="SimplePyramid", module=SimplePyramid)
