"""From a network's small logits to label maps at the original image size, never holding K x H x W.

B batch, N prompt rows, K classes, H W network input, H0 W0 original image (``ori_shape``), h w logits.

Every step between the small logits and the label (enlarging, averaging windows, removing padding, the second resize)
treats each row for itself. So a few rows at a time go through all of them at full size, update a running maximum
(and log-sum-exp) and are dropped.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from mmseg_plugins.ops._row_reduction import RowOrder, enlarge_some, reduce_rows, rows_per_step
from mmseg_plugins.ops.label_map import resolve_row_class, upsample_argmax
from mmseg_plugins.prediction.route import Refine, Route
from mmseg_plugins.prediction.windows import Box, RowLogits, Windows, padded_network, run_windows, window_grid


@dataclass(frozen=True)
class Scoring:
    """How logits decide the label, and when a pixel is background.

    Args:
        logit_scale: multiplies the logits before the softmax of probabilities (1 leaves them).
        softmax: "rows" = softmax over all prompt rows, a class has its best row's probability (SCLIP family);
            "classes" = maximum over a class's rows first, then softmax over classes (FC-CLIP family);
            "none" = the scores are probabilities already (CLIP-DINOiser), a class has its best row's.
            Only probabilities and the background rules depend on it.
        threshold: pixels whose winning class (background class included) has a lower probability become background.
        area_threshold: share of the foreground pixels that a class must exceed to stay (SCLIP's ``area_thd``, on the
            labels before ``threshold``); the pixels of the others go to their next best class.
        background_index: the class that is background for both rules.

    Raises:
        ValueError: if a threshold is outside [0, 1], or logit_scale is not positive.
    """

    logit_scale: float = 1.0
    softmax: Literal["rows", "classes", "none"] = "rows"
    threshold: float | None = None
    area_threshold: float | None = None
    background_index: int = 0

    def __post_init__(self) -> None:
        for name in ("threshold", "area_threshold"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"expected {name} between 0 and 1, or None for no such rule, but got {value}.")
        if self.softmax not in ("rows", "classes", "none"):
            raise ValueError(f'expected softmax to be "rows", "classes" or "none", but got {self.softmax!r}.')
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
    shapes = _per_image(ori_shape, len(image), "ori_shape")
    paddings = _per_image(padding, len(image), "padding")
    flips = _per_image(flip, len(image), "flip")
    size = tuple(image.shape[-2:])
    multiple = windows.pad_multiple if windows else None
    boxes = window_grid(size, windows.crop, windows.stride) if windows else [Box(0, 0, *size)]
    batch_size = windows.batch_size if windows else len(image)
    logits = run_windows(padded_network(network, multiple), image, boxes, batch_size=batch_size)
    classes, num_classes = resolve_row_class(row_class, num_classes, logits.shape[2], logits.device)
    maps = []
    for index in range(len(image)):
        route = Route(
            size,
            ori_shape=shapes[index],
            padding=paddings[index],
            flip=flips[index],
            boxes=boxes if windows else None,
            pad_multiple=multiple,
            is_direct=resize_order == "direct",
            refine=refine,
        )
        rows = logits[:, index].transpose(0, 1) if windows else logits[0, index]
        maps.append(_name_pixels(rows, route, classes, num_classes, scoring, return_probability, return_logits))
    return maps


def _per_image(value: Any, count: int, name: str) -> list:
    """Spread an option over the images of a batch."""
    if value is None or (name == "ori_shape" and isinstance(value[0], int)):
        return [value] * count
    if len(value) != count:
        raise ValueError(f"expected one {name} for each of the {count} images, but got {len(value)}.")
    return list(value)


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
    route = Route(
        input_size, ori_shape=ori_shape, padding=padding, flip=flip, is_direct=resize_order == "direct", refine=refine
    )
    classes, num_classes = resolve_row_class(row_class, num_classes, len(logits), logits.device)
    return _name_pixels(logits, route, classes, num_classes, scoring, return_probability, return_logits)


def _name_pixels(
    rows: Tensor,
    route: Route,
    row_class: Tensor,
    num_classes: int,
    scoring: Scoring,
    return_probability: bool,
    return_logits: bool,
) -> LabelMap:
    """Go from the logits of one image to its label map."""
    _check_background(scoring, num_classes)
    wants_probability = return_probability or scoring.threshold is not None
    if route.is_single_resize and scoring.area_threshold is None:
        labels, probability = _single_resize(rows, route, row_class, scoring, wants_probability)
    else:
        labels, probability = _reduce(rows, route, row_class, num_classes, scoring, wants_probability)
    if scoring.threshold is not None:
        labels = labels.masked_fill(probability < scoring.threshold, scoring.background_index)
    logits = class_logits(rows, route, row_class, num_classes) * scoring.logit_scale if return_logits else None
    return LabelMap(labels, probability if return_probability else None, logits)


def _check_background(scoring: Scoring, num_classes: int) -> None:
    has_rule = scoring.threshold is not None or scoring.area_threshold is not None
    if has_rule and not 0 <= scoring.background_index < num_classes:
        raise ValueError(
            f"the background rules need a background class among the {num_classes} classes, but background_index is "
            f"{scoring.background_index}. Give the vocabulary a background, or switch the rules off."
        )


def _single_resize(
    rows: Tensor, route: Route, row_class: Tensor, scoring: Scoring, wants_probability: bool
) -> tuple[Tensor, Tensor | None]:
    """Leave everything to the op."""
    result = upsample_argmax(
        rows[None],
        route.output_size,
        row_class=row_class,
        return_score=True,
        return_probability=wants_probability and scoring.softmax != "none",
        logit_scale=scoring.logit_scale,
        softmax="rows" if scoring.softmax == "none" else scoring.softmax,
    )
    if not wants_probability:
        return result.labels[0], None
    probability = result.score.float() if scoring.softmax == "none" else result.probability
    return result.labels[0], probability[0]


def _reduce(
    rows: Tensor, route: Route, row_class: Tensor, num_classes: int, scoring: Scoring, wants_probability: bool
) -> tuple[Tensor, Tensor | None]:
    """Take a few rows at a time through the whole route; the area rule goes through the rest of the classes again."""
    order = RowOrder.of(row_class)
    pixels = max(route.most_pixels, rows[0].numel())
    log_sum = scoring.softmax if wants_probability and scoring.softmax != "none" else None
    winners = reduce_rows(
        rows, route.enlarger(rows), order, pixels=pixels, logit_scale=scoring.logit_scale, log_sum=log_sum
    )
    if scoring.area_threshold is not None:
        keep = _large_classes(winners.labels, num_classes, scoring)
        log_sum_all, order = winners.log_sum, order.only(keep[row_class])
        if not len(order.classes):
            labels = torch.full_like(winners.labels, scoring.background_index)
            return labels, torch.zeros_like(labels, dtype=torch.float32) if wants_probability else None
        if len(order.classes) < len(rows):
            winners = reduce_rows(rows, route.enlarger(rows), order, pixels=pixels)
            winners.log_sum = log_sum_all
    if not wants_probability:
        return winners.labels, None
    return winners.labels, winners.score.float() if log_sum is None else winners.probability(scoring.logit_scale)


def _large_classes(labels: Tensor, num_classes: int, scoring: Scoring) -> Tensor:
    """(K,) bool: the background, and the classes with more than their share of the foreground."""
    counts = torch.bincount(labels.flatten(), minlength=num_classes)
    counts[scoring.background_index] = 0
    keep = counts > scoring.area_threshold * counts.sum()
    keep[scoring.background_index] = True
    return keep


def class_logits(rows: Tensor, route: Route, row_class: Tensor, num_classes: int) -> Tensor:
    """Bring all logits to full size, the one thing here that holds K x H0 x W0.

    Args:
        rows: (N, ...) logits at low resolution.
        route: how they come to full size.
        row_class: (N,) long.
        num_classes: K.

    Returns:
        (K, H0, W0) maximum over the rows of each class; -inf for a class without rows.
    """
    enlarge, step = route.enlarger(rows), rows_per_step(route.most_pixels, rows)
    full = rows.new_full((num_classes, *route.output_size), float("-inf"), dtype=torch.float32)
    for start in range(0, len(rows), step):
        part = enlarge_some(rows[start : start + step], enlarge, len(rows)).float()
        for row, index in zip(part, row_class[start : start + step].tolist(), strict=True):
            torch.maximum(full[index], row, out=full[index])
    return full
