"""From a network's small logits to label maps at the original image size, never holding K x H x W.

B batch, N prompt rows, K classes, H W network input, H0 W0 original image (``ori_shape``), h w logits.

Every step between the small logits and the label (enlarging, averaging windows, removing padding, the second resize)
treats each row for itself. So a few rows at a time go through all of them at full size, update a running maximum
(and log-sum-exp) and are dropped.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from mmseg_plugins.prediction.windows import RowLogits, Windows

Refine = Callable[[Tensor], Tensor]
"""A refinement that treats every row alike: (c, H0, W0) logits to the same shape (for example PAMR)."""


@dataclass(frozen=True)
class Scoring:
    """How logits decide the label, and when a pixel is background.

    Args:
        logit_scale: multiplies the logits before the softmax of probabilities (1 leaves them).
        softmax: "rows" = softmax over all prompt rows, a class has its best row's probability (SCLIP family);
            "classes" = maximum over a class's rows first, then softmax over classes (FC-CLIP family).
            Only probabilities and the background rules depend on it.
        threshold: pixels whose winning class (background class included) has a lower probability become background.
        area_threshold: share of the foreground pixels that a class must exceed to stay (SCLIP's ``area_thd``, on the
            labels before ``threshold``); the pixels of the others go to their next best class.
        background_index: the class that is background for both rules.

    Raises:
        ValueError: if a threshold is outside [0, 1], or logit_scale is not positive.
    """

    logit_scale: float = 1.0
    softmax: Literal["rows", "classes"] = "rows"
    threshold: float | None = None
    area_threshold: float | None = None
    background_index: int = 0

    def __post_init__(self) -> None:
        for name in ("threshold", "area_threshold"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"expected {name} between 0 and 1, or None for no such rule, but got {value}.")
        if self.softmax not in ("rows", "classes"):
            raise ValueError(f'expected softmax to be "rows" or "classes", but got {self.softmax!r}.')
        if not self.logit_scale > 0:
            raise ValueError(f"expected logit_scale to be positive, but got {self.logit_scale}.")


@dataclass
class LabelMap:
    """The answer for one image.

    Args:
        labels: (H0, W0) int64 class indices.
        probability: (H0, W0) float32 probability of the winner, where asked for or needed by a background rule.
        logits: (K, H0, W0) class logits times ``logit_scale``, only on request (``seg_logits``, augmentation at test).
    """

    labels: Tensor
    probability: Tensor | None = None
    logits: Tensor | None = None


def predict_label_map(
    network: RowLogits,
    image: Tensor,
    *,
    row_class: Sequence[int] | Tensor | None = None,
    num_classes: int | None = None,
    ori_shape: tuple[int, int] | Sequence[tuple[int, int]] | None = None,
    windows: Windows | None = None,
    padding: Sequence[tuple[int, int, int, int]] | None = None,
    flip: Sequence[str | None] | None = None,
    resize_order: Literal["mmseg", "direct"] = "mmseg",
    scoring: Scoring = Scoring(),
    refine: Refine | None = None,
    return_probability: bool = False,
    return_logits: bool = False,
) -> list[LabelMap]:
    """Run a network on a batch of images and name every pixel of the original images.

    Args:
        network: (b, 3, H, W) normalised images to (b, N, h, w) logits; called once on the whole batch, or on
            batches of windows.
        image: (B, 3, H, W) normalised.
        row_class: class of each of the N rows; None: row n is class n.
        num_classes: K; None: one more than the largest class in ``row_class``.
        ori_shape: (H0, W0) for all images, or one per image; None: the input size without padding.
        windows: sliding windows; None: the whole image at once.
        padding: per image (left, right, top, bottom) pixels that the data preprocessor added, mmseg's
            ``padding_size`` order; None: none.
        flip: per image "horizontal", "vertical" or None, undone before the resize to ``ori_shape``.
        resize_order: "mmseg" enlarges to the input size, removes padding, then resizes to ``ori_shape`` (two bilinear
            steps, as mmseg's numbers are made); "direct" enlarges once, and applies where there are neither windows
            nor padding.
        scoring: softmax, scale and background rules.
        refine: applied at ``ori_shape``, before scale and softmax, on a few rows at a time.
        return_probability: also return the winner's probability.
        return_logits: also return (K, H0, W0) logits; this does hold them.

    Returns:
        One ``LabelMap`` per image.

    Raises:
        ValueError: if shapes, lengths or class indices do not fit each other; the message names them.
    """
    raise NotImplementedError


def label_map_from_logits(
    logits: Tensor,
    *,
    input_size: tuple[int, int],
    row_class: Sequence[int] | Tensor | None = None,
    num_classes: int | None = None,
    ori_shape: tuple[int, int] | None = None,
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
    flip: str | None = None,
    resize_order: Literal["mmseg", "direct"] = "mmseg",
    scoring: Scoring = Scoring(),
    refine: Refine | None = None,
    return_probability: bool = False,
    return_logits: bool = False,
) -> LabelMap:
    """Name every pixel of one image from its logits (N, h, w) on the network's input of ``input_size``.

    The options are those of ``predict_label_map``, for a single image.
    """
    raise NotImplementedError
