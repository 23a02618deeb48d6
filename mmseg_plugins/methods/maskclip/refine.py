"""Inference-time refinements of MaskCLIP: prompt denoising and key smoothing (paper section 3.3).

B batch, K prompt rows, N = h*w positions, W width of the key map, h w grid.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mmseg_plugins.towers.position import to_map

KeyNorm = Literal["token_axis", "channel_axis"]

# The release sets a denoised class to this cosine, far below any real one.
SUPPRESSED = -100.0


def denoise_prompts(logits: Tensor, threshold: float, *, scale: float = 100.0) -> Tensor:
    """Suppress the classes that are nowhere confident in an image.

    Args:
        logits: (B, K, h, w) cosines.
        threshold: a class whose largest softmax probability over the image is below this is set to -100
            everywhere; 0 switches the step off.
        scale: temperature of the softmax over classes.

    Returns:
        (B, K, h, w) cosines.
    """
    if threshold <= 0:
        return logits
    peak_BK11 = (logits * scale).softmax(dim=1).amax(dim=(2, 3), keepdim=True)
    return logits.masked_fill(peak_BK11 < threshold, SUPPRESSED)


def key_affinity(keys: Tensor, key_norm: KeyNorm = "token_axis") -> Tensor:
    """Return the affinity between positions that key smoothing averages with.

    The paper speaks of the cosine between keys (``channel_axis``). The released code normalises each
    channel over the positions instead (``token_axis``), and the published numbers come from that.

    Args:
        keys: (B, N, W).
        key_norm: which axis has unit length.

    Returns:
        (B, N, N); may be negative, rows do not sum to 1.
    """
    unit_BNW = F.normalize(keys, dim=1 if key_norm == "token_axis" else 2)
    return unit_BNW @ unit_BNW.transpose(1, 2)


def smooth_with_keys(
    logits: Tensor, keys: Tensor, threshold: float, *, scale: float = 100.0, key_norm: KeyNorm = "token_axis"
) -> Tensor:
    """Replace unsure positions by the affinity-weighted sum of all positions' class probabilities.

    Args:
        logits: (B, K, h, w) cosines.
        keys: (B, h*w, W) keys of the last block.
        threshold: positions whose largest probability is below this are replaced; 0 switches the step off.
        scale: temperature of the softmax over classes.
        key_norm: see :func:`key_affinity`.

    Returns:
        (B, K, h, w). Probabilities (replaced positions: affinity-weighted sums of them) when the step is on,
        the unchanged cosines when it is off: the two modes differ in scale.
    """
    if threshold <= 0:
        return logits
    probabilities_BNK = (logits * scale).flatten(2).transpose(1, 2).softmax(dim=2)
    unsure_BN1 = probabilities_BNK.amax(dim=2, keepdim=True) < threshold
    smoothed_BNK = key_affinity(keys, key_norm) @ probabilities_BNK
    mixed_BNK = torch.where(unsure_BN1, smoothed_BNK, probabilities_BNK)
    return to_map(mixed_BNK, (logits.shape[2], logits.shape[3]))
