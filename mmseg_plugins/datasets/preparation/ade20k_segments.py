"""ADE20K panoptic and instance annotations from the semantic and the instance maps of the SceneParse150 release."""

import json
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from mmseg_plugins.datasets.benchmarks import ADE_FOLDERS, ADE_RELEASE
from mmseg_plugins.datasets.label_files import read_label_map, save_image
from mmseg_plugins.datasets.preparation.jobs import Job, PrepareOptions, Report, find_folder, run_jobs
from mmseg_plugins.datasets.segment_files import id_to_rgb
from mmseg_plugins.evaluation.rle import encode_mask
from mmseg_plugins.evaluation.saving import write_json
from mmseg_plugins.vocabulary.benchmarks import load_benchmark

SPLIT_FOLDERS = {"train": "training", "val": "validation"}
RELEASE = f"{ADE_RELEASE}; annotations_instance.tar is on the same page"


@dataclass(frozen=True)
class AdeClasses:
    """The panoptic benchmark's classes: 150 in all, which of them are things, and the target of each instance class.

    Attributes:
        names: (150,) class names.
        colours: (150,) RGB.
        is_thing: (150,) flags.
        class_of_instance: (101,) class index of each instance class id 1..100.
    """

    names: list[str]
    colours: list[list[int]]
    is_thing: NDArray[np.bool_]
    class_of_instance: NDArray[np.int64]

    @classmethod
    def load(cls) -> "AdeClasses":
        """Read the class file."""
        content = load_benchmark("ade20k_panoptic_150")
        class_of_instance = np.full(101, -1, dtype=np.int64)
        for row in content["instance100"]:
            class_of_instance[row["instance_id"]] = row["sceneparse150_id"] - 1
        flags = np.array(content["isthing"], dtype=bool)
        return cls(content["classes"], content["palette"], flags, class_of_instance)

    def categories(self, *, things_only: bool = False) -> list[dict[str, Any]]:
        """The JSON's ``categories``."""
        return [
            {"id": index, "name": name.strip(), "isthing": int(self.is_thing[index]), "color": self.colours[index]}
            for index, name in enumerate(self.names)
            if self.is_thing[index] or not things_only
        ]


def prepare_panoptic(options: PrepareOptions) -> Report:
    """Write ``ade20k_panoptic_<split>/*.png`` and ``ade20k_panoptic_<split>.json``.

    The area of a stuff segment is the one before instances are pasted over it, as in the published preparation.

    Raises:
        FileNotFoundError: if images, semantic or instance maps are missing.
        ValueError: if some cannot be read or do not fit each other.
    """
    return _prepare(options, "panoptic")


def prepare_instance(options: PrepareOptions) -> Report:
    """Write ``ade20k_instance_<split>.json``.

    Raises:
        FileNotFoundError: if images or instance maps are missing.
        ValueError: if some cannot be read or do not fit each other.
    """
    return _prepare(options, "instance")


def panoptic_segments(
    semantic: NDArray[np.integer], instance: NDArray[np.uint8], classes: AdeClasses
) -> tuple[NDArray[np.int32], list[dict[str, Any]]]:
    """Paint the stuff classes, then the instances over them.

    Args:
        semantic: (H, W) 0 unlabelled, 1..150 class + 1.
        instance: (H, W, 3) R instance class id 1..100, G instance number; 0 none.
        classes: the benchmark's classes.

    Returns:
        (H, W) segment ids, 0 void, and the ``segments_info`` entries.
    """
    ids = np.zeros(semantic.shape, dtype=np.int32)
    segments: list[dict[str, Any]] = []

    def paint(mask: NDArray[np.bool_], category: int) -> None:
        ids[mask] = len(segments) + 1
        segments.append({"id": len(segments) + 1, "category_id": category, **_extent(mask), "iscrowd": 0})

    for value in np.unique(semantic):
        if value > 0 and not classes.is_thing[value - 1]:
            paint(semantic == value, int(value) - 1)
    for mask, category in instance_masks(instance, classes):
        paint(mask, category)
    return ids, segments


def instance_masks(instance: NDArray[np.uint8], classes: AdeClasses) -> list[tuple[NDArray[np.bool_], int]]:
    """Masks and class indices of an instance map, in the order of instance class id and number.

    Raises:
        ValueError: for an instance class id above 100.
    """
    keys = instance[..., 0].astype(np.int64) * 256 + instance[..., 1]
    found = []
    for key in np.unique(keys):
        class_id, number = divmod(int(key), 256)
        if class_id == 0 or number == 0:
            continue
        if class_id >= len(classes.class_of_instance) or classes.class_of_instance[class_id] < 0:
            raise ValueError(f"instance class id {class_id} is none of 1..100")
        found.append((keys == key, int(classes.class_of_instance[class_id])))
    return found


def _extent(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """``area`` in pixels and ``bbox`` [x, y, width, height] of a mask that is not empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    left, top = int(columns[0]), int(rows[0])
    box = [left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1]
    return {"area": int(mask.sum()), "bbox": box}


def _prepare(options: PrepareOptions, kind: str) -> Report:
    maps = ["annotations", "annotations_instance"] if kind == "panoptic" else ["annotations_instance"]
    needs = [f"{folder}/{SPLIT_FOLDERS[split]}" for folder in ("images", *maps) for split in options.splits]
    source = find_folder(options.root, ADE_FOLDERS, needs, what="SceneParse150 with instances", release=RELEASE)
    target = source if options.out == options.root else options.out / "ADEChallengeData2016"
    classes = AdeClasses.load()
    report = Report()
    for split in options.splits:
        images = sorted((source / "images" / SPLIT_FOLDERS[split]).glob("*.jpg"))
        report.counts[split] = len(images)
        result = target / f"ade20k_{kind}_{split}.json"
        if result.exists() and not options.overwrite:
            report.kept += 1
            report.notes.append(f"{result} is there already; --overwrite makes it again.")
            continue
        _require_maps(source, split, maps, images)
        parts = target / f".ade20k_{kind}_{split}_parts"
        work = _convert_panoptic if kind == "panoptic" else _convert_instances
        jobs = [
            Job(parts / f"{image.stem}.json", partial(work, source, target, split, image, parts, classes))
            for image in images
        ]
        run_jobs(jobs, options, report, f"ade20k_{kind} {split}")
        _join(result, parts, images, classes, kind)
        shutil.rmtree(parts)
    return report


def _convert_panoptic(source: Path, target: Path, split: str, image: Path, parts: Path, classes: AdeClasses) -> None:
    folder = SPLIT_FOLDERS[split]
    semantic_path = source / "annotations" / folder / f"{image.stem}.png"
    semantic = read_label_map(semantic_path)
    if semantic.max(initial=0) > len(classes.names):
        raise ValueError(f"{semantic_path} holds the value {semantic.max()}, expected 0..{len(classes.names)}.")
    instance = _read_instance_map(source, folder, image.stem, semantic.shape)
    ids, segments = panoptic_segments(semantic, instance, classes)
    name = f"{image.stem}.png"
    save_image(target / f"ade20k_panoptic_{split}" / name, Image.fromarray(id_to_rgb(ids)))
    annotation = {"image_id": image.stem, "file_name": name, "segments_info": segments}
    write_json(parts / f"{image.stem}.json", {"image": _describe(image, ids.shape), "annotations": [annotation]})


def _convert_instances(source: Path, target: Path, split: str, image: Path, parts: Path, classes: AdeClasses) -> None:
    with Image.open(image) as photograph:
        size = photograph.size[::-1]
    instance = _read_instance_map(source, SPLIT_FOLDERS[split], image.stem, size)
    annotations = [
        {
            "image_id": image.stem,
            "category_id": category,
            "segmentation": encode_mask(mask),
            **_extent(mask),
            "iscrowd": 0,
        }
        for mask, category in instance_masks(instance, classes)
    ]
    write_json(parts / f"{image.stem}.json", {"image": _describe(image, size), "annotations": annotations})


def _describe(image: Path, size: tuple[int, ...]) -> dict[str, Any]:
    return {"id": image.stem, "file_name": image.name, "height": int(size[0]), "width": int(size[1])}


def _join(result: Path, parts: Path, images: list[Path], classes: AdeClasses, kind: str) -> None:
    content: dict[str, Any] = {"images": [], "annotations": []}
    for image in images:
        part = json.loads((parts / f"{image.stem}.json").read_text(encoding="utf-8"))
        content["images"].append(part["image"])
        content["annotations"] += part["annotations"]
    if kind == "instance":
        content["annotations"] = [
            {"id": number, **annotation} for number, annotation in enumerate(content["annotations"], 1)
        ]
    content["categories"] = classes.categories(things_only=kind == "instance")
    write_json(result, content)


def _read_instance_map(source: Path, folder: str, stem: str, size: tuple[int, ...]) -> NDArray[np.uint8]:
    path = source / "annotations_instance" / folder / f"{stem}.png"
    try:
        with Image.open(path) as image:
            values = np.asarray(image.convert("RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"{path} cannot be read as an image: {error}") from error
    if values.shape[:2] != tuple(size):
        raise ValueError(f"{path} is {values.shape[:2]}, but the image is {tuple(size)} (H, W).")
    return values


def _require_maps(source: Path, split: str, maps: list[str], images: list[Path]) -> None:
    folder = SPLIT_FOLDERS[split]
    for name in maps:
        missing = [image.stem for image in images if not (source / name / folder / f"{image.stem}.png").is_file()]
        if missing:
            raise FileNotFoundError(
                f"{len(missing)} of {len(images)} maps are missing in {source / name / folder}, the first is "
                f"{missing[0]}.png. Get them from {RELEASE}."
            )
