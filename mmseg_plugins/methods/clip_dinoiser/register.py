"""Imports what CLIP-DINOiser registers into mmseg."""

from mmseg_plugins.methods.clip_dinoiser import dino_clip, model, teachers

__all__ = ["dino_clip", "model", "teachers"]
