"""Is a benchmark's data complete and correctly encoded? Counts files, samples label values."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from mmseg_plugins.datasets.benchmarks import get_record
from mmseg_plugins.datasets.label_files import decode_labels, read_label_map
from mmseg_plugins.datasets.layouts import LocatedSplit, locate_split
from mmseg_plugins.datasets.preparation.jobs import Progress, read_lines
from mmseg_plugins.datasets.records import BenchmarkRecord
from mmseg_plugins.datasets.segment_entries import read_instance_entries, read_json_object, read_panoptic_entries
from mmseg_plugins.datasets.segment_files import read_segment_ids
from mmseg_plugins.vocabulary.benchmarks import load_benchmark

SHOWN = 3


@dataclass
class SplitCheck:
    """What was found of one split.

    Attributes:
        split: its name.
        layout: the directory layout found, empty where none was.
        folder: where.
        images: number of images.
        sampled: number of label maps that were read.
        classes_seen: classes that occur in them.
        problems: what is wrong, one line each; empty means usable.
    """

    split: str
    layout: str = ""
    folder: str = ""
    images: int = 0
    sampled: int = 0
    classes_seen: int = 0
    problems: list[str] = field(default_factory=list)


def check_benchmark(
    name: str,
    data_root: str | os.PathLike | None = None,
    *,
    splits: Sequence[str] = (),
    layout: str = "auto",
    samples: int = 50,
    progress: Progress | None = None,
) -> list[SplitCheck]:
    """Check a benchmark's splits; problems are reported and not raised.

    Args:
        name: a benchmark.
        data_root: folder to search; None searches the usual places.
        splits: which; empty checks ``val`` alone.
        layout: ``auto`` or one layout's name.
        samples: label maps to read per split, evenly spread; 0 reads all.
        progress: called as label maps are read.

    Raises:
        KeyError: for an unknown benchmark.
        ValueError: for an unknown split or layout.
    """
    record = get_record(name)
    return [_check_split(record, data_root, split, layout, samples, progress) for split in splits or ("val",)]


def _check_split(
    record: BenchmarkRecord,
    data_root: str | os.PathLike | None,
    split: str,
    layout: str,
    samples: int,
    progress: Progress | None,
) -> SplitCheck:
    result = SplitCheck(split)
    try:
        located = locate_split(record, data_root, split=split, layout=layout)
    except FileNotFoundError as error:
        result.problems.append(str(error))
        return result
    result.layout, result.folder = located.layout, str(located.folder)
    content = load_benchmark(record.class_file)
    seen: set[int] = set()
    try:
        inspect = _inspect_semantic if record.task == "semantic" else _inspect_segments
        pairs = inspect(record, located, content, result)
        chosen = _spread(pairs, samples)
        for done, pair in enumerate(chosen, 1):
            try:
                seen |= pair()
            except (ValueError, OSError) as error:
                result.problems.append(str(error))
            if progress is not None:
                progress(f"checking {record.name} {split}", done, len(chosen))
        result.sampled = len(chosen)
    except (ValueError, OSError, KeyError) as error:
        result.problems.append(str(error))
    result.classes_seen = len(seen)
    _check_count(record, split, result)
    return result


def _check_count(record: BenchmarkRecord, split: str, result: SplitCheck) -> None:
    expected = record.counts.get(split, ())
    if expected and result.images not in expected:
        wanted = " or ".join(map(str, expected))
        result.problems.append(f"{result.images} images, expected {wanted}.")


def _spread(items: list[Any], number: int) -> list[Any]:
    if not number or len(items) <= number:
        return items
    return [items[position] for position in np.linspace(0, len(items) - 1, number).astype(int)]


def _list_stems(located: LocatedSplit) -> list[str]:
    """Stems of the split, relative to the image folder, from its list or its images."""
    files = located.files
    if files.stems:
        return read_lines(located.folder / files.stems)
    root = located.folder / files.images
    found = sorted(path.relative_to(root).as_posix() for path in root.rglob(f"*{files.image_suffix}"))
    return [name.removesuffix(files.image_suffix) for name in found]


def _inspect_semantic(
    record: BenchmarkRecord, located: LocatedSplit, content: dict[str, Any], result: SplitCheck
) -> list[Any]:
    files, encoding = located.files, located.encoding
    stems = _list_stems(located)
    result.images = len(stems)
    images, labels = located.folder / files.images, located.folder / files.labels
    _note_missing([images / f"{stem}{files.image_suffix}" for stem in stems], "images", result)
    if not files.labels:
        return []
    _note_missing([labels / f"{stem}{files.label_suffix}" for stem in stems], "label maps", result)
    num_classes = len(content["classes"]) + len(record.extra_classes)

    def read(stem: str) -> set[int]:
        image, label = images / f"{stem}{files.image_suffix}", labels / f"{stem}{files.label_suffix}"
        if not (image.is_file() and label.is_file()):
            return set()
        stored = read_label_map(label)
        if stored.dtype.itemsize * 8 != encoding.bits:
            raise ValueError(f"{label} has {stored.dtype.itemsize * 8} bits, expected {encoding.bits}.")
        _check_same_size(image, stored.shape, label)
        decoded = decode_labels(stored, rule=encoding.rule, ignore_index=encoding.ignore_index, num_classes=num_classes)
        values = set(np.unique(decoded).tolist()) - {encoding.ignore_index}
        foreign = sorted(value for value in values if value >= num_classes)
        if foreign:
            raise ValueError(
                f"{label} decodes to the class indices {foreign[:5]}, but there are {num_classes} classes "
                f"(layout {located.layout}, rule {encoding.rule}): raw or wrongly prepared label maps."
            )
        return values

    return [lambda stem=stem: read(stem) for stem in stems]


def _inspect_segments(
    record: BenchmarkRecord, located: LocatedSplit, content: dict[str, Any], result: SplitCheck
) -> list[Any]:
    files = located.files
    images = located.folder / files.images
    if not files.annotations:
        result.images = len(_list_stems(located))
        return []
    path = str(located.folder / files.annotations)
    label_of = {category: index for index, category in enumerate(content["dataset_ids"])}
    read = read_panoptic_entries if record.task == "panoptic" else read_instance_entries
    entries = read(read_json_object(path, ("images", "annotations")), label_of, path)
    result.images = len(entries)
    _note_missing([images / entry["file_name"] for entry in entries], "images", result)

    def inspect(entry: dict[str, Any]) -> set[int]:
        if record.task == "instance":
            return {item["label"] for item in entry["instances"]}
        png = located.folder / files.labels / entry["pan_seg_file"]
        ids = read_segment_ids(png)
        if ids.shape != (entry["height"], entry["width"]):
            raise ValueError(f"{png} is {ids.shape}, but the JSON says {(entry['height'], entry['width'])} (H, W).")
        listed = {segment["id"] for segment in entry["segments_info"]}
        unknown = sorted(set(np.unique(ids).tolist()) - {0} - listed)
        if unknown:
            raise ValueError(f"{png} has segment ids that {path} does not list: {unknown[:5]}.")
        return {segment["label"] for segment in entry["segments_info"]}

    return [lambda entry=entry: inspect(entry) for entry in entries]


def _note_missing(paths: list[Path], what: str, result: SplitCheck) -> None:
    missing = [path for path in paths if not path.is_file()]
    if missing:
        names = ", ".join(path.name for path in missing[:SHOWN])
        result.problems.append(f"{len(missing)} of {len(paths)} {what} are missing in {missing[0].parent}: {names} …")


def _check_same_size(image: Path, shape: tuple[int, ...], label: Path) -> None:
    try:
        with Image.open(image) as photograph:
            size = photograph.size[::-1]
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{image} cannot be read as an image: {error}") from error
    if tuple(shape) != size:
        raise ValueError(f"{label} is {tuple(shape)}, but its image {image.name} is {size} (H, W).")
