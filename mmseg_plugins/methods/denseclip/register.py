"""Imports what DenseCLIP registers into mmseg."""

from mmseg_plugins.methods.denseclip import (
    context_decoder,
    identity_head,
    model,
    pooled_backbone,
    resnet_backbone,
    text_encoder,
    vit_backbone,
)

__all__ = [
    "context_decoder",
    "identity_head",
    "model",
    "pooled_backbone",
    "resnet_backbone",
    "text_encoder",
    "vit_backbone",
]
