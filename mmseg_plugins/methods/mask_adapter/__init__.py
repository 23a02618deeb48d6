"""Mask-Adapter (CVPR 2025): learned activation maps instead of the mask itself decide what CLIP pools for a mask."""
