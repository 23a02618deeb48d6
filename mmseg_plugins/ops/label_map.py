"""Enlarge logits and take the best class, without storing all classes at full size."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from mmseg_plugins.ops._argmax_dispatch import upsample_argmax_compiled
from mmseg_plugins.ops._upsample_argmax_eager import upsample_argmax_eager


class UpsampledArgmax(NamedTuple):
    """Label map with what was asked for beside it; what was not asked for is None.

    Attributes:
        labels: (B, H, W) int64, values in [0, K).
        score: (B, H, W) winning logit, before ``logit_scale``, in the dtype of the logits.
        margin: (B, H, W) winning logit minus the best logit of any other class, >= 0; infinite for a single class.
        probability: (B, H, W) float32 softmax probability of the winner.
    """

    labels: Tensor
    score: Tensor | None = None
    margin: Tensor | None = None
    probability: Tensor | None = None


def upsample_argmax(
    logits: Tensor,
    size: tuple[int, int],
    *,
    row_class: Sequence[int] | Tensor | None = None,
    num_classes: int | None = None,
    return_score: bool = False,
    return_margin: bool = False,
    return_probability: bool = False,
    logit_scale: float = 1.0,
    softmax: Literal["rows", "classes"] = "rows",
    threshold: float | None = None,
    background_index: int = 0,
) -> Tensor | UpsampledArgmax:
    """Enlarge class logits to the image size and name the best class of every pixel.

    Same labels as ``F.interpolate(logits, size, mode="bilinear", align_corners=False).argmax(1)`` (of every class's
    maximum over its rows), to the bit, without a tensor of all classes at full size.

    Args:
        logits: (B, N, h, w), any float dtype, one row per prompt name (or per class). NaN wins, as in ``argmax``.
        size: (H, W) of the label map in pixels, larger or smaller than (h, w).
        row_class: (N,) class of each row; a class's logit is the largest of its rows'. None: row n is class n.
        num_classes: K, checked against ``row_class``. None: one more than the largest class.
        return_score: also return the winning logit.
        return_margin: also return the distance to the best other class.
        return_probability: also return the winner's softmax probability, from the log-sum-exp at the enlarged pixel.
        logit_scale: multiplies the logits inside the softmax, > 0.
        softmax: what the probability is shared among: all "rows", or the "classes" after the maximum.
        threshold: pixels whose winner (background class included) has a smaller probability become background.
        background_index: the class of those pixels.

    Returns:
        (B, H, W) int64 label map; ties go to the lower class. An ``UpsampledArgmax`` when any extra was asked for.

    Raises:
        TypeError: if the logits are not floating point.
        ValueError: if a shape, a class index, the scale or the threshold does not fit.

    Example:
        >>> upsample_argmax(torch.tensor([[[[0.0, 1.0]], [[1.0, 0.0]]]]), (1, 4))
        tensor([[[1, 1, 0, 0]]])
    """
    _validate_logits(logits, size)
    classes, num_classes = resolve_row_class(row_class, num_classes, logits.shape[1], logits.device)
    _validate_scoring(logit_scale, softmax, threshold, background_index, num_classes)
    wanted = (return_score, return_margin, return_probability or threshold is not None)
    labels, score, margin, probability = _reduce(
        logits, (int(size[0]), int(size[1])), classes, logit_scale, softmax, wanted
    )
    if threshold is not None:
        labels[probability < threshold] = background_index
    if not (return_score or return_margin or return_probability):
        return labels
    return UpsampledArgmax(labels, score, margin, probability if return_probability else None)


def _reduce(
    logits: Tensor,
    size: tuple[int, int],
    classes: Tensor,
    logit_scale: float,
    softmax: str,
    wanted: tuple[bool, bool, bool],
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """Return labels, and score, margin and probability as far as they are wanted."""
    compiled = upsample_argmax_compiled(
        logits, size, classes, logit_scale=logit_scale, softmax_rows=softmax == "rows", wanted=wanted
    )
    if compiled is not None:
        return compiled[0], *[part if want else None for part, want in zip(compiled[1:], wanted, strict=True)]
    winners = upsample_argmax_eager(
        logits,
        size,
        classes,
        logit_scale=logit_scale,
        log_sum=softmax if wanted[2] else None,
        want_second=wanted[1],
    )
    return (
        torch.stack([image.labels for image in winners]),
        torch.stack([image.score for image in winners]) if wanted[0] else None,
        torch.stack([image.score - image.second for image in winners]) if wanted[1] else None,
        torch.stack([image.probability(logit_scale) for image in winners]) if wanted[2] else None,
    )


def resolve_row_class(
    row_class: Sequence[int] | Tensor | None, num_classes: int | None, num_rows: int, device: torch.device | str
) -> tuple[Tensor, int]:
    """Check which class every row belongs to.

    Args:
        row_class: (N,) class of each row, or None for row n being class n.
        num_classes: K, or None for one more than the largest class.
        num_rows: N, the number of rows in the logits.
        device: where the answer goes.

    Returns:
        (N,) int64 classes, and K.

    Raises:
        ValueError: if lengths differ, or an index is outside [0, K).
    """
    if row_class is None:
        classes = torch.arange(num_rows, device=device)
    else:
        classes = torch.as_tensor(row_class, dtype=torch.int64, device=device)
    if classes.shape != (num_rows,):
        raise ValueError(
            f"row_class must give one class for each of the {num_rows} rows of logits, but has shape "
            f"{tuple(classes.shape)}. Rebuild the text embeddings with the same vocabulary."
        )
    largest = int(classes.max())
    num_classes = largest + 1 if num_classes is None else num_classes
    if int(classes.min()) < 0 or largest >= num_classes:
        raise ValueError(
            f"row classes must lie between 0 and {num_classes - 1} for {num_classes} classes, but range from "
            f"{int(classes.min())} to {largest}."
        )
    return classes, num_classes


def _validate_logits(logits: Tensor, size: Sequence[int]) -> None:
    if not logits.is_floating_point():
        raise TypeError(f"logits must be floating point, but got {logits.dtype}.")
    if logits.ndim != 4 or 0 in logits.shape:
        raise ValueError(f"logits must be (B, N, h, w) with no empty axis, but got shape {tuple(logits.shape)}.")
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"size must be (H, W), at least one pixel each, but got {tuple(size)}.")


def _validate_scoring(
    logit_scale: float, softmax: str, threshold: float | None, background_index: int, num_classes: int
) -> None:
    if not logit_scale > 0:
        raise ValueError(f"logit_scale must be positive, but got {logit_scale}.")
    if softmax not in ("rows", "classes"):
        raise ValueError(f'softmax must be "rows" or "classes", but got {softmax!r}.')
    if threshold is None:
        return
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold is a probability between 0 and 1, but got {threshold}.")
    if not 0 <= background_index < num_classes:
        raise ValueError(f"background_index must be one of the {num_classes} classes, but got {background_index}.")
