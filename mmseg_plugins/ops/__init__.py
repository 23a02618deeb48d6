"""Tensor functions with a compiled twin: mask pooling, label maps from logits."""

from mmseg_plugins.ops import _load as _load  # defines the operators and loads the compiled libraries
from mmseg_plugins.ops.label_map import UpsampledArgmax, upsample_argmax
from mmseg_plugins.ops.mask_argmax import mask_argmax
from mmseg_plugins.ops.mask_pool import label_pool, mask_pool, mask_pool_ragged
from mmseg_plugins.ops.modules import ActivationMapPooling, MaskPooling
from mmseg_plugins.ops.packed_masks import mask_pool_bits, mask_pool_rle, pack_bits, unpack_bits

__all__ = [
    "ActivationMapPooling",
    "MaskPooling",
    "UpsampledArgmax",
    "label_pool",
    "mask_argmax",
    "mask_pool",
    "mask_pool_bits",
    "mask_pool_ragged",
    "mask_pool_rle",
    "pack_bits",
    "unpack_bits",
    "upsample_argmax",
]
