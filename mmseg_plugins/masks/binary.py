"""Binary masks at image resolution as proposals: what SAM and ground truth have in common."""

from torch import Tensor

from mmseg_plugins.masks.proposals import MaskProposals
from mmseg_plugins.masks.run_lengths import RunLengthMasks


class BinaryProposals(MaskProposals):
    """Binary masks that stay run lengths; they are decoded whenever ``mask_logits`` is asked for, and not kept so.

    Args:
        masks: they cover the image without padding.
        poolable: the same over the padded input.
        extras: see :class:`~mmseg_plugins.masks.proposals.MaskProposals`.
    """

    def __init__(self, masks: RunLengthMasks, *, poolable: RunLengthMasks, extras: dict[str, Tensor]) -> None:
        self.masks, self.poolable, self.extras = masks, poolable, extras
        self.covers, self.class_logits = "image", None

    def __len__(self) -> int:
        return len(self.masks)

    @property
    def mask_logits(self) -> Tensor:
        """(Q, h, w) int8, decoded at every call: a byte for each pixel of each mask."""
        return self.masks.logits()


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
    return BinaryProposals(masks, poolable=masks.padded(grid), extras=extras)
