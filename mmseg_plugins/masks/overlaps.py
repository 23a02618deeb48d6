"""What becomes of pixels that lie in no mask, or in several.

Q masks, H W mask grid.
"""

from typing import Literal, get_args

import cv2
import numpy as np
import torch
from torch import Tensor

from mmseg_plugins.masks.run_lengths import RunLengthMasks

Unclaimed = Literal["components", "mask", "none"]
Overlaps = Literal["keep", "smallest"]
UNCLAIMED: tuple[str, ...] = get_args(Unclaimed)
OVERLAPS: tuple[str, ...] = get_args(Overlaps)


def settle_pixels(
    masks: RunLengthMasks, *, overlaps: Overlaps = "keep", unclaimed: Unclaimed = "components", min_area: float = 0.01
) -> tuple[RunLengthMasks, Tensor]:
    """Apply both rules.

    Args:
        masks: of one image.
        overlaps: ``keep`` leaves masks as they are; ``smallest`` gives each pixel to the smallest mask that holds it,
            so that parts lie in front of the whole; masks without a pixel left are dropped.
        unclaimed: ``components`` makes every connected part of what is in no mask a further mask (all smaller ones
            together one), ``mask`` makes one mask of all of it, ``none`` leaves it.
        min_area: share of the image from which on a part is a mask of its own.

    Returns:
        The masks, and for each the index of the mask it comes from, -1 for further ones, (Q',) int64.

    Raises:
        ValueError: if an option does not exist or is out of range.
    """
    check_rules(overlaps, unclaimed, min_area)
    kept = torch.arange(len(masks), device=masks.counts.device)
    if overlaps == "smallest":
        masks, kept = smallest_in_front(masks)
    if unclaimed == "none":
        return masks, kept
    rest = torch.from_numpy(_parts(~covered(masks).cpu().numpy(), unclaimed, min_area)).to(kept.device)
    return masks.joined(RunLengthMasks.from_masks(rest)), torch.cat([kept, kept.new_full((len(rest),), -1)])


def covered(masks: RunLengthMasks) -> Tensor:
    """(H, W) bool: which pixels lie in a mask."""
    inside = torch.zeros(masks.size, dtype=torch.bool, device=masks.counts.device)
    for part in masks.decoded():
        inside |= part.any(0)
    return inside


def smallest_in_front(masks: RunLengthMasks) -> tuple[RunLengthMasks, Tensor]:
    """Give each pixel to the smallest mask that holds it; of equal ones to the first.

    Returns:
        Disjoint masks in the order given, and the indices of those that still have a pixel.
    """
    areas = masks.areas
    rank = torch.empty_like(areas)
    rank[areas.argsort(stable=True)] = torch.arange(len(areas), device=areas.device)
    best = torch.full(masks.size, len(areas), dtype=torch.int64, device=areas.device)
    start = 0
    for part in masks.decoded():
        ranks = rank[start : start + len(part), None, None].expand_as(part)
        best = torch.minimum(best, ranks.masked_fill(~part, len(areas)).amin(0))
        start += len(part)
    kept = torch.isin(rank, best).nonzero()[:, 0]
    pieces = [RunLengthMasks.from_masks((best == rank[index])[None]) for index in kept]
    return RunLengthMasks.empty(masks.size, areas.device).joined(*pieces), kept


def _parts(outside: np.ndarray, unclaimed: str, min_area: float) -> np.ndarray:
    """(n, H, W) bool masks that together are the pixels outside."""
    if not outside.any():
        return np.zeros((0, *outside.shape), dtype=bool)
    if unclaimed == "mask":
        return outside[None]
    _, parts = cv2.connectedComponents(outside.astype(np.uint8), connectivity=4)
    areas = np.bincount(parts.ravel())
    areas[0] = 0
    large = np.flatnonzero(areas >= max(1, min_area * outside.size))
    small = outside & ~np.isin(parts, large)
    return np.stack([*(parts == part for part in large), *([small] if small.any() else [])])


def check_rules(overlaps: str, unclaimed: str, min_area: float) -> None:
    """Raise unless there are such rules.

    Raises:
        ValueError: naming the choices.
    """
    for name, value, choices in (("overlaps", overlaps, OVERLAPS), ("unclaimed", unclaimed, UNCLAIMED)):
        if value not in choices:
            raise ValueError(f"Expected {name} to be one of {choices}, but got {value!r}.")
    if not 0 <= min_area <= 1:
        raise ValueError(f"Expected min_area to be a share of the image, 0 to 1, but got {min_area}.")
