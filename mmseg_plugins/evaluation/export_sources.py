"""Saved predictions as exports read them: folders of label maps, panoptic results, lists of instances."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmseg_plugins.evaluation.class_lists import ClassList, load_class_list
from mmseg_plugins.evaluation.label_sources import SUFFIXES
from mmseg_plugins.evaluation.label_tables import LabelTable, build_label_table
from mmseg_plugins.evaluation.panoptic_files import read_json
from mmseg_plugins.evaluation.saving import LABEL_MAPS, MANIFEST
from mmseg_plugins.evaluation.submit_images import SubmissionImage

Images = Mapping[str, SubmissionImage]


# The other reading that label maps of a benchmark commonly have.
OTHER_ENCODINGS = {
    "ade20k_150": ("reduce_zero", "class + 1"),
    "cityscapes_19": ("label_ids", "label ids (7, 8, 11, …)"),
    "coco_stuff164k": ("stuff_raw", "official ids minus one"),
}


@dataclass(frozen=True)
class LabelMapSource:
    """A folder of predicted label maps.

    Attributes:
        paths: file of each stem.
        classes: the benchmark's classes.
        table: how stored values become class indices.
    """

    paths: dict[str, Path]
    classes: ClassList
    table: LabelTable

    def read(self, stem: str, image: SubmissionImage | None = None) -> NDArray[np.int32]:
        """Class indices (H, W) of one image, -1 for pixels without an answer.

        Raises:
            ValueError: naming the file, if it cannot be read, holds other values than the encoding has, or has another
                size than the image.
        """
        labels = self.table.decode(self.paths[stem])
        if image is not None and labels.shape != image.size:
            raise ValueError(f"{self.paths[stem]} is {labels.shape}, but the image is {image.size} (height, width).")
        return labels


def find_label_maps(folder: str | os.PathLike, benchmark: str, encoding: str | None = None) -> LabelMapSource:
    """Find the label maps that ``tools/test.py --out`` or anybody else has written.

    Args:
        folder: what ``--out`` was given, or any folder of PNG or TIFF label maps.
        benchmark: whose classes they must be of.
        encoding: what the values are, see `mmseg_plugins.evaluation.rules.ENCODINGS`; None takes class indices where a
            manifest of ours is there and refuses to guess elsewhere.

    Raises:
        FileNotFoundError: if the folder is missing or holds no label map.
        ValueError: if the manifest names another number of classes, two files have one name, or it is not known what
            the values are.
    """
    root = Path(folder)
    if not root.is_dir():
        found = "is a file" if root.exists() else "does not exist"
        raise FileNotFoundError(f"the folder of predictions, {root}, {found}. Expected what tools/test.py --out wrote.")
    classes = load_class_list(benchmark)
    manifest = next((place / MANIFEST for place in (root, root.parent) if (place / MANIFEST).is_file()), None)
    if manifest is not None:
        check_manifest(manifest, classes)
    elif encoding is None:
        other = OTHER_ENCODINGS[benchmark]
        raise ValueError(
            f"{root} has no {MANIFEST}, so what its values mean is not known. Say --encoding as_stored for class "
            f"indices 0..{classes.num_classes - 1}, or --encoding {other[0]} for {other[1]}."
        )
    if (root / LABEL_MAPS).is_dir():
        root = root / LABEL_MAPS
    paths: dict[str, Path] = {}
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() not in SUFFIXES or path.name.startswith("."):
            continue
        if path.stem in paths:
            raise ValueError(f"{path} and {paths[path.stem]} have one name; predictions are matched by name.")
        paths[path.stem] = path
    if not paths:
        raise FileNotFoundError(f"no label maps in {root}; expected files ending in {', '.join(SUFFIXES)}.")
    table = build_label_table(encoding or "as_stored", classes, ignore_index=255, prediction=True)
    return LabelMapSource(paths, classes, table)


def check_manifest(path: Path, classes: ClassList) -> None:
    """Compare the number of classes in a manifest of saved predictions with that of a class list.

    Raises:
        ValueError: if they differ.
    """
    content = read_json(path)
    number = content.get("num_classes") if isinstance(content, dict) else None
    if number is not None and number != classes.num_classes:
        raise ValueError(
            f"{path} says that the predictions have {number} classes (benchmark {content.get('benchmark')!r}), but "
            f"{classes.source} has {classes.num_classes}. Predict with that benchmark's classes."
        )


def require_predictions(predicted: Mapping[str, object], images: Images | None, what: str) -> list[str]:
    """Stems to export, in order: those of the image list, or those that are there.

    Raises:
        FileNotFoundError: if images of the list have no prediction.
    """
    if images is None:
        return sorted(predicted)
    missing = sorted(set(images) - set(predicted))
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(images)} images have no {what}, the first is {missing[0]}. Go on predicting with "
            "test_dataloader.dataset.skip_saved=DIR, or export the images of another list."
        )
    return sorted(images)


def find_results_json(path: str | os.PathLike, kind: str) -> Path:
    """The JSON of saved panoptic or instance results: the file itself, or ``<kind>.json`` in a folder.

    Raises:
        FileNotFoundError: if it is not there.
    """
    place = Path(path)
    file = place / f"{kind}.json" if place.is_dir() else place
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist; expected saved {kind} predictions (tools/test.py --out DIR).")
    return file


def read_detections(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Read instance results: a list with scores, or an annotation file, whose instances then score 1.

    Returns:
        Entries with ``image_id``, ``category_id``, ``segmentation`` and ``score``. Crowd annotations are left out.

    Raises:
        ValueError: if the file is neither, or an entry lacks a field.
    """
    content = read_json(path)
    if isinstance(content, dict) and isinstance(content.get("annotations"), list):
        content = [_detection_of(entry) for entry in content["annotations"] if not entry.get("iscrowd", 0)]
    if not isinstance(content, list):
        raise ValueError(f"{os.fspath(path)} is neither a list of detections nor an annotation file.")
    for number, entry in enumerate(content):
        missing = [key for key in ("image_id", "category_id", "segmentation", "score") if key not in entry]
        if missing:
            raise ValueError(f"{os.fspath(path)}: detection {number} lacks {', '.join(missing)}.")
    return content


def _detection_of(annotation: dict[str, Any]) -> dict[str, Any]:
    kept = {key: annotation[key] for key in ("image_id", "category_id", "segmentation") if key in annotation}
    return kept | {"score": 1.0}
