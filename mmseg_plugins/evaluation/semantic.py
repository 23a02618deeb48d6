"""Pixel counts behind every semantic figure: true positives, predicted and labelled pixels of each class, exactly."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

# Pixels counted at a time: bounds the int64 temporaries (about 100 MB) however large a label map is.
CHUNK_PIXELS = 1 << 22

# Up to this many bins (about 1,000 classes) one joint histogram of (label, prediction) pairs is the fastest count on a
# CPU; beyond it the bins outgrow the cache.
_JOINT_BINS = 1 << 20


@dataclass(frozen=True)
class SemanticAreas:
    """Pixel counts of K classes, summed over any number of label maps.

    Attributes:
        counts: (3, K + 1) int64: true positives, predicted pixels, labelled pixels. Column K counts values that are no
            class: predictions outside 0..K-1, and labels that are neither a class nor the ignore value.
    """

    counts: Tensor

    @classmethod
    def zeros(cls, num_classes: int, device: str | torch.device = "cpu") -> "SemanticAreas":
        """Return the counts of no image at all."""
        return cls(torch.zeros(3, num_classes + 1, dtype=torch.int64, device=device))

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        return self.counts.shape[1] - 1

    @property
    def true_positive(self) -> Tensor:
        """(K,) pixels whose prediction and label are this class."""
        return self.counts[0, :-1]

    @property
    def predicted(self) -> Tensor:
        """(K,) counted pixels that are predicted as this class."""
        return self.counts[1, :-1]

    @property
    def labelled(self) -> Tensor:
        """(K,) pixels that are labelled as this class."""
        return self.counts[2, :-1]

    @property
    def union(self) -> Tensor:
        """(K,) pixels that are predicted or labelled as this class."""
        return self.predicted + self.labelled - self.true_positive

    @property
    def unanswered(self) -> Tensor:
        """Scalar: counted pixels whose prediction is no class. They count as wrong."""
        return self.counts[1, -1]

    @property
    def foreign(self) -> Tensor:
        """Scalar: pixels whose label is neither a class nor the ignore value; ``predicted`` has their predictions."""
        return self.counts[2, -1]

    def __add__(self, other: "SemanticAreas") -> "SemanticAreas":
        return SemanticAreas(self.counts + other.counts)


def semantic_areas(prediction: Tensor, label: Tensor, num_classes: int, *, ignore_index: int = 255) -> SemanticAreas:
    """Count the pixels of each class, in one histogram per label map.

    The rules are those of mmseg's ``IoUMetric`` (ignored labels are left out, their predictions too; a prediction that
    is no class is only lost to its label), without its float32 sums.

    Args:
        prediction: (..., H, W) integer label map.
        label: ground truth of the same shape, any integer type, moved to the prediction's device.
        num_classes: K; classes are 0..K-1.
        ignore_index: label of pixels that do not count.

    Returns:
        int64 counts on the prediction's device.

    Raises:
        TypeError: if a map is not of an integer type.
        ValueError: if the shapes differ or ``num_classes`` is below 1.
    """
    _semantic_areas_validate(prediction, label, num_classes)
    prediction, label = prediction.to(torch.int64), label.to(prediction.device, torch.int64)
    joint = prediction.device.type == "cpu" and (num_classes + 3) ** 2 <= _JOINT_BINS
    count = _count_jointly if joint else _count_separately
    chunks = zip(prediction.flatten().split(CHUNK_PIXELS), label.flatten().split(CHUNK_PIXELS), strict=True)
    total = SemanticAreas.zeros(num_classes, prediction.device).counts
    for prediction_chunk, label_chunk in chunks:
        total += count(prediction_chunk, label_chunk, num_classes, ignore_index)
    return SemanticAreas(total)


def class_or_outside(values: Tensor, num_classes: int) -> Tensor:
    """Return the values as int64, with everything outside 0..K-1 turned into K."""
    values = values.to(torch.int64)
    return torch.where(values < 0, num_classes, values).clamp_(max=num_classes)


def _semantic_areas_validate(prediction: Tensor, label: Tensor, num_classes: int) -> None:
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}.")
    for name, value in (("prediction", prediction), ("label", label)):
        if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
            raise TypeError(f"{name} must hold integer class indices, got {value.dtype}. Take the arg-max first.")
    if prediction.shape != label.shape:
        raise ValueError(
            f"prediction has shape {tuple(prediction.shape)} but the label map has {tuple(label.shape)}. "
            "Resize the prediction's logits to the label map's size before taking the arg-max."
        )


def _count_jointly(prediction: Tensor, label: Tensor, num_classes: int, ignore_index: int) -> Tensor:
    """Count on the CPU, from one histogram of pairs.

    numpy rather than torch: each step is a short pass over the map, and torch's thread pool makes such passes wait for
    each other wherever data loading keeps the cores busy.
    """
    # Codes: 0 below the classes, 1..K the classes, K + 1 above them; labels have K + 2 for ignored pixels besides.
    side = num_classes + 2
    labels = label.numpy()
    pairs = np.clip(labels, -1, num_classes)
    np.copyto(pairs, num_classes + 1, where=labels == ignore_index)
    pairs *= side
    pairs += np.clip(prediction.numpy(), -1, num_classes)
    pairs += side + 1
    joint = np.bincount(pairs, minlength=(side + 1) * side).reshape(side + 1, side)[:-1]
    counts = np.stack((joint.diagonal(), joint.sum(0), joint.sum(1)))
    counts[0, [0, -1]] = 0  # values outside the classes never agree
    return _fold_outside(torch.from_numpy(counts))


def _count_separately(prediction: Tensor, label: Tensor, num_classes: int, ignore_index: int) -> Tensor:
    """Count on any device, from one histogram over three ranges: agreeing, predicted and labelled pixels."""
    side = num_classes + 2
    rows, columns = (values.clamp(min=-1, max=num_classes).to(torch.int32).add_(1) for values in (label, prediction))
    agreed = torch.where((rows == columns) & (rows > 0) & (rows <= num_classes), rows, 0)
    values = torch.cat((agreed, columns.add_(side), rows.add_(2 * side)))
    values = torch.where((label == ignore_index).repeat(3), 3 * side, values)
    counts = torch.bincount(values, minlength=3 * side + 1)[:-1].view(3, side)
    counts[0, 0] = 0
    return _fold_outside(counts)


def _fold_outside(counts: Tensor) -> Tensor:
    """Turn (3, K + 2) counts by code into (3, K + 1): what lies below and above the classes is added up."""
    return torch.cat((counts[:, 1:-1], counts[:, :1] + counts[:, -1:]), dim=1)
