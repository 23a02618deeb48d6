"""Scoring saved label maps against a benchmark's label maps."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from mmseg_plugins.evaluation.boundary import semantic_boundary_areas
from mmseg_plugins.evaluation.class_lists import ClassList, class_indices, load_class_list
from mmseg_plugins.evaluation.export_sources import check_manifest
from mmseg_plugins.evaluation.label_sources import (
    SUFFIXES,
    PredictionFiles,
    default_encoding,
    default_ignore,
    default_prediction_encoding,
    find_labels,
    match_predictions,
    opened,
)
from mmseg_plugins.evaluation.label_tables import IGNORED, LabelTable, build_label_table
from mmseg_plugins.evaluation.mask_results import STUFF_SERVER, MaskResults, fold_things, read_mask_results
from mmseg_plugins.evaluation.rules import METRIC_GROUPS, AbsentRule
from mmseg_plugins.evaluation.saving import MANIFEST
from mmseg_plugins.evaluation.score_report import Progress, ScoreReport
from mmseg_plugins.evaluation.semantic import SemanticAreas, semantic_areas
from mmseg_plugins.evaluation.semantic_summary import SemanticSummary, summarize_semantic
from mmseg_plugins.vocabulary.files import read_text

Missing = Literal["error", "ignore", "wrong"]


@dataclass(frozen=True)
class SemanticOptions:
    """How saved label maps are scored.

    Attributes:
        absent: which classes the means are taken over.
        unseen: names or indices of the unseen classes; None gives no hIoU.
        boundary: also compute boundary IoU.
        missing: what images without a prediction are: an error, left out, or wrong throughout.
        unanswered: class that pixels without an answer are taken for; None counts them as wrong.
        label_encoding: encoding of the ground truth; None takes the benchmark's.
        prediction_encoding: encoding of the predictions; None takes that of our exports where a manifest lies beside
            them, else that of the ground truth.
        ignore_index: stored value of ignored pixels; None takes the benchmark's.
        label_suffix: what follows an image's name in the names of its label map; None tries the benchmark's.
        image_list: file with one image name per line; only these are scored.
        device: where to count.
    """

    absent: AbsentRule = "error"
    unseen: tuple[int | str, ...] | None = None
    boundary: bool = False
    missing: Missing = "error"
    unanswered: int | None = None
    label_encoding: str | None = None
    prediction_encoding: str | None = None
    ignore_index: int | None = None
    label_suffix: str | None = None
    image_list: Path | None = None
    device: str = "cpu"


@dataclass(frozen=True)
class _Maps:
    """Label maps with their predictions, and how both are read."""

    labels: dict[str, Path]
    predictions: PredictionFiles | MaskResults
    label_table: LabelTable
    prediction_table: LabelTable | None
    missing: list[str]

    def predict(self, key: str, shape: tuple[int, int]) -> tuple[NDArray[np.int32], str]:
        """Return the prediction of an image and the name of its file."""
        if isinstance(self.predictions, MaskResults):
            return self.predictions.label_map(_image_id(key, self.predictions), shape), str(self.predictions.path)
        path = self.predictions.paths[key]
        return self.prediction_table.decode(path), str(path)


def _image_id(key: str, results: MaskResults) -> int | str:
    """Return the image id that a label map's name stands for: COCO's names are ids with leading zeros."""
    return int(key) if key.isdigit() and int(key) in results.entries else key


def score_semantic(
    labels: Path,
    predictions: Path,
    classes: ClassList,
    options: SemanticOptions | None = None,
    *,
    progress: Progress | None = None,
) -> ScoreReport:
    """Score saved label maps.

    Args:
        labels: folder of ground-truth label maps (8 or 16 bits), or one of them.
        predictions: folder or zip archive of predicted label maps, matched by name, one of them, or a COCO results JSON
            with one mask per class and image.
        classes: the classes.
        options: see `SemanticOptions`.
        progress: told after every image.

    Raises:
        FileNotFoundError: for missing folders, files and predictions, by name.
        ValueError: naming the file, for maps that cannot be read, differ in size, or hold values that are no class.
    """
    options = options or SemanticOptions()
    if options.unanswered is not None and not 0 <= options.unanswered < classes.num_classes:
        raise ValueError(f"unanswered={options.unanswered} is not a class index 0..{classes.num_classes - 1}.")
    unseen = None if options.unseen is None else class_indices(options.unseen, classes.names)
    with opened(labels) as label_folder, opened(predictions) as prediction_folder:
        maps = _find_maps(label_folder, prediction_folder, classes, options)
        areas, boundary_areas = _count(maps, classes.num_classes, options, progress)
    summary = summarize_semantic(areas, absent=options.absent, metrics=tuple(METRIC_GROUPS), unseen=unseen)
    figures: dict[str, Any] = dict(summary.figures)
    if options.absent == "zero":
        figures["sceneparsing_score"] = summary.sceneparsing_score
    per_class = _per_class(classes, summary, areas)
    if boundary_areas is not None:
        boundary = summarize_semantic(boundary_areas, absent=options.absent, unseen=unseen)
        figures |= {name.replace("IoU", "BIoU"): value for name, value in boundary.figures.items() if "IoU" in name}
        for row, value in zip(per_class, boundary.per_class["IoU"], strict=True):
            row["BIoU"] = float(value)
    return ScoreReport(
        task="semantic",
        settings={
            "classes": classes.source,
            "num_classes": classes.num_classes,
            "images": len(maps.labels),
            "absent": options.absent,
            "classes_in_mean": summary.classes_in_mean,
            "label_encoding": maps.label_table.encoding,
            "prediction_encoding": "masks" if maps.prediction_table is None else maps.prediction_table.encoding,
            "ignore_index": maps.label_table.ignore_index,
        },
        figures=figures,
        per_class=per_class,
        statement=summary.rule,
        notes=_notes(maps, areas, options),
    )


def _check_manifest(predictions: Path, classes: ClassList) -> None:
    for folder in (predictions, predictions.parent):
        if (folder / MANIFEST).is_file():
            check_manifest(folder / MANIFEST, classes)


def _find_maps(labels: Path, predictions: Path, classes: ClassList, options: SemanticOptions) -> _Maps:
    if (predictions / "manifest.json").is_file() and (predictions / "predictions").is_dir():
        predictions = predictions / "predictions"  # a folder that our metrics saved
    label_classes = load_class_list("coco_stuff_171") if classes.source == STUFF_SERVER else classes
    found = find_labels(labels, label_classes, options.label_suffix)
    paths = found.paths if options.image_list is None else _listed_only(found.paths, options.image_list)
    encoding = options.label_encoding or default_encoding(found, labels, label_classes)
    ignore = default_ignore(label_classes) if options.ignore_index is None else options.ignore_index
    label_table = build_label_table(encoding, label_classes, ignore_index=ignore)
    if label_classes is not classes:
        label_table = label_table.refolded(fold_things())
    place = _results_json(predictions)
    prediction_table = None
    if place is not None:
        matched: PredictionFiles | MaskResults = read_mask_results(place, classes)
        missing = [key for key in paths if _image_id(key, matched) not in matched.entries]
    else:
        if options.prediction_encoding is None:
            _check_manifest(predictions, classes)
        matched = match_predictions(predictions, list(paths), found.suffix)
        missing = matched.missing
        prediction_encoding = options.prediction_encoding or default_prediction_encoding(predictions, encoding)
        prediction_table = build_label_table(prediction_encoding, classes, ignore_index=ignore, prediction=True)
    if missing and options.missing == "error":
        raise FileNotFoundError(missing_text(missing, predictions))
    if options.missing == "ignore":
        paths = {key: path for key, path in paths.items() if key not in set(missing)}
    return _Maps(paths, matched, label_table, prediction_table, missing)


def _results_json(place: Path) -> Path | None:
    """Return the results JSON at a place, or None where label maps lie there."""
    if place.is_file():
        return place if place.suffix.lower() == ".json" else None
    images = any(path.suffix.lower() in SUFFIXES for path in place.rglob("*"))
    found = [] if images else [path for path in place.rglob("*.json") if path.name != "manifest.json"]
    return found[0] if len(found) == 1 else None


def missing_text(missing: list[str], place: Path) -> str:
    """Return the message for images without a prediction."""
    named = ", ".join(map(str, missing[:5])) + (", …" if len(missing) > 5 else "")
    return (
        f"{len(missing)} images have no prediction in {place}: {named}. "
        "Add them, or say what they are: --missing ignore leaves them out, --missing wrong counts them as wrong."
    )


def _listed_only(paths: dict[str, Path], image_list: Path) -> dict[str, Path]:
    lines = read_text(image_list, "image list").splitlines()
    keys = [Path(line.split()[0]).name for line in lines if line.strip()]
    absent = [key for key in keys if key not in paths]
    if absent:
        raise FileNotFoundError(f"{len(absent)} images of {image_list} have no label map: {', '.join(absent[:5])}.")
    return {key: paths[key] for key in keys}


def _count(
    maps: _Maps, num_classes: int, options: SemanticOptions, progress: Progress | None
) -> tuple[SemanticAreas, SemanticAreas | None]:
    areas = SemanticAreas.zeros(num_classes, options.device)
    boundary = SemanticAreas.zeros(num_classes, options.device) if options.boundary else None
    for done, (key, path) in enumerate(maps.labels.items(), 1):
        label = maps.label_table.decode(path)
        prediction = _read_prediction(maps, key, path, label.shape, options)
        pair = torch.from_numpy(prediction).to(options.device), torch.from_numpy(label).to(options.device)
        areas = areas + semantic_areas(*pair, num_classes, ignore_index=IGNORED)
        if boundary is not None:
            boundary = boundary + semantic_boundary_areas(*pair, num_classes, ignore_index=IGNORED)
        if progress is not None:
            progress("scoring", done, len(maps.labels))
    return areas, boundary


def _read_prediction(
    maps: _Maps, key: str, label_path: Path, shape: tuple[int, ...], options: SemanticOptions
) -> NDArray[np.int32]:
    if key in maps.missing:
        return np.full(shape, IGNORED, dtype=np.int32)
    prediction, name = maps.predict(key, shape)
    if prediction.shape != shape:
        raise ValueError(
            f"prediction {name} is {prediction.shape[0]} x {prediction.shape[1]} but label map {label_path} is "
            f"{shape[0]} x {shape[1]} (height x width). Save predictions at the size of the image."
        )
    if options.unanswered is not None:
        prediction = np.where(prediction == IGNORED, options.unanswered, prediction)
    return prediction


def _per_class(classes: ClassList, summary: SemanticSummary, areas: SemanticAreas) -> list[dict[str, Any]]:
    counts = {
        "true_positive": areas.true_positive.tolist(),
        "predicted": areas.predicted.tolist(),
        "labelled": areas.labelled.tolist(),
        "union": areas.union.tolist(),
    }
    return [
        {
            "index": index,
            "name": name,
            **{figure: float(values[index]) for figure, values in summary.per_class.items()},
            **{figure: values[index] for figure, values in counts.items()},
        }
        for index, name in enumerate(classes.names)
    ]


def _notes(maps: _Maps, areas: SemanticAreas, options: SemanticOptions) -> list[str]:
    notes = []
    if maps.missing:
        outcome = {"ignore": "left out", "wrong": "counted as wrong"}[options.missing]
        notes.append(f"{len(maps.missing)} images without a prediction were {outcome}.")
    extra = maps.predictions.extra if isinstance(maps.predictions, PredictionFiles) else []
    if extra:
        notes.append(f"{len(extra)} predictions belong to no label map, for example {extra[0].name}.")
    if areas.unanswered:
        notes.append(f"{areas.unanswered} counted pixels have no answer; they are wrong.")
    return notes
