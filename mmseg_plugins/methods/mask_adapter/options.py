"""How Mask-Adapter trains, and which masks inference may leave out, as configs say it."""

from dataclasses import dataclass
from typing import Literal

Phase = Literal["ground_truth", "mixed"]
PHASES = ("ground_truth", "mixed")


@dataclass(frozen=True, kw_only=True)
class AdapterTraining:
    """What the adapter learns from. The defaults are those on FC-CLIP.

    Attributes:
        phase: ``ground_truth``: annotated masks alone, no decoder runs (warm-up); ``mixed``: also predictions.
        num_masks: annotated masks per image in the first phase, at most.
        num_gt: annotated masks per image in the second.
        num_matched: predictions per image in the second, and as many annotated masks they match.
        iou_threshold: overlap with an annotated mask that a prediction must exceed.
        iou_binarise: probability from which a place belongs to a prediction when overlap is measured (FC-CLIP 0.4,
            MAFT+ 0.5); independent of the classifier's threshold.
        class_weight: weight of the cross-entropy.
        consistency_weight: weight of the consistency loss.
        detach_target: see :func:`~mmseg_plugins.methods.mask_adapter.losses.consistency_loss` (MAFT+: False).
        count_padding: the same.
        full_padding: see :func:`~mmseg_plugins.methods.mask_adapter.matching.mixed_masks` (published: True).
        train_void: whether the void embedding learns (published: yes, except in the second phase on MAFT+).

    Raises:
        ValueError: if a value is out of range.
    """

    phase: Phase = "ground_truth"
    num_masks: int = 32
    num_gt: int = 16
    num_matched: int = 8
    iou_threshold: float = 0.7
    iou_binarise: float = 0.4
    class_weight: float = 2.0
    consistency_weight: float = 5.0
    detach_target: bool = True
    count_padding: bool = True
    full_padding: bool = False
    train_void: bool = True

    def __post_init__(self) -> None:
        if self.phase not in PHASES:
            raise ValueError(f"Expected training.phase to be one of {PHASES}, but got {self.phase!r}.")
        for name in ("num_masks", "num_gt", "num_matched"):
            if getattr(self, name) < 1:
                raise ValueError(f"Expected training.{name} to be at least 1, but got {getattr(self, name)}.")
        if not 0 <= self.iou_threshold < 1:
            raise ValueError(f"Expected training.iou_threshold from 0 to below 1, but got {self.iou_threshold}.")
        if not 0 < self.iou_binarise < 1:
            raise ValueError(f"Expected training.iou_binarise between 0 and 1, but got {self.iou_binarise}.")


@dataclass(frozen=True, kw_only=True)
class MaskSkipping:
    """Which masks are dropped in front of the adapter because they cannot matter. Nothing is, unless asked for.

    The probability v of void is known before the adapter runs, and a mask's class probabilities sum to 1 - v. A mask is
    dropped only if every output allows it; instance output, which ranks all pairs of mask and class, allows none.

    Attributes:
        semantic_budget: drop the masks most likely void while the sum of their 1 - v stays within this: no semantic
            score changes by more, and only pixels whose two best classes are closer than that can change. 0: none.
        panoptic: drop masks with v > 0.5, which panoptic output drops anyway (exact).

    Raises:
        ValueError: if the budget is negative.
    """

    semantic_budget: float = 0.0
    panoptic: bool = False

    def __post_init__(self) -> None:
        if self.semantic_budget < 0:
            raise ValueError(f"Expected skipping.semantic_budget to be at least 0, but got {self.semantic_budget}.")

    @property
    def is_on(self) -> bool:
        """Whether anything may be left out."""
        return self.semantic_budget > 0 or self.panoptic
