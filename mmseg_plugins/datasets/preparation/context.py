"""PASCAL Context: 59 and 60 classes from the Detail JSON, 459 classes from the per-image MATLAB files."""

import json
from collections import defaultdict
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmseg_plugins.datasets.benchmarks import CONTEXT_FOLDERS, CONTEXT_RELEASE
from mmseg_plugins.datasets.label_files import write_label_map
from mmseg_plugins.datasets.preparation.jobs import (
    Job,
    PrepareOptions,
    Report,
    copy_file,
    find_folder,
    read_lines,
    read_mat,
    run_jobs,
    write_lines,
)
from mmseg_plugins.datasets.segment_entries import read_json_object
from mmseg_plugins.evaluation.rle import decode_mask
from mmseg_plugins.vocabulary.benchmarks import load_benchmark

DETAIL = "trainval_merged.json"
LISTS = "ImageSets/SegmentationContext"
DETECTRON2_FOLDERS = {"train": "training", "val": "validation"}
LARGEST_RAW = 459
IMAGE_KEYS = ("image_id", "file_name", "width", "height", "phase")
ANNOTATION_KEYS = ("image_id", "category_id", "segmentation")


def prepare_59(options: PrepareOptions) -> Report:
    """Write the label maps of the 59 classes, and the image lists.

    mmseg layout: ``SegmentationClassContext`` with 0 for background and 1..59; detectron2 layout: class index with 255
    for the rest, and a copy of the images.

    Raises:
        FileNotFoundError: if the images or the Detail JSON are missing.
        ValueError: if the JSON lacks keys, or holds categories or masks that it should not.
    """
    source = find_folder(
        options.root,
        CONTEXT_FOLDERS,
        ["JPEGImages", DETAIL],
        what="PASCAL Context (VOC2010 images with the Detail JSON)",
        release=CONTEXT_RELEASE,
    )
    detail = read_detail(source / DETAIL)
    raw_ids = load_benchmark("context59")["raw459_ids_of_59"]
    report = Report()
    for split in options.splits:
        images = [image for image in detail.images if image["phase"] == split]
        report.counts[split] = len(images)
        stems = [stem_of(image) for image in images]
        _require_images(source, stems)
        place = _Places(options, source, split, "59", "png")
        jobs = []
        for image, stem in zip(images, stems, strict=True):
            work = partial(_write_59, detail, image, raw_ids, place.label(stem), place.is_detectron2)
            jobs.append(Job(place.label(stem), place.with_image(stem, work)))
        run_jobs(jobs, options, report, f"context59 {split}")
        if not place.is_detectron2:
            write_lines(place.folder / LISTS / f"{split}.txt", stems)
    return report


def prepare_459(options: PrepareOptions) -> Report:
    """Write the label maps of all 459 classes, 16 bits, for the images of the 59-class preparation.

    Raises:
        FileNotFoundError: if the images, the MATLAB files or the image lists are missing.
        ValueError: if a file cannot be read or holds values above 459.
    """
    source = find_folder(
        options.root,
        CONTEXT_FOLDERS,
        ["JPEGImages", "trainval"],
        what="PASCAL Context (VOC2010 images with trainval/*.mat)",
        release=CONTEXT_RELEASE,
    )
    report = Report()
    for split in options.splits:
        stems = image_list(options, source, split)
        report.counts[split] = len(stems)
        missing = [stem for stem in stems if not (source / "trainval" / f"{stem}.mat").is_file()]
        if missing:
            raise FileNotFoundError(
                f"{len(missing)} of {len(stems)} label files are missing in {source / 'trainval'}, the first is "
                f"{missing[0]}.mat. Get them from {CONTEXT_RELEASE}."
            )
        _require_images(source, stems)
        place = _Places(options, source, split, "459", "tif")
        jobs = [
            Job(place.label(stem), place.with_image(stem, partial(_write_459, source, stem, place.label(stem))))
            for stem in stems
        ]
        run_jobs(jobs, options, report, f"context459 {split}")
        if not place.is_detectron2:
            write_lines(place.folder / LISTS / f"{split}.txt", stems)
    return report


class Detail:
    """The Detail JSON: images, and their annotations in file order."""

    def __init__(self, content: Mapping[str, Any], path: Path) -> None:
        self.path = path
        self.images = [_checked(image, IMAGE_KEYS, "images", path) for image in content["images"]]
        self.of_image: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
        for annotation in content["annos_segmentation"]:
            _checked(annotation, ANNOTATION_KEYS, "annos_segmentation", path)
            self.of_image[annotation["image_id"]].append(annotation)

    def category_map(self, image: Mapping[str, Any]) -> NDArray[np.uint16]:
        """(H, W) raw category of each pixel, 0 where nothing is annotated; later annotations lie above earlier ones.

        Raises:
            ValueError: if a mask is damaged or has another size than the image.
        """
        size = (image["height"], image["width"])
        categories = np.zeros(size, dtype=np.uint16)
        for annotation in self.of_image.get(image["image_id"], ()):
            where = f"{self.path.name}: an annotation of {image['file_name']}"
            try:
                mask = decode_mask(annotation["segmentation"]).astype(bool)
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from error
            if mask.shape != size:
                raise ValueError(f"{where} is {mask.shape}, but the image is {size} (H, W).")
            categories[mask] = annotation["category_id"]
        return categories


def read_detail(path: Path) -> Detail:
    """Read ``trainval_merged.json``.

    Raises:
        ValueError: naming the file and the key that is missing.
    """
    return Detail(read_json_object(path, ("images", "annos_segmentation", "categories")), path)


def class_map_59(categories: NDArray, raw_ids: list[int], name: str) -> NDArray[np.uint8]:
    """Classes 1..59 of raw categories, 0 for pixels without one.

    Raises:
        ValueError: for a raw category that is none of the 59 classes, as in the published converters.
    """
    table = np.zeros(int(max(categories.max(initial=0), max(raw_ids))) + 1, dtype=np.uint8)
    table[raw_ids] = np.arange(1, len(raw_ids) + 1)
    foreign = sorted(set(np.unique(categories).tolist()) - {0} - set(raw_ids))
    if foreign:
        raise ValueError(f"the annotations of {name} use the raw categories {foreign[:5]}, none of the 59 classes.")
    return table[categories]


def image_list(options: PrepareOptions, source: Path, split: str) -> list[str]:
    """Stems of a split: the list of the 59-class preparation where there is one, else taken from the Detail JSON.

    Raises:
        FileNotFoundError: if neither is there.
    """
    for folder in (source, *(options.out / candidate for candidate in CONTEXT_FOLDERS)):
        path = folder / LISTS / f"{split}.txt"
        if path.is_file():
            return read_lines(path)
    if (source / DETAIL).is_file():
        return [stem_of(image) for image in read_detail(source / DETAIL).images if image["phase"] == split]
    raise FileNotFoundError(
        f"no image list for {split}: neither {source / LISTS / split}.txt nor {source / DETAIL} exists. "
        "Run `mmseg-plugins prepare context59` first, or put one of them there."
    )


def stem_of(image: Mapping[str, Any]) -> str:
    """File name of an image without its suffix."""
    return Path(image["file_name"]).stem


class _Places:
    """Where the files of one split go, in the layout that was asked for."""

    def __init__(self, options: PrepareOptions, source: Path, split: str, classes: str, suffix: str) -> None:
        self.is_detectron2 = options.layout == "detectron2"
        self._source = source
        self._suffix = suffix
        if self.is_detectron2:
            self.folder = options.out / "pascal_ctx_d2"
            self._labels = self.folder / f"annotations_ctx{classes}" / DETECTRON2_FOLDERS[split]
            self._images = self.folder / "images" / DETECTRON2_FOLDERS[split]
        else:
            same = options.out == options.root
            self.folder = source if same else options.out / CONTEXT_FOLDERS[0]
            self._labels = self.folder / ("SegmentationClassContext" + ("" if classes == "59" else classes))
            self._images = None if same else self.folder / "JPEGImages"

    def label(self, stem: str) -> Path:
        return self._labels / f"{stem}.{self._suffix}"

    def with_image(self, stem: str, work: Any) -> Any:
        """Copy the image as well where the label maps do not lie beside it."""
        if self._images is None:
            return work
        target = self._images / f"{stem}.jpg"
        return partial(_copy_then, self._source / "JPEGImages" / f"{stem}.jpg", target, work)


def _copy_then(source: Path, target: Path, work: Any) -> None:
    if not target.exists():
        copy_file(source, target)
    work()


def _write_59(detail: Detail, image: Mapping[str, Any], raw_ids: list[int], target: Path, reduce: bool) -> None:
    labels = class_map_59(detail.category_map(image), raw_ids, image["file_name"])
    if reduce:
        labels = np.where(labels == 0, 255, labels.astype(np.int16) - 1)
    write_label_map(target, labels, largest=255)


def _write_459(source: Path, stem: str, target: Path) -> None:
    path = source / "trainval" / f"{stem}.mat"
    raw = np.asarray(read_mat(path, "LabelMap")).astype(np.int64)
    if raw.ndim != 2 or raw.min(initial=0) < 0 or raw.max(initial=0) > LARGEST_RAW:
        raise ValueError(
            f"{path}: LabelMap must be (H, W) with values 0..{LARGEST_RAW}, got {raw.shape}, up to {raw.max()}."
        )
    write_label_map(target, np.where(raw == 0, 65535, raw - 1), largest=65535)


def _require_images(source: Path, stems: list[str]) -> None:
    missing = [stem for stem in stems if not (source / "JPEGImages" / f"{stem}.jpg").is_file()]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(stems)} images are missing in {source / 'JPEGImages'}, the first is "
            f"{missing[0]}.jpg. Get them from {CONTEXT_RELEASE}."
        )


def _checked(entry: Any, keys: tuple[str, ...], section: str, path: Path) -> Any:
    missing = [key for key in keys if not isinstance(entry, Mapping) or key not in entry]
    if missing:
        raise ValueError(f"{path}: an entry of {section!r} lacks {', '.join(missing)}: {json.dumps(entry)[:120]}.")
    return entry
