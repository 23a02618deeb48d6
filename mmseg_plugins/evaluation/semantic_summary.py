"""From pixel counts to figures: IoU, accuracy, Dice, F-score, and their means under a stated rule."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmseg_plugins.evaluation.rules import ABSENT_RULES, METRIC_GROUPS, AbsentRule
from mmseg_plugins.evaluation.semantic import SemanticAreas


@dataclass(frozen=True)
class SemanticSummary:
    """Figures of a whole data set, as fractions, unrounded.

    Attributes:
        absent: the rule of the means, a key of `ABSENT_RULES`; ``"nan_to_num"`` where undefined values were replaced.
        num_classes: K.
        classes_in_mean: how many classes the mean IoU is taken over.
        figures: aAcc, fwIoU and the means, by name; NaN where nothing is defined.
        per_class: figure name -> (K,) float64, NaN where undefined.
    """

    absent: str
    num_classes: int
    classes_in_mean: int
    figures: dict[str, float]
    per_class: dict[str, NDArray[np.float64]]

    @property
    def rule(self) -> str:
        """One sentence that must go with the mean wherever it is printed."""
        meaning = ABSENT_RULES.get(self.absent, "every class counts, undefined values replaced by nan_to_num")
        mean = f"m{next(iter(self.per_class))}"
        return f"{mean} over {self.classes_in_mean} of {self.num_classes} classes, absent={self.absent!r}: {meaning}"

    @property
    def sceneparsing_score(self) -> float:
        """CSAIL's final score, (pixel accuracy + mean IoU over all classes) / 2.

        Raises:
            ValueError: under another rule than ``"zero"``, where the mean is not CSAIL's.
        """
        if self.absent != "zero":
            raise ValueError(
                f"the sceneparsing score needs the rule absent='zero', these figures have {self.absent!r}."
            )
        return (self.figures["aAcc"] + self.figures["mIoU"]) / 2


def summarize_semantic(
    areas: SemanticAreas,
    *,
    absent: AbsentRule = "error",
    metrics: Sequence[str] = ("mIoU",),
    beta: float = 1.0,
    nan_to_num: float | None = None,
    seen: Sequence[int] | None = None,
    unseen: Sequence[int] | None = None,
) -> SemanticSummary:
    """Compute all figures from pixel counts.

    Args:
        areas: counts over the whole data set.
        absent: which classes the means are taken over, see `ABSENT_RULES`. Published evaluators differ in it.
        metrics: groups of figures, keys of `METRIC_GROUPS`.
        beta: weight of recall in the F-score.
        nan_to_num: mmseg's option: replace undefined values by this number and take the mean over all classes.
        seen: class indices of the seen group of hIoU; None takes all that are not unseen.
        unseen: class indices of the unseen group; None gives no hIoU.

    Raises:
        ValueError: for an unknown rule or metric, a class index out of range or in both groups, or ``nan_to_num``
            together with another rule than ``"error"``.
    """
    _summarize_semantic_validate(absent, metrics, nan_to_num)
    present = areas.labelled.cpu().numpy() > 0
    per_class = _per_class(areas, metrics, beta)
    if nan_to_num is not None:
        per_class = {name: np.nan_to_num(values, nan=nan_to_num) for name, values in per_class.items()}
    counted = {name: _in_mean(values, present, absent) for name, values in per_class.items()}
    defined = {name: np.nan_to_num(values, nan=0.0) for name, values in per_class.items()}

    figures = {"aAcc": _ratio(areas.true_positive.sum().item(), areas.labelled.sum().item())}
    figures |= {f"m{name}": _mean(defined[name], counted[name]) for name in per_class}
    iou = _iou(areas)
    figures["fwIoU"] = _frequency_weighted(iou, areas)
    if unseen is not None:
        figures |= _harmonic(defined.get("IoU", iou), counted.get("IoU", ~np.isnan(iou)), seen, unseen)
    in_mean = counted.get("IoU", next(iter(counted.values())))
    rule = absent if nan_to_num is None else "nan_to_num"
    return SemanticSummary(rule, areas.num_classes, int(in_mean.sum()), figures, per_class)


def _summarize_semantic_validate(absent: str, metrics: Sequence[str], nan_to_num: float | None) -> None:
    if absent not in ABSENT_RULES:
        raise ValueError(f"unknown rule absent={absent!r}, expected one of: {', '.join(ABSENT_RULES)}.")
    unknown = [name for name in metrics if name not in METRIC_GROUPS]
    if unknown or not metrics:
        raise ValueError(f"metrics must be some of {', '.join(METRIC_GROUPS)}, got {list(metrics)}.")
    if nan_to_num is not None and absent != "error":
        raise ValueError(
            f"nan_to_num={nan_to_num} replaces undefined values and so fixes the mean to all classes; "
            f"it cannot be combined with absent={absent!r}. Drop one of the two."
        )


def _divide(numerator: NDArray, denominator: NDArray) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore", divide="ignore"):
        return numerator.astype(np.float64) / denominator.astype(np.float64)


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else float("nan")


def _iou(areas: SemanticAreas) -> NDArray[np.float64]:
    return _divide(areas.true_positive.cpu().numpy(), areas.union.cpu().numpy())


def _per_class(areas: SemanticAreas, metrics: Sequence[str], beta: float) -> dict[str, NDArray[np.float64]]:
    true_positive, predicted, labelled = (
        counts.cpu().numpy() for counts in (areas.true_positive, areas.predicted, areas.labelled)
    )
    precision, recall = _divide(true_positive, predicted), _divide(true_positive, labelled)
    figures = {
        "IoU": _iou(areas),
        "Acc": recall,
        "Dice": _divide(2 * true_positive, predicted + labelled),
        "Fscore": _divide((1 + beta**2) * precision * recall, beta**2 * precision + recall),
        "Precision": precision,
        "Recall": recall,
    }
    wanted = dict.fromkeys(name for group in metrics for name in METRIC_GROUPS[group])
    return {name: figures[name] for name in wanted}


def _in_mean(values: NDArray, present: NDArray, absent: str) -> NDArray[np.bool_]:
    if absent == "zero":
        return np.ones_like(present)
    defined = ~np.isnan(values)
    return defined & present if absent == "skip" else defined


def _mean(values: NDArray, counted: NDArray) -> float:
    return float(values[counted].mean()) if counted.any() else float("nan")


def _frequency_weighted(iou: NDArray, areas: SemanticAreas) -> float:
    labelled = areas.labelled.cpu().numpy()
    present = labelled > 0
    return _ratio(float((labelled[present] * iou[present]).sum()), float(labelled.sum()))


def _harmonic(iou: NDArray, counted: NDArray, seen: Sequence[int] | None, unseen: Sequence[int]) -> dict[str, float]:
    unseen_group = _group(unseen, len(iou), "unseen")
    seen_group = ~unseen_group if seen is None else _group(seen, len(iou), "seen")
    both = np.flatnonzero(seen_group & unseen_group)
    if both.size:
        raise ValueError(f"classes {both.tolist()} are listed both as seen and as unseen.")
    s, u = _mean(iou, counted & seen_group), _mean(iou, counted & unseen_group)
    harmonic = 0.0 if s + u == 0 else 2 * s * u / (s + u)
    return {"mIoU_seen": s, "mIoU_unseen": u, "hIoU": harmonic}


def _group(indices: Sequence[int], num_classes: int, name: str) -> NDArray[np.bool_]:
    wrong = [index for index in indices if not 0 <= index < num_classes]
    if wrong:
        raise ValueError(f"{name} class indices {wrong} are outside 0..{num_classes - 1}.")
    group = np.zeros(num_classes, dtype=bool)
    group[list(indices)] = True
    return group
