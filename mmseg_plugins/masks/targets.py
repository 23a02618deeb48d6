"""Segments as training targets."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# n segments, H W padded size of the batch


@dataclass(frozen=True)
class SegmentTargets:
    """The annotated segments of one image.

    Attributes:
        labels: (n,) int64 class indices of the training vocabulary.
        masks: (n, H, W) bool; padding belongs to no mask. ``n`` may be 0.
    """

    labels: Tensor
    masks: Tensor

    def __post_init__(self) -> None:
        if self.masks.dim() != 3 or self.labels.dim() != 1 or len(self.labels) != len(self.masks):
            raise ValueError(
                "expected labels (n,) and masks (n, H, W) of the same segments, but got shapes "
                f"{tuple(self.labels.shape)} and {tuple(self.masks.shape)}."
            )

    def to(self, device: torch.device | str) -> "SegmentTargets":
        """Return the same targets on another device."""
        return SegmentTargets(self.labels.to(device), self.masks.to(device))


def pad_masks(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Pad (n, h, w) masks at the bottom and right to (n, H, W); the padding belongs to no mask.

    Raises:
        ValueError: if the masks are larger than ``size``.
    """
    height, width = size[0] - masks.shape[-2], size[1] - masks.shape[-1]
    if min(height, width) < 0:
        raise ValueError(
            f"masks of {tuple(masks.shape[-2:])} (H, W) do not fit into the batch's {tuple(size)}. "
            "Images and masks must pass the same transforms."
        )
    return F.pad(masks, (0, width, 0, height)) if height or width else masks


def read_targets(
    data_samples: Sequence[Any], size: tuple[int, int], *, device: torch.device | str = "cpu", num_classes: int
) -> list[SegmentTargets]:
    """Take the segments from packed data samples.

    Crowd segments, where a sample marks them (``is_crowd``), are no targets; their pixels lie in no mask.

    Args:
        data_samples: samples with ``gt_instances`` (``labels`` (n,), ``masks`` (n, h, w)), as ``PackSegments`` makes.
        size: (H, W) of the batch; smaller masks are padded at the bottom and right.
        device: where the targets go.
        num_classes: size of the training vocabulary; void does not count.

    Raises:
        ValueError: if a sample has no segments field, a label is no class, or masks are larger than ``size``.
    """
    return [_read_sample(sample, size, num_classes).to(device) for sample in data_samples]


def _read_sample(sample: Any, size: tuple[int, int], num_classes: int) -> SegmentTargets:
    instances = getattr(sample, "gt_instances", None)
    if instances is None:
        raise ValueError(
            f"the sample of {getattr(sample, 'img_path', 'an image')} has no gt_instances. Load panoptic or instance "
            "ground truth and end the training pipeline with PackSegments."
        )
    labels, masks = instances.labels.long(), instances.masks.bool()
    if "is_crowd" in instances:
        labels, masks = labels[~instances.is_crowd], masks[~instances.is_crowd]
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError(
            f"the sample of {getattr(sample, 'img_path', 'an image')} has labels from {int(labels.min())} to "
            f"{int(labels.max())}, but the training vocabulary has {num_classes} classes. "
            "Set train_vocabulary to the data set's class list."
        )
    return SegmentTargets(labels, pad_masks(masks, size))
