"""Instance AP as an mmseg metric."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dist import is_main_process
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from mmseg.registry import METRICS
from prettytable import PrettyTable

from mmseg_plugins.evaluation.instance import InstanceSummary, evaluate_instances, require_pycocotools
from mmseg_plugins.evaluation.panoptic_files import read_json
from mmseg_plugins.evaluation.rle import encode_mask
from mmseg_plugins.evaluation.saving import PredictionSaver

_MAX_DETECTIONS = 100  # per image, as in COCO's evaluator


@METRICS.register_module()
class InstanceAPMetric(BaseMetric):
    """COCO's average precision of instance masks.

    Samples carry ``pred_instances`` (``masks`` (N, H, W), ``labels`` (N,) class indices, ``scores`` (N,)) and
    ``img_id``. Detections are kept as run-length encodings, at most 100 an image, and gathered by mmengine.

    Args:
        ann_file: COCO instance JSON of the ground truth, which gives the published figures; None takes the samples'
            ``gt_instances``, with pixel counts as areas.
        boundary: also compute boundary AP (matching on the minimum of mask and boundary IoU).
        output_dir: also save every prediction below this folder.
        keep_results: set by mmseg's tool together with ``output_dir``; what is saved is always kept.
        collect_device: where mmengine gathers the records, ``cpu`` or ``gpu``.
        prefix: put in front of every key.

    Returns of ``evaluate``: pycocotools' twelve figures (``AP``, ``AP50``, …) in percent, unrounded, -1 where the
    ground truth has nothing in the range; with ``boundary`` the same with ``boundary_`` in front.
    """

    summary: InstanceSummary | None = None
    boundary_summary: InstanceSummary | None = None

    def __init__(
        self,
        *,
        ann_file: str | None = None,
        boundary: bool = False,
        output_dir: str | None = None,
        keep_results: bool = True,
        collect_device: str = "cpu",
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        require_pycocotools()
        self.ann_file = ann_file
        self.boundary = boundary
        self.output_dir = output_dir
        self.keep_results = keep_results
        self._saver: PredictionSaver | None = None

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Record the detections (and, without a JSON, the ground truth) of a batch."""
        for sample in data_samples:
            record: dict[str, Any] = {"image_id": _image_id(sample), "results": self._results(sample)}
            if self.ann_file is None:
                record["annotations"] = self._annotations(sample)
                record["size"] = tuple(sample["ori_shape"][:2])
            self.results.append(record)
            if self.output_dir is not None:
                self._save(sample)

    def _save(self, sample: dict[str, Any]) -> None:
        if self._saver is None:
            self._saver = PredictionSaver(self.output_dir, dataset_meta=self.dataset_meta)
        self._saver.save(sample)

    def evaluate(self, size: int) -> dict[str, float]:
        """Compute the figures, after joining what was saved.

        Args:
            size: number of samples in the data set.
        """
        figures = super().evaluate(size)
        if self._saver is not None and is_main_process():
            self._saver.finish(size)
        self._saver = None
        return figures

    def _category_ids(self) -> Sequence[int]:
        return self.dataset_meta.get("dataset_ids") or range(len(self.dataset_meta["classes"]))

    def _results(self, sample: dict[str, Any]) -> list[dict[str, Any]]:
        found, ids = sample["pred_instances"], self._category_ids()
        scores = np.asarray(found["scores"].detach().cpu(), dtype=np.float64)
        best = np.argsort(-scores, kind="mergesort")[:_MAX_DETECTIONS]
        masks = _masks(found["masks"][best.tolist()] if hasattr(found["masks"], "cpu") else found["masks"][best])
        labels = np.asarray(found["labels"].detach().cpu())[best]
        return [
            {"category_id": int(ids[label]), "segmentation": encode_mask(mask), "score": float(score)}
            for mask, label, score in zip(masks, labels, scores[best], strict=True)
        ]

    def _annotations(self, sample: dict[str, Any]) -> list[dict[str, Any]]:
        given, ids = sample["gt_instances"], self._category_ids()
        masks, labels = _masks(given["masks"]), np.asarray(given["labels"].cpu())
        crowd = np.asarray(given["is_crowd"].cpu()) if "is_crowd" in given else np.zeros(len(labels), dtype=bool)
        return [
            {
                "category_id": int(ids[label]),
                "segmentation": encode_mask(mask),
                "area": int(mask.sum()),
                "iscrowd": int(is_crowd),
            }
            for mask, label, is_crowd in zip(masks, labels, crowd, strict=True)
        ]

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Run COCO's evaluator on the gathered records.

        Raises:
            ValueError: if a detection does not fit the ground truth.
        """
        ground_truth = self._gathered_ground_truth(results) if self.ann_file is None else read_json(self.ann_file)
        detections = [{"image_id": record["image_id"], **entry} for record in results for entry in record["results"]]
        self.summary = evaluate_instances(ground_truth, detections)
        figures = self._report(self.summary, "")
        if self.boundary:
            self.boundary_summary = evaluate_instances(ground_truth, detections, boundary=True)
            figures |= self._report(self.boundary_summary, "boundary_")
        return figures

    def _gathered_ground_truth(self, results: list) -> dict[str, Any]:
        ids = self._category_ids()
        return {
            "images": [
                {"id": record["image_id"], "height": record["size"][0], "width": record["size"][1]}
                for record in results
            ],
            "categories": [{"id": int(ids[index])} for index in range(len(self.dataset_meta["classes"]))],
            "annotations": [
                {"image_id": record["image_id"], **entry} for record in results for entry in record["annotations"]
            ],
        }

    def _report(self, summary: InstanceSummary, kind: str) -> dict[str, float]:
        percent = {name: value if value < 0 else 100 * value for name, value in summary.figures.items()}
        table = PrettyTable(list(percent))
        table.add_row([f"{value:.2f}" for value in percent.values()])
        occurring = sum(value >= 0 for value in summary.per_category.values())
        print_log(f"{kind}AP, mean over the {occurring} categories in the ground truth:\n{table}", logger="current")
        return {f"{kind}{name}": value for name, value in percent.items()}


def _masks(values: Any) -> np.ndarray:
    return (values.detach().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)).astype(bool)


def _image_id(sample: dict[str, Any]) -> int | str:
    if sample.get("img_id") is not None:
        return sample["img_id"]
    stem = Path(sample["img_path"]).stem
    return int(stem) if stem.isdigit() else stem
