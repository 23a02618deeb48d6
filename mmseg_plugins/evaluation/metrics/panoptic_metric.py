"""Panoptic quality as an mmseg metric."""

from typing import Any

import torch
from mmengine.logging import print_log
from mmseg.registry import METRICS
from prettytable import PrettyTable
from torch import Tensor

from mmseg_plugins.evaluation.boundary import DILATION_RATIO
from mmseg_plugins.evaluation.metrics.totals import TotalsMetric, plane, sample_name
from mmseg_plugins.evaluation.panoptic import PanopticCounts, Segments, panoptic_counts
from mmseg_plugins.evaluation.panoptic_files import PanopticFile, read_panoptic_json
from mmseg_plugins.evaluation.panoptic_summary import PanopticSummary, summarize_panoptic

_SUFFIXES = {"All": "", "Things": "_th", "Stuff": "_st"}


@METRICS.register_module()
class PanopticQualityMetric(TotalsMetric):
    """PQ, SQ and RQ over all categories, things and stuff.

    Samples carry ``pred_panoptic_seg`` with ``data`` ((1, H, W) segment ids, 0 is void) and ``segments_info`` (``id``
    and ``category_id``, a class index); the ground truth is ``gt_panoptic_seg`` of the same form (``label``,
    ``is_crowd``, ``area``), as ``PackSegments`` makes it, or is read from the panoptic JSON. ``dataset_meta`` has
    ``classes`` and ``isthing``, and ``dataset_ids`` for reading the JSON.

    Args:
        ann_file: panoptic JSON of the ground truth; None takes ``gt_panoptic_seg``.
        seg_prefix: folder of its PNGs; None takes the one beside the JSON.
        boundary: also compute Boundary PQ (matching on the minimum of mask and boundary IoU).
        dilation_ratio: width of the boundary band as a share of the image diagonal.
        isthing: flags in the order of the classes; None takes ``dataset_meta['isthing']``.
        **options: of :class:`~mmseg_plugins.evaluation.metrics.totals.TotalsMetric`: where to save predictions, prefix.

    Returns of ``evaluate``: ``PQ``, ``SQ``, ``RQ``, with ``_th`` and ``_st`` for things and stuff, in percent,
    unrounded; ``PQ_classes`` counts the categories in the mean; with ``boundary`` the same with ``boundary_`` in front.
    """

    summary: PanopticSummary | None = None
    boundary_summary: PanopticSummary | None = None

    def __init__(
        self,
        *,
        ann_file: str | None = None,
        seg_prefix: str | None = None,
        boundary: bool = False,
        dilation_ratio: float = DILATION_RATIO,
        isthing: list[bool] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.ann_file = ann_file
        self.seg_prefix = seg_prefix
        self.ratios = (None, dilation_ratio) if boundary else (None,)
        self.isthing = isthing
        self._file: PanopticFile | None = None

    def empty(self) -> Tensor:
        """Return the counts of no sample: (1 or 2, K, 5), for masks and for boundaries."""
        return torch.stack([PanopticCounts.zeros(self.num_classes).counts for _ in self.ratios])

    def count(self, sample: dict[str, Any]) -> Tensor:
        """Match the segments of one sample.

        Raises:
            ValueError: naming the file, if map and list of segments disagree or sizes differ.
            KeyError: if the JSON does not list the image.
        """
        predicted = sample["pred_panoptic_seg"]
        try:
            label, labelled_segments = self._ground_truth(sample)
            predicted_segments = Segments.from_info(predicted["segments_info"])
            self._check_classes(predicted_segments)
            counts = [
                panoptic_counts(
                    plane(predicted["data"]),
                    predicted_segments,
                    label,
                    labelled_segments,
                    self.num_classes,
                    boundary_ratio=ratio,
                ).counts
                for ratio in self.ratios
            ]
        except ValueError as error:
            raise ValueError(f"{sample_name(sample)}: {error}") from error
        return torch.stack(counts)

    def _check_classes(self, segments: Segments) -> None:
        wrong = segments.categories[(segments.categories < 0) | (segments.categories >= self.num_classes)]
        if wrong.size:
            raise ValueError(
                f"predicted segments have classes {sorted(set(wrong.tolist()))} but there are {self.num_classes}. "
                "In samples category_id is the class index, not the benchmark's category id."
            )

    def _ground_truth(self, sample: dict[str, Any]) -> tuple[Tensor, Segments]:
        if self.ann_file is None:
            given = sample.get("gt_panoptic_seg")
            if given is None:
                raise ValueError("the sample has no gt_panoptic_seg. Load it in the pipeline or give ann_file.")
            return plane(given["data"]), Segments.from_info(given["segments_info"])
        if self._file is None:
            self._file = read_panoptic_json(self.ann_file, self.seg_prefix)
        ids = self.dataset_meta.get("dataset_ids", range(self.num_classes))
        image_id = sample["img_id"]
        if image_id not in self._file.images:
            raise ValueError(f"{self.ann_file} does not list image {image_id!r}.")
        segments = self._file.read_segments(image_id, {category: index for index, category in enumerate(ids)})
        return torch.from_numpy(self._file.read_ids(image_id)), segments

    def report(self, totals: Tensor) -> dict[str, float]:
        """Log the table and return the figures."""
        things = self.dataset_meta.get("isthing") if self.isthing is None else self.isthing
        if things is None:
            raise ValueError(
                "PanopticQualityMetric needs dataset_meta['isthing'] or isthing=[...] for things and stuff."
            )
        summaries = [summarize_panoptic(PanopticCounts(counts), things) for counts in totals]
        self.summary, self.boundary_summary = summaries[0], summaries[1] if len(summaries) > 1 else None
        figures: dict[str, float] = {}
        for summary, kind in zip(summaries, ("", "boundary_"), strict=False):
            print_log(f"{kind}PQ, mean over the categories that occur:\n{_table(summary)}", logger="current")
            for group, average in summary.averages.items():
                figures |= {
                    f"{kind}{key.upper()}{_SUFFIXES[group]}": 100 * getattr(average, key) for key in ("pq", "sq", "rq")
                }
            figures[f"{kind}PQ_classes"] = summary.averages["All"].n
        return figures


def _table(summary: PanopticSummary) -> str:
    table = PrettyTable(["", "PQ", "SQ", "RQ", "categories"])
    for name, average in summary.averages.items():
        percent = (f"{100 * value:.2f}" for value in (average.pq, average.sq, average.rq))
        table.add_row([name, *percent, average.n])
    return table.get_string()
