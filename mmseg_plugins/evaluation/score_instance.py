"""Scoring saved instance masks against a benchmark's instance JSON."""

from pathlib import Path
from typing import Any

from mmseg_plugins.evaluation.class_lists import ClassList
from mmseg_plugins.evaluation.instance import InstanceSummary, evaluate_instances
from mmseg_plugins.evaluation.label_sources import opened
from mmseg_plugins.evaluation.panoptic_files import read_json
from mmseg_plugins.evaluation.score_panoptic import agreed_classes, find_json
from mmseg_plugins.evaluation.score_report import ScoreReport
from mmseg_plugins.evaluation.score_semantic import Missing


def score_instance(
    ground_truth: Path,
    predictions: Path,
    classes: ClassList | None = None,
    *,
    boundary: bool = False,
    missing: Missing = "wrong",
) -> ScoreReport:
    """Score instance masks in COCO's results format with COCO's evaluator.

    Args:
        ground_truth: COCO instance JSON.
        predictions: results JSON (a list), or a folder or zip archive that holds one.
        classes: checked against the categories of the ground truth (its thing classes); None takes those.
        boundary: also compute boundary AP.
        missing: what images without any detection are: ``wrong``, as COCO has it, ``ignore`` leaves them out,
            ``error`` refuses them.

    Raises:
        FileNotFoundError: for missing files.
        ValueError: naming the file, for entries that do not fit the ground truth.
    """
    ground_truth = find_json(ground_truth, "instances")
    truth = _checked_truth(read_json(ground_truth), ground_truth)
    if classes is not None:
        agreed_classes(classes.things_only(), truth["categories"], str(ground_truth))
    with opened(predictions) as place:
        path = find_json(place, "instances")
        results = read_json(path)
    if not isinstance(results, list) or not all(isinstance(entry, dict) for entry in results):
        raise ValueError(f"{path} is not a COCO results JSON: expected a list of objects.")
    found = {entry.get("image_id") for entry in results}
    absent = [image["id"] for image in truth["images"] if image["id"] not in found]
    if absent and missing == "error":
        raise FileNotFoundError(f"{len(absent)} images have no detection in {path}, for example {absent[0]!r}.")
    if missing == "ignore":
        truth = _only_images(truth, found)
    summaries = []
    for variant in (False, True) if boundary else (False,):
        try:
            summaries.append(evaluate_instances(truth, results, boundary=variant))
        except ValueError as error:
            raise ValueError(f"{path} against {ground_truth}: {error}") from error
    return _report(summaries, truth, str(ground_truth) if classes is None else classes.source, len(absent), missing)


def _checked_truth(content: Any, path: Path) -> dict[str, Any]:
    wanted = {
        "images": ("id", "height", "width"),
        "annotations": ("image_id", "category_id", "area"),
        "categories": ("id",),
    }
    for key, fields in wanted.items():
        entries = content.get(key) if isinstance(content, dict) else None
        if not isinstance(entries, list):
            raise ValueError(f"{path} is not a COCO instance JSON: expected an object with a list {key!r}.")
        for entry in entries:
            missing = [field for field in fields if field not in entry]
            if missing:
                raise ValueError(f"{path}: an entry of {key!r} has no {', '.join(missing)}.")
    return content


def _only_images(truth: dict[str, Any], kept: set) -> dict[str, Any]:
    return {
        **truth,
        "images": [image for image in truth["images"] if image["id"] in kept],
        "annotations": [annotation for annotation in truth["annotations"] if annotation["image_id"] in kept],
    }


def _report(
    summaries: list[InstanceSummary], truth: dict[str, Any], source: str, absent: int, missing: Missing
) -> ScoreReport:
    figures: dict[str, Any] = {"boundary" if summary.boundary else "segm": summary.figures for summary in summaries}
    names = {category["id"]: str(category.get("name", category["id"])) for category in truth["categories"]}
    rows = []
    for category, value in summaries[0].per_category.items():
        row = {"category_id": category, "name": names[category], "AP": value}
        if len(summaries) > 1:
            row["boundary_AP"] = summaries[1].per_category[category]
        rows.append(row)
    occurring = sum(row["AP"] >= 0 for row in rows)
    return ScoreReport(
        task="instance",
        settings={
            "classes": source,
            "num_classes": len(names),
            "images": summaries[0].num_images,
            "detections": summaries[0].num_results,
            "classes_in_mean": occurring,
        },
        figures=figures,
        per_class=rows,
        statement=(
            f"AP over the {occurring} of {len(names)} categories in the ground truth, at most 100 detections an image; "
            "-1: nothing in the range"
        ),
        notes=[f"{absent} images have no detection; they were left out."] if absent and missing == "ignore" else [],
    )
