"""Binary masks at image resolution as proposals: what SAM and ground truth have in common."""

from torch import Tensor

from mmseg_plugins.masks.proposals import MaskProposals
from mmseg_plugins.masks.run_lengths import RunLengthMasks


def proposals_of(
    masks: RunLengthMasks, size: tuple[int, int], padded_size: tuple[int, int], extras: dict[str, Tensor]
) -> MaskProposals:
    """Wrap binary masks of an image, at any resolution.

    Args:
        masks: they cover the image without padding.
        size: (H, W) of the image inside the padded input.
        padded_size: (Hp, Wp) of the padded input.
        extras: see :class:`~mmseg_plugins.masks.proposals.MaskProposals`.
    """
    grid = tuple(round(side * outer / inner) for side, inner, outer in zip(masks.size, size, padded_size, strict=True))
    return MaskProposals(mask_logits=masks.logits(), covers="image", poolable=masks.padded(grid), extras=extras)
