"""The arithmetic of CLIP-DINOiser: correlations, pooling, probabilities, background.

Wysoczańska et al.: "CLIP-DINOiser: Teaching CLIP a few DINO tricks for open-vocabulary semantic segmentation",
ECCV 2024 (arXiv 2312.12359), section 3.

B batch, D joint width, C channels of the descriptors, N prompt rows, h w grid, P = h*w positions, c some of
them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmseg_plugins.towers.position import to_map

_EPS = 1e-6  # the release's, added to the sum of weights
# Correlations held at a time, over the batch: 16 MiB of float32, about what stays in a processor's cache.
_ENTRIES_PER_STEP = 4_000_000


def at_least_float32(value: Tensor) -> Tensor:
    """Widen half precision."""
    return value.to(torch.promote_types(value.dtype, torch.float32))


def correlate(unit_BChw: Tensor) -> Tensor:
    """Return all cosines between positions, (B, P, h, w): entry [n, i, j] belongs to position n and position (i, j).

    Args:
        unit_BChw: descriptors of unit length.
    """
    return torch.einsum("bcn,bchw->bnhw", unit_BChw.flatten(2), unit_BChw)


def cut_below(correlations: Tensor, gamma: float) -> Tensor:
    """Set correlations below ``gamma`` to 0; the others stay as they are."""
    return correlations.masked_fill(correlations < gamma, 0.0)


def pool_by_correlation(
    features_BDhw: Tensor, unit_BChw: Tensor, gamma: float, *, positions_per_step: int | None = None
) -> Tensor:
    """Replace every feature by the mean over all positions, weighted by the correlations that reach ``gamma``.

    Args:
        features_BDhw: what is averaged; resized bilinearly to the grid of the descriptors where theirs differs.
        unit_BChw: descriptors of unit length.
        gamma: smallest correlation that counts.
        positions_per_step: how many positions' weights are held at a time; None: as many as keep them near 16 MiB.
            Does not change the result beyond rounding.

    Returns:
        (B, D, h, w) on the grid of the descriptors.

    Raises:
        ValueError: if ``positions_per_step`` is below 1.
    """
    grid = tuple(unit_BChw.shape[2:])
    if tuple(features_BDhw.shape[2:]) != grid:
        features_BDhw = F.interpolate(features_BDhw, grid, mode="bilinear", align_corners=False)
    unit_BCP, features_BPD = unit_BChw.flatten(2), features_BDhw.flatten(2).transpose(1, 2)
    batch, _, positions = unit_BCP.shape
    if positions_per_step is not None and positions_per_step < 1:
        raise ValueError(f"expected positions_per_step to be at least 1 or None, but got {positions_per_step}.")
    step = positions_per_step or max(1, _ENTRIES_PER_STEP // (batch * positions))
    parts = []
    for some_BCc in unit_BCP.split(step, dim=2):
        weights_BcP = cut_below(some_BCc.transpose(1, 2) @ unit_BCP, gamma)
        parts.append(weights_BcP @ features_BPD / (weights_BcP.sum(2, keepdim=True) + _EPS))
    return to_map(torch.cat(parts, dim=1), grid)


def class_probabilities(features_BDhw: Tensor, rows_ND: Tensor, scale: float) -> Tensor:
    """Softmax over all prompt rows of the scaled cosines, (B, N, h, w).

    Args:
        features_BDhw: not normalised.
        rows_ND: text embeddings of unit length.
        scale: inverse temperature.
    """
    cosines_BNhw = torch.einsum("bdhw,nd->bnhw", F.normalize(features_BDhw, dim=1), rows_ND)
    return (scale * cosines_BNhw).softmax(dim=1)


def force_background(probabilities_BNhw: Tensor, is_foreground_B1hw: Tensor, *, row: int, delta: float) -> Tensor:
    """Give the background probability 1 where no row is sure and no object is seen; each image for itself.

    The other rows keep their probabilities, as in the release. What follows (averaging windows, resizing) sees these
    values.

    Args:
        probabilities_BNhw: of all prompt rows.
        is_foreground_B1hw: bool, where an object is.
        row: prompt row of the background.
        delta: a row at or above this probability keeps its position.

    Returns:
        A changed copy.
    """
    unsure_Bhw = (probabilities_BNhw.amax(1) < delta) & ~is_foreground_B1hw[:, 0]
    changed = probabilities_BNhw.clone()
    changed[:, row].masked_fill_(unsure_Bhw, 1.0)
    return changed


def pad_corner(image_B3HW: Tensor, multiple: int, fill_3: Tensor) -> Tensor:
    """Pad an image at the bottom and right to multiples of the patch, with one colour.

    The release pads images in [0, 1] with black and normalises afterwards, so that padding is -mean / std and not 0.

    Args:
        image_B3HW: the image, in any normalisation.
        multiple: patch side in pixels.
        fill_3: the colour in that normalisation.
    """
    height, width = image_B3HW.shape[2:]
    bottom, right = -height % multiple, -width % multiple
    if not bottom and not right:
        return image_B3HW
    padded = fill_3.to(image_B3HW)[None, :, None, None].repeat(len(image_B3HW), 1, height + bottom, width + right)
    padded[..., :height, :width] = image_B3HW
    return padded
