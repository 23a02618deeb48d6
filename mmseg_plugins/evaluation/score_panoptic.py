"""Scoring a saved panoptic result against a benchmark's panoptic JSON."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmseg_plugins.evaluation.boundary import DILATION_RATIO
from mmseg_plugins.evaluation.class_lists import ClassList, class_list_from_categories
from mmseg_plugins.evaluation.label_sources import opened
from mmseg_plugins.evaluation.panoptic import PanopticCounts, Segments, panoptic_counts
from mmseg_plugins.evaluation.panoptic_files import PanopticFile, read_panoptic_json
from mmseg_plugins.evaluation.panoptic_summary import PanopticSummary, summarize_panoptic
from mmseg_plugins.evaluation.score_report import Progress, ScoreReport
from mmseg_plugins.evaluation.score_semantic import Missing, missing_text


def score_panoptic(
    ground_truth: Path,
    predictions: Path,
    classes: ClassList | None = None,
    *,
    ground_truth_folder: Path | None = None,
    prediction_folder: Path | None = None,
    boundary: bool = False,
    missing: Missing = "error",
    device: str = "cpu",
    progress: Progress | None = None,
) -> ScoreReport:
    """Score a panoptic result in COCO's format.

    Args:
        ground_truth: panoptic JSON, or the folder of the only one.
        predictions: results JSON, or a folder or zip archive that holds one.
        classes: category ids and thing flags; None takes the ``categories`` of the ground truth.
        ground_truth_folder: its PNGs; None takes the folder beside the JSON that has its stem.
        prediction_folder: likewise for the predictions.
        boundary: also compute Boundary PQ.
        missing: what images without a prediction are: an error, left out, or wrong throughout.
        device: where to count.
        progress: told after every image.

    Raises:
        FileNotFoundError: for missing files and predictions, by name.
        ValueError: naming the file, for ids that JSON and PNG do not share, unknown categories, sizes that differ, and
            files that cannot be read.
    """
    truth = read_panoptic_json(find_json(ground_truth, "panoptic"), ground_truth_folder)
    classes = agreed_classes(classes, truth.categories, str(truth.path))
    if classes.is_thing is None:
        raise ValueError(f"{classes.source} does not say what is a thing. Use a class list with 'isthing'.")
    with opened(predictions) as place:
        result = read_panoptic_json(find_json(place, "panoptic"), prediction_folder)
        images, absent = _matched_images(truth, result, missing)
        ratios = (None, DILATION_RATIO) if boundary else (None,)
        totals = [PanopticCounts.zeros(classes.num_classes, device) for _ in ratios]
        for done, image_id in enumerate(images, 1):
            for index, counts in enumerate(_count_image(truth, result, image_id, classes, ratios, device)):
                totals[index] = totals[index] + counts
            if progress is not None:
                progress("scoring", done, len(images))
    summaries = [summarize_panoptic(counts, classes.is_thing) for counts in totals]
    return _report(classes, summaries, len(images), absent, missing)


def agreed_classes(classes: ClassList | None, categories: list[dict[str, Any]], source: str) -> ClassList:
    """Return the classes to score, after checking that class list and ground truth agree.

    Raises:
        ValueError: if the ground truth has categories that the list lacks, if both give thing flags that differ, or if
            neither gives categories.
    """
    if classes is None:
        return class_list_from_categories(categories, source)
    if not categories:
        return classes
    given = class_list_from_categories(categories, source)
    index = classes.index_of_category
    unknown = [category for category in given.category_ids if category not in index]
    if unknown:
        raise ValueError(
            f"{source} has {given.num_classes} categories, of which {unknown[:8]} are not among the "
            f"{classes.num_classes} classes of {classes.source}. Use the benchmark's own class list, or leave "
            "--classes out to take the categories of the ground truth."
        )
    if given.is_thing is None:
        return classes
    if classes.is_thing is None:
        flags = [False] * classes.num_classes
        for category, thing in zip(given.category_ids, given.is_thing, strict=True):
            flags[index[category]] = thing
        return ClassList(classes.source, classes.names, classes.category_ids, tuple(flags), classes.has_ids)
    differ = [
        category
        for category, thing in zip(given.category_ids, given.is_thing, strict=True)
        if classes.is_thing[index[category]] != thing
    ]
    if differ:
        raise ValueError(f"{source} and {classes.source} disagree about whether categories {differ[:8]} are things.")
    return classes


def find_json(place: Path, kind: str) -> Path:
    """Return the JSON at a place: the file itself, ``<kind>.json`` in a folder, or the only JSON there.

    Raises:
        FileNotFoundError: if there is none, or several.
    """
    if place.is_file():
        return place
    if not place.exists():
        raise FileNotFoundError(f"{place} does not exist.")
    ours = place / f"{kind}.json"
    if ours.is_file():
        return ours
    found = [path for path in sorted(place.rglob("*.json")) if path.name != "manifest.json"]
    if len(found) != 1:
        listed = ", ".join(path.name for path in found[:4]) or "none"
        raise FileNotFoundError(f"expected {kind}.json or a single JSON in {place}, found {listed}. Name the file.")
    return found[0]


def _matched_images(truth: PanopticFile, result: PanopticFile, missing: Missing) -> tuple[list[int | str], list]:
    strangers = [image_id for image_id in result.images if image_id not in truth.images]
    if strangers:
        raise ValueError(
            f"{result.path} has {len(strangers)} image ids that {truth.path} does not list, for example "
            f"{strangers[0]!r}. image_id must be the ground truth's (a number for COCO, the file's stem for ADE20K)."
        )
    absent = [image_id for image_id in truth.images if image_id not in result.images]
    if absent and missing == "error":
        raise FileNotFoundError(missing_text(absent, result.path))
    images = [image_id for image_id in truth.images if missing != "ignore" or image_id in result.images]
    return images, absent


def _count_image(
    truth: PanopticFile,
    result: PanopticFile,
    image_id: int | str,
    classes: ClassList,
    ratios: tuple[float | None, ...],
    device: str,
) -> list[PanopticCounts]:
    label = torch.from_numpy(truth.read_ids(image_id)).to(device)
    labelled = truth.read_segments(image_id, classes.index_of_category)
    names = f"ground truth {truth.folder / truth.images[image_id]['file_name']}"
    if image_id in result.images:
        prediction = torch.from_numpy(result.read_ids(image_id)).to(device)
        predicted = result.read_segments(image_id, classes.index_of_category)
        names = f"prediction {result.folder / result.images[image_id]['file_name']} of {result.path}, {names}"
    else:
        prediction = torch.zeros_like(label)
        predicted = Segments(ids=np.zeros(0, dtype=np.int64), categories=np.zeros(0, dtype=np.int64))
    try:
        return [
            panoptic_counts(prediction, predicted, label, labelled, classes.num_classes, boundary_ratio=ratio)
            for ratio in ratios
        ]
    except ValueError as error:
        raise ValueError(f"{names}: {error}") from error


def _report(
    classes: ClassList, summaries: list[PanopticSummary], images: int, absent: list, missing: Missing
) -> ScoreReport:
    figures: dict[str, Any] = {}
    for summary, kind in zip(summaries, ("", "Boundary "), strict=False):
        for name, average in summary.averages.items():
            figures[f"{kind}{name}"] = {"pq": average.pq, "sq": average.sq, "rq": average.rq, "n": average.n}
    n = summaries[0].averages["All"].n
    outcome = "left out" if missing == "ignore" else "counted as wrong"
    return ScoreReport(
        task="panoptic",
        settings={
            "classes": classes.source,
            "num_classes": classes.num_classes,
            "images": images,
            "classes_in_mean": n,
        },
        figures=figures,
        per_class=_per_class(classes, summaries),
        statement=f"PQ over the {n} of {classes.num_classes} categories that occur in ground truth or predictions",
        notes=[f"{len(absent)} images without a prediction were {outcome}."] if absent else [],
    )


def _per_class(classes: ClassList, summaries: list[PanopticSummary]) -> list[dict[str, Any]]:
    rows = []
    counts = summaries[0].counts
    tp, fp, fn, iou = counts.true_positive, counts.false_positive, counts.false_negative, counts.iou_sum
    for index, name in enumerate(classes.names):
        row = {"category_id": classes.category_ids[index], "name": name, "isthing": int(classes.is_thing[index])}
        for summary, kind in zip(summaries, ("", "boundary_"), strict=False):
            row |= {f"{kind}{key}": float(values[index]) for key, values in summary.per_category.items()}
        row |= {"tp": int(tp[index]), "fp": int(fp[index]), "fn": int(fn[index]), "iou": float(iou[index])}
        rows.append(row)
    return rows
