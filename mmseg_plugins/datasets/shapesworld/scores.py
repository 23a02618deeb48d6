"""Scores of a model on ShapesWorld, with the controls that say what they are worth.

Everything is counted over all pixels of all scenes: one confusion table per label set, IoU per class, then the mean.
"""

import numpy as np

from mmseg_plugins.datasets.shapesworld.world import (
    COLOURS,
    HELD_OUT_PAIRS,
    NO_LABEL,
    PAIRS,
    TEXTURES,
    coarsen,
    held_out_classes,
    num_object_classes,
    object_class,
)

_NUM_OBJECTS = num_object_classes(38)
_UNSEEN = list(held_out_classes(38))
_SEEN = [label for label in range(_NUM_OBJECTS) if label not in _UNSEEN]
_GROUNDS = list(range(_NUM_OBJECTS, 38))


def confusion_table(truth: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Count pixels by true (row) and predicted (column) class.

    Args:
        truth: integers, any shape; values outside [0, num_classes) are ignored.
        predicted: integers in [0, num_classes), same shape.
        num_classes: K.

    Returns:
        (K, K) int64.
    """
    truth, predicted = truth.ravel().astype(np.int64), predicted.ravel().astype(np.int64)
    keep = (truth >= 0) & (truth < num_classes)
    flat = truth[keep] * num_classes + predicted[keep]
    return np.bincount(flat, minlength=num_classes**2).reshape(num_classes, num_classes)


def count_answers(tables: dict[str, np.ndarray], labels: np.ndarray, logits: dict[str, np.ndarray]) -> None:
    """Add the answers on some scenes to the tables that ``pair_scores`` reads, in place.

    Args:
        tables: filled so far; empty at the start.
        labels: (B, H, W) true labels of the 38 classes.
        logits: "38", "14" and "10": (B, K, H, W), the classes' scores in the order of ``world.class_names(K)``.
    """
    objects = np.where(labels < _NUM_OBJECTS, labels, NO_LABEL)
    allowed = np.array(_UNSEEN + _GROUNDS)
    colour, texture = logits["14"][:, : len(COLOURS)].argmax(1), logits["10"][:, : len(TEXTURES)].argmax(1)
    answers = {
        "38": (labels, logits["38"].argmax(1), 38),
        "14": (coarsen(labels, 14), logits["14"].argmax(1), 14),
        "10": (coarsen(labels, 10), logits["10"].argmax(1), 10),
        "unseen14": (
            np.where(np.isin(labels, allowed), labels, NO_LABEL),
            allowed[logits["38"][:, allowed].argmax(1)],
            38,
        ),
        "objects": (objects, logits["38"][:, :_NUM_OBJECTS].argmax(1), _NUM_OBJECTS),
        "separate": (objects, colour * len(TEXTURES) + texture, _NUM_OBJECTS),
    }
    for name, (truth, predicted, classes) in answers.items():
        tables[name] = tables.get(name, 0) + confusion_table(truth, predicted, classes)


def class_iou(table: np.ndarray) -> np.ndarray:
    """Return the IoU of each class in percent, (K,) float64; nan where a class is neither present nor predicted."""
    hit = np.diagonal(table).astype(np.float64)
    union = table.sum(0) + table.sum(1) - hit
    with np.errstate(invalid="ignore", divide="ignore"):
        return 100 * hit / union


def _mean_iou(table: np.ndarray, classes: list[int] | None = None) -> float:
    iou = class_iou(table)
    return float(np.nanmean(iou if classes is None else iou[classes]))


def _fold(table: np.ndarray, attribute: np.ndarray) -> float:
    """Share of a (32, 32) table's pixels whose attribute is right, in percent."""
    right = table[attribute[:, None] == attribute[None, :]].sum()
    return float(100 * right / max(table.sum(), 1))


_PAIR_COLOUR = np.array([colour for colour, _ in PAIRS])
_PAIR_TEXTURE = np.array([texture for _, texture in PAIRS])


def pair_scores(tables: dict[str, np.ndarray]) -> dict[str, float]:
    """Compute every score from the confusion tables of one model.

    Args:
        tables: from ``count_answers``. "38", "14", "10": all pixels, all classes of the granularity competing.
            "unseen14": unseen-pair and ground pixels, only those 14 classes competing, (38, 38). "objects": object
            pixels, the 32 pairs competing. "separate": object pixels, named by the best colour and the best texture.

    Returns:
        name -> percent.
    """
    table = tables["38"]
    objects, grounds = table[:_NUM_OBJECTS], table[_NUM_OBJECTS:]
    scores = {
        "miou_38": _mean_iou(table),
        "miou_grounds": _mean_iou(table, _GROUNDS),
        "miou_seen_pairs": _mean_iou(table, _SEEN),
        "miou_unseen_pairs": _mean_iou(table, _UNSEEN),
        "miou_14": _mean_iou(tables["14"]),
        "miou_10": _mean_iou(tables["10"]),
        "miou_unseen_and_grounds_only": _mean_iou(tables["unseen14"], _UNSEEN + _GROUNDS),
        "objects_called_ground": float(100 * objects[:, _NUM_OBJECTS:].sum() / max(objects.sum(), 1)),
        "grounds_called_object": float(100 * grounds[:, :_NUM_OBJECTS].sum() / max(grounds.sum(), 1)),
    }
    for prompts, name in (("pair", "objects"), ("separate", "separate")):
        for group, classes in (("seen", _SEEN), ("unseen", _UNSEEN)):
            part = np.zeros_like(tables[name])
            part[classes] = tables[name][classes]
            scores[f"{prompts}_{group}_colour"] = _fold(part, _PAIR_COLOUR)
            scores[f"{prompts}_{group}_texture"] = _fold(part, _PAIR_TEXTURE)
            scores[f"{prompts}_{group}_both"] = _fold(part, np.arange(_NUM_OBJECTS))
    return scores


def held_out_both(tables: dict[str, np.ndarray]) -> dict[str, float]:
    """Return, for each held-out pair, how many of its pixels get both attributes right, in percent."""
    table, result = tables["objects"], {}
    for colour, texture in HELD_OUT_PAIRS:
        label = object_class(colour, texture, 38)
        share = 100 * table[label, label] / max(table[label].sum(), 1)
        result[f"{COLOURS[colour]} {TEXTURES[texture]}"] = float(share)
    return result


def control_scores(tables: dict[str, np.ndarray]) -> dict[str, float]:
    """Compute what guessers reach on the same scenes.

    Returns:
        ``most_frequent_K``: mIoU of answering the most frequent class everywhere; ``colour_guesser_unseen``: mIoU on
        the unseen pairs of one who knows every place and colour and guesses the texture evenly;
        ``seen_pair_guesser_unseen``: of one who guesses among the pairs that it has seen (always 0);
        ``independent_texture_seen``: texture accuracy on seen pairs if the answers were independent of the true
        texture within each colour.
    """
    result = {f"most_frequent_{name}": _constant_iou(tables[name]) for name in ("38", "14", "10")}
    counts = tables["38"].sum(1)[:_NUM_OBJECTS].astype(np.float64)
    ious = []
    for colour, texture in HELD_OUT_PAIRS:
        own = counts[object_class(colour, texture, 38)]
        guessed = counts[colour == _PAIR_COLOUR].sum() / 4
        ious.append(100 * (own / 4) / max(own + guessed - own / 4, 1))
    result["colour_guesser_unseen"] = float(np.mean(ious))
    result["seen_pair_guesser_unseen"] = 0.0
    result["independent_texture_seen"] = _independent_texture(tables["objects"])
    return result


def _constant_iou(table: np.ndarray) -> float:
    counts = table.sum(1)
    return float(100 * counts.max() / max(counts.sum(), 1) / max((counts > 0).sum(), 1))


def _independent_texture(table: np.ndarray) -> float:
    """Expected texture accuracy on seen pairs when true and answered texture are independent within each colour."""
    right = total = 0.0
    for colour in range(len(COLOURS)):
        rows = [label for label in _SEEN if _PAIR_COLOUR[label] == colour]
        pixels = table[rows].sum()
        answered = np.array([table[rows][:, t == _PAIR_TEXTURE].sum() for t in range(len(TEXTURES))]) / max(pixels, 1)
        for label in rows:
            right += table[label].sum() * answered[_PAIR_TEXTURE[label]]
        total += pixels
    return float(100 * right / max(total, 1))
