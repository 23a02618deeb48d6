"""The interface of what names masks: mask pooling, Mask-Adapter."""

from abc import abstractmethod
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from mmseg_plugins.classify.features import ClipMaskFeatures

# B batch, Q masks, D joint width, H W mask grid


@runtime_checkable
class PoolableMasks(Protocol):
    """Masks of one image that stay compressed until they are pooled (run-length encodings)."""

    def pool(self, features_1Chw: Tensor) -> Tensor:
        """Return (1, Q, C): the mean of the features under every mask, 0 for an empty one."""


class MaskClassifier(nn.Module):
    """Turns masks into embeddings in CLIP's joint space. Subclasses register in mmseg's MODELS.

    A segmentor chooses one by ``mask_classifier=dict(type=...)``.
    """

    @abstractmethod
    def forward(self, features: ClipMaskFeatures, mask_logits: Tensor | PoolableMasks) -> Tensor:
        """Embed masks.

        Args:
            features: dense features of B images.
            mask_logits: (B, Q, H, W) logits at any resolution, covering the same region as the features; positive is
                inside. A classifier may also take :class:`PoolableMasks` of one image.

        Returns:
            (B, Q, D), not normalised; finite also for an empty mask.
        """

    def check_segmentor(self, segmentor: nn.Module) -> None:
        """Raise ValueError, with the remedy, if a segmentor cannot load, feed or train this classifier."""
