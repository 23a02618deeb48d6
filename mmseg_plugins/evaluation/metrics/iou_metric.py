"""mIoU and its relatives as an mmseg metric."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.logging import print_log
from mmseg.registry import METRICS
from prettytable import PrettyTable
from torch import Tensor

from mmseg_plugins.evaluation.class_lists import class_indices
from mmseg_plugins.evaluation.metrics.totals import TotalsMetric, plane, sample_name
from mmseg_plugins.evaluation.rules import ABSENT_RULES, METRIC_GROUPS, AbsentRule
from mmseg_plugins.evaluation.semantic import SemanticAreas, semantic_areas
from mmseg_plugins.evaluation.semantic_summary import SemanticSummary, summarize_semantic

# On a GPU, looking at a count makes the host wait. Samples are checked in groups of this many.
_CHECK_EVERY = 64


@METRICS.register_module()
class OpenVocabularyIoUMetric(TotalsMetric):
    """mIoU, mAcc, aAcc, fwIoU, Dice, F-score and hIoU over a whole data set, counted exactly.

    Takes the arguments of mmseg's ``IoUMetric`` and gives its keys and its table; beyond them it counts in int64 on the
    device, keeps unrounded figures, works with 16-bit labels, and says over which classes a mean was taken.

    Args:
        ignore_index: label of pixels that do not count; 65535 for 16-bit label maps.
        iou_metrics: ``mIoU``, ``mDice``, ``mFscore``, one or a list.
        nan_to_num: replace undefined values of a class by this number, and average over all classes.
        beta: weight of recall in the F-score.
        absent: which classes a mean is taken over, see `mmseg_plugins.evaluation.rules.ABSENT_RULES`.
        unseen: names or indices of the unseen classes; adds ``hIoU``, ``mIoU_seen`` and ``mIoU_unseen``.
        seen: names or indices of the seen classes; None takes all others.
        fold_last: predictions beyond the last class count as the last class (PAS-20b, where it is background).
        strict: stop at labels that are neither a class nor the ignore value, and at predictions that are no class;
            False treats both as mmseg does.
        **options: of :class:`~mmseg_plugins.evaluation.metrics.totals.TotalsMetric`: where to save predictions, and a
            prefix of every key; without one ``save_best='mIoU'`` works as with ``IoUMetric``.

    Returns of ``evaluate``: percentages rounded to two decimals (``mIoU``, ``mAcc``, ``aAcc``, ``fwIoU``, …), the
    unrounded percentage ``mIoU_unrounded``, and ``mIoU_classes_absent_<rule>``, the number of classes in the mean.
    ``summary`` then holds all figures unrounded, per class too (on the main process).
    """

    summary: SemanticSummary | None = None

    def __init__(
        self,
        *,
        ignore_index: int = 255,
        iou_metrics: str | Sequence[str] = ("mIoU",),
        nan_to_num: float | None = None,
        beta: float = 1.0,
        absent: AbsentRule = "error",
        unseen: Sequence[int | str] | None = None,
        seen: Sequence[int | str] | None = None,
        fold_last: bool = False,
        strict: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.ignore_index = ignore_index
        self.metrics = [iou_metrics] if isinstance(iou_metrics, str) else list(iou_metrics)
        if absent not in ABSENT_RULES or not set(self.metrics) <= set(METRIC_GROUPS):
            raise ValueError(
                f"expected absent one of {list(ABSENT_RULES)} and iou_metrics from {list(METRIC_GROUPS)}, "
                f"got {absent!r} and {self.metrics}."
            )
        self.nan_to_num = nan_to_num
        self.beta = beta
        self.absent = absent
        self.unseen = unseen
        self.seen = seen
        self.fold_last = fold_last
        self.strict = strict

    def _reset(self) -> None:
        super()._reset()
        self._unchecked: list[tuple[str, Tensor]] = []

    def empty(self) -> Tensor:
        """Return the counts of no sample, (3, K + 1)."""
        return SemanticAreas.zeros(self.num_classes).counts

    def count(self, sample: dict[str, Any]) -> Tensor:
        """Count one sample's ``pred_sem_seg`` against its ``gt_sem_seg``.

        Raises:
            ValueError: naming the file, if the maps differ in size, or (``strict``) hold values that are no class.
        """
        if self.strict and 0 <= self.ignore_index < self.num_classes:
            raise ValueError(
                f"ignore_index={self.ignore_index} is one of the {self.num_classes} classes, which would not count. "
                "Set ignore_index=65535 for 16-bit label maps, or strict=False to leave that class out."
            )
        prediction = plane(sample["pred_sem_seg"]["data"])
        label = plane(sample["gt_sem_seg"]["data"])
        if self.fold_last:
            prediction = prediction.clamp(max=self.num_classes - 1)
        try:
            counts = semantic_areas(prediction, label, self.num_classes, ignore_index=self.ignore_index).counts
        except ValueError as error:
            raise ValueError(f"{sample_name(sample)}: {error}") from error
        if self.strict:
            self._check(sample_name(sample), prediction, counts[1:, -1])
        return counts

    def _check(self, name: str, prediction: Tensor, outside: Tensor) -> None:
        """Check a sample for values that are no class: at once on the CPU, in groups of samples on other devices."""
        if outside.device.type == "cpu" and not outside.any():
            return
        bounds = torch.stack(prediction.aminmax()).to(torch.int64)
        self._unchecked.append((name, torch.cat((outside, bounds))))
        if outside.device.type == "cpu" or len(self._unchecked) >= _CHECK_EVERY:
            self._check_values()

    def _check_values(self) -> None:
        if not self._unchecked:
            return
        names, counts = zip(*self._unchecked, strict=True)
        self._unchecked = []
        for name, (outside, foreign, lowest, highest) in zip(names, torch.stack(counts).tolist(), strict=True):
            if foreign:
                raise ValueError(
                    f"{name}: {foreign} pixels have labels that are neither one of the {self.num_classes} classes nor "
                    f"the ignore value {self.ignore_index}. Check the data set's label_rule and ignore_index."
                )
            wrong = [value for value in (lowest, highest) if not 0 <= value < self.num_classes]
            if outside and any(value != self.ignore_index for value in wrong):
                raise ValueError(
                    f"{name}: the prediction holds values {lowest}..{highest} but there are {self.num_classes} "
                    "classes. Check that model and data set have the same classes."
                )

    def evaluate(self, size: int) -> dict[str, float]:
        """See `TotalsMetric.evaluate`."""
        self._check_values()
        return super().evaluate(size)

    def report(self, totals: Tensor) -> dict[str, float]:
        """Log the per-class table and return the figures."""
        areas = SemanticAreas(totals)
        names = self.dataset_meta["classes"]
        self.summary = summary = summarize_semantic(
            areas,
            absent=self.absent,
            metrics=self.metrics,
            beta=self.beta,
            nan_to_num=self.nan_to_num,
            unseen=None if self.unseen is None else class_indices(self.unseen, names),
            seen=None if self.seen is None else class_indices(self.seen, names),
        )
        print_log("per class results:", logger="current")
        print_log("\n" + class_table(names, summary), logger="current")
        print_log(summary.rule, logger="current")
        if areas.unanswered:
            print_log(
                f"{areas.unanswered} counted pixels were predicted as no class; they are wrong.", logger="current"
            )
        figures = {key: round(100 * value, 2) for key, value in summary.figures.items()}
        if "mIoU" in summary.figures:
            figures["mIoU_unrounded"] = 100 * summary.figures["mIoU"]
        figures[f"mIoU_classes_absent_{summary.absent}"] = summary.classes_in_mean
        return figures


def class_table(names: Sequence[str], summary: SemanticSummary) -> str:
    """Return mmseg's table of figures per class, percentages with two decimals."""
    table = PrettyTable()
    table.add_column("Class", list(names))
    for figure, values in summary.per_class.items():
        table.add_column(figure, np.round(values * 100, 2))
    return table.get_string()
