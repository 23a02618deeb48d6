"""How the reference cases of the metrics run: published evaluators' figures against ours.

These cases have forms of their own, so every group of figures of a case's json is one stage. Annotations and
predictions that a case names (``samples/...``) are looked for in ``samples/`` beside the case file, beside its folder,
and in ``data/samples`` above it; our copies lie in ``tests/fixtures/samples``.
"""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmseg_plugins.cases import Case, StageResult
from mmseg_plugins.evaluation.boundary import boundary_iou, boundary_pixels
from mmseg_plugins.evaluation.class_lists import class_list_from_categories, load_class_list
from mmseg_plugins.evaluation.figure_comparison import compare_figures
from mmseg_plugins.evaluation.label_tables import IGNORED, build_label_table
from mmseg_plugins.evaluation.panoptic import PanopticCounts, Segments, panoptic_counts
from mmseg_plugins.evaluation.panoptic_summary import PanopticSummary, summarize_panoptic
from mmseg_plugins.evaluation.rle import decode_mask, encode_mask, rle_area, rle_box
from mmseg_plugins.evaluation.rules import METRIC_GROUPS
from mmseg_plugins.evaluation.score_instance import score_instance
from mmseg_plugins.evaluation.score_panoptic import score_panoptic
from mmseg_plugins.evaluation.semantic import SemanticAreas, semantic_areas
from mmseg_plugins.evaluation.semantic_summary import summarize_semantic

# Entries of a case that say what it is or are its input; every other entry holds figures to be reproduced.
_INPUTS = {
    "method", "kind", "what", "note", "names", "ground_truth", "predictions", "num_classes", "ignore_index",
    "categories", "gt_annotations", "pred_annotations",
}  # fmt: skip


def run(case: Case, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> list[StageResult]:
    """Compute the figures of a case and compare each group of them.

    Args:
        case: a case of the method ``metrics``.
        device: where pixels are counted.
        dtype: not used, figures are exact.

    Raises:
        KeyError: for a kind of case that is not known.
        FileNotFoundError: if samples of the case are not found.
    """
    runners: dict[str, Callable[[Case, str], dict[str, Any]]] = {
        "ade20k_sample": _ade20k_sample,
        "boundary_iou_masks": _boundary_iou_masks,
        "coco_instance_sample": _coco_instance_sample,
        "coco_panoptic_sample": _coco_panoptic_sample,
        "coco_rle": _coco_rle,
        "many_classes": _many_classes,
        "panoptic_edge_cases": _panoptic_edge_cases,
    }
    if case.kind not in runners:
        raise KeyError(f"unknown kind of metrics case {case.kind!r}. Known: {', '.join(runners)}.")
    computed = runners[case.kind](case, device)
    return compare_figures({name: want for name, want in case.spec.items() if name not in _INPUTS}, computed)


def sample_path(case: Case, name: str) -> Path:
    """Find annotations or predictions that a case names.

    Args:
        case: the case.
        name: path that begins with ``samples/``.

    Raises:
        FileNotFoundError: if it is in none of the places.
    """
    folders = list(case.path.resolve().parents)[:4]
    for folder in folders:
        for place in (folder / name, folder / "data" / name):
            if place.exists():
                return place
    raise FileNotFoundError(f"case {case.path} needs {name}; expected it in {folders[1] / name}.")


# --- semantic ----------------------------------------------------------------------------------------------------


def _mmseg(areas: SemanticAreas) -> dict[str, Any]:
    summary = summarize_semantic(areas, metrics=tuple(METRIC_GROUPS))
    return {
        "summary": {key: 100 * value for key, value in summary.figures.items()},
        "per_class_iou": summary.per_class["IoU"].tolist(),
        "per_class_acc": summary.per_class["Acc"].tolist(),
        **{f"{key}_unrounded": summary.figures[key] for key in ("mIoU", "mAcc", "aAcc")},
        "area_intersect": areas.true_positive.tolist(),
        "area_union": areas.union.tolist(),
        "area_pred": areas.predicted.tolist(),
        "area_label": areas.labelled.tolist(),
    }


def _detectron2(areas: SemanticAreas) -> dict[str, Any]:
    summary = summarize_semantic(areas, absent="skip")
    present = areas.labelled.cpu().numpy() > 0
    names = {"mIoU": "mIoU", "fwIoU": "fwIoU", "mACC": "mAcc", "pACC": "aAcc"}
    return {
        **{name: 100 * summary.figures[ours] for name, ours in names.items()},
        "per_class_iou": np.where(present, 100 * summary.per_class["IoU"], np.nan).tolist(),
    }


def _sceneparsing(areas: SemanticAreas) -> dict[str, Any]:
    summary = summarize_semantic(areas, absent="zero")
    return {
        "per_class_iou": np.nan_to_num(summary.per_class["IoU"], nan=0.0).tolist(),
        "mean_iou": summary.figures["mIoU"],
        "pixel_accuracy": summary.figures["aAcc"],
        "final_score": summary.sceneparsing_score,
        "area_intersection": areas.true_positive.tolist(),
        "area_union": areas.union.tolist(),
    }


def _with_seen_unseen(case: Case, areas: SemanticAreas, figures: dict[str, Any]) -> dict[str, Any]:
    if "seen_unseen" in case.spec:
        unseen = case.spec["seen_unseen"]["unseen"]
        summary = summarize_semantic(areas, unseen=unseen)
        figures["seen_unseen"] = {"unseen": unseen, **summary.figures}
    zero = summarize_semantic(areas, metrics=tuple(METRIC_GROUPS), nan_to_num=0).figures
    figures["mmseg_IoUMetric_nan_to_num_0"] = {key: 100 * value for key, value in zero.items()}
    return figures


def _ade20k_sample(case: Case, device: str) -> dict[str, Any]:
    classes = load_class_list("ade20k_150")
    folders = [
        sample_path(case, Path(case.spec[key].split(" ")[0]).parent.as_posix())
        for key in ("ground_truth", "predictions")
    ]
    tables = [
        build_label_table("reduce_zero", classes, ignore_index=255, prediction=is_prediction)
        for is_prediction in (False, True)
    ]
    areas = SemanticAreas.zeros(classes.num_classes, device)
    answered = SemanticAreas.zeros(classes.num_classes, device)
    for name in case.spec["names"]:
        label, prediction = (
            torch.from_numpy(table.decode(folder / f"{name}.png")).to(device)
            for table, folder in zip(tables, folders, strict=True)
        )
        areas = areas + semantic_areas(prediction, label, classes.num_classes, ignore_index=IGNORED)
        # The detectron2 figures were made with class 0 where a prediction is missing.
        filled = prediction.clamp(min=0)
        answered = answered + semantic_areas(filled, label, classes.num_classes, ignore_index=IGNORED)
    figures = {
        "sceneparsing": _sceneparsing(areas),
        "mmseg_IoUMetric": _mmseg(areas),
        "detectron2_SemSegEvaluator": _detectron2(answered),
    }
    return _with_seen_unseen(case, areas, figures)


def _many_classes(case: Case, device: str) -> dict[str, Any]:
    num_classes, ignore = case.spec["num_classes"], case.spec["ignore_index"]
    label, prediction = (torch.from_numpy(case.arrays[name].astype(np.int64)).to(device) for name in ("gt", "pred"))
    areas = semantic_areas(prediction, label, num_classes, ignore_index=ignore)
    figures = {
        "sceneparsing": _sceneparsing(areas),
        "mmseg_IoUMetric": _mmseg(areas),
        "detectron2_SemSegEvaluator": _detectron2(areas),
    }
    return _with_seen_unseen(case, areas, figures)


# --- masks -------------------------------------------------------------------------------------------------------


def _boundary_iou_masks(case: Case, device: str) -> dict[str, Any]:
    masks = {name: torch.from_numpy(case.arrays[name]).to(device) != 0 for name in ("a", "b")}
    results = []
    for entry in case.spec["results"]:
        ratio, a, b = entry["dilation_ratio"], masks["a"][entry["pair"]], masks["b"][entry["pair"]]
        bands = [boundary_pixels(mask, dilation_ratio=ratio) & mask for mask in (a, b)]
        results.append(
            {
                "pair": entry["pair"],
                "dilation_ratio": ratio,
                "area_boundary_a": int(bands[0].sum()),
                "area_boundary_b": int(bands[1].sum()),
                "boundary_iou": boundary_iou(a, b, dilation_ratio=ratio).item(),
                "mask_iou": ((a & b).sum() / (a | b).sum().double()).item(),
            }
        )
    return {"results": results}


def _decodes_to(rle: dict[str, Any], mask: np.ndarray) -> bool:
    try:
        return np.array_equal(decode_mask(rle), mask != 0)
    except ValueError:
        return False


def _coco_rle(case: Case, device: str) -> dict[str, Any]:
    encoded = [encode_mask(mask) for mask in case.arrays["masks"]]
    entries = [{**rle, "area": rle_area(rle), "bbox": rle_box(rle)} for rle in encoded]
    for entry, rle, mask in zip(entries, case.spec["rle"], case.arrays["masks"], strict=True):
        if not _decodes_to(rle, mask):
            entry["counts"] += " (the case's own string does not decode to the mask)"
    return {"rle": entries}


# --- panoptic and instance ---------------------------------------------------------------------------------------


def _averages(summary: PanopticSummary, ids: Iterable[int]) -> dict[str, Any]:
    averages: dict[str, Any] = {name: vars(average) for name, average in summary.averages.items()}
    columns = {key: values.tolist() for key, values in summary.per_category.items()}
    averages["per_class"] = {
        str(category): {key: values[index] for key, values in columns.items()} for index, category in enumerate(ids)
    }
    return averages


def _panoptic_edge_cases(case: Case, device: str) -> dict[str, Any]:
    classes = class_list_from_categories(
        [{"name": str(entry["id"]), **entry} for entry in case.spec["categories"]], str(case.path)
    )
    index = classes.index_of_category
    total = PanopticCounts.zeros(classes.num_classes, device)
    annotations = zip(case.spec["pred_annotations"], case.spec["gt_annotations"], strict=True)
    for number, (predicted, labelled) in enumerate(annotations):
        total = total + panoptic_counts(
            case.tensor("pred", device)[number],
            Segments.from_info(predicted["segments_info"], index),
            case.tensor("gt", device)[number],
            Segments.from_info(labelled["segments_info"], index),
            classes.num_classes,
        )
    summary = summarize_panoptic(total, classes.is_thing)
    averages = _averages(summary, classes.category_ids)
    per_class = averages.pop("per_class")
    counts = {
        str(category): {
            "tp": int(total.true_positive[i]),
            "fp": int(total.false_positive[i]),
            "fn": int(total.false_negative[i]),
            "iou": float(total.iou_sum[i]),
        }
        for i, category in enumerate(classes.category_ids)
    }
    return {"result": averages, "per_class": per_class, "counts": counts}


def _named_samples(case: Case) -> list[str]:
    return re.findall(r"samples/[\w./-]*[\w/]", case.spec["what"])


def _coco_panoptic_sample(case: Case, device: str) -> dict[str, Any]:
    truth_place, result_place = _named_samples(case)[:2]
    place = sample_path(case, truth_place)
    jsons = [place] if place.is_file() else sorted(place.glob("*.json"))
    truth = next(path for path in jsons if path.with_suffix("").is_dir())
    result = sample_path(case, result_place.removesuffix(".json") + ".json")
    report = score_panoptic(truth, result, boundary=True, device=device).to_dict()
    own = score_panoptic(truth, truth, device=device).to_dict()["figures"]["All"]
    rows = {str(row["category_id"]): row for row in report["per_class"]}

    def part(kind: str, key: str) -> dict[str, Any]:
        averages = {name: report["figures"][f"{kind}{name}"] for name in ("All", "Things", "Stuff")}
        per_class = {
            name: {figure: row[f"{key}{figure}"] for figure in ("pq", "sq", "rq")} for name, row in rows.items()
        }
        return {**averages, "per_class": per_class}

    figures = {
        "panopticapi": part("", ""),
        "boundary_iou_api": part("Boundary ", "boundary_"),
        "counts": {name: {key: row[key] for key in ("tp", "fp", "fn", "iou")} for name, row in rows.items()},
        "ground_truth_as_prediction": own,
    }
    return figures


def _coco_instance_sample(case: Case, device: str) -> dict[str, Any]:
    truth, results = (sample_path(case, name) for name in _named_samples(case)[:2])
    report = score_instance(truth, results, boundary="boundary" in case.spec)
    figures = dict(report.figures)
    figures["n_results"] = report.settings["detections"]
    return figures
