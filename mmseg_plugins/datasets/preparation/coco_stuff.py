"""COCO-Stuff 164k and 10k, and COCO-Object from the same label maps."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmseg_plugins.datasets.benchmarks import STUFF10K_RELEASE, STUFF_RELEASE
from mmseg_plugins.datasets.label_files import read_label_map, write_label_map
from mmseg_plugins.datasets.preparation.jobs import (
    Job,
    PrepareOptions,
    Report,
    copy_file,
    find_folder,
    map_values,
    read_lines,
    read_mat,
    run_jobs,
)
from mmseg_plugins.vocabulary.benchmarks import load_benchmark

# Where the unpacked stuffthingmaps may lie below the root.
RAW_MAPS = (
    "coco_stuff164k/annotations", "annotations", "coco_stuff164k/stuffthingmaps", "coco/stuffthingmaps",
    "stuffthingmaps", "",
)  # fmt: skip
RAW_DIGITS = 12  # raw label maps are called %012d.png; converted ones carry a suffix in the same folder
STUFF10K_FOLDERS = ("coco_stuff10k", "cocostuff-10k-v1.1", "")
STUFF10K_SPLITS = {"train": "train", "val": "test"}
Convert = Callable[[NDArray, Path], NDArray]


def prepare_stuff(options: PrepareOptions) -> Report:
    """Write the 171 contiguous classes: ``*_labelTrainIds.png`` (mmseg) or ``stuffthingmaps_detectron2`` (detectron2).

    Raises:
        FileNotFoundError: if the raw label maps are missing.
        ValueError: if some cannot be read or hold values that the release does not have.
    """
    return _prepare_maps(options, "coco_stuff164k", "_labelTrainIds.png", _to_contiguous())


def prepare_object(options: PrepareOptions) -> Report:
    """Write the 80 things and background, ``*_instanceTrainIds.png``; unlabelled pixels become background.

    Raises:
        FileNotFoundError: if the raw label maps are missing.
        ValueError: if some cannot be read or hold values that the release does not have, or for another layout than
            mmseg's.
    """
    if options.layout != "mmseg":
        raise ValueError("COCO-Object exists in the mmseg layout only; leave out --layout.")
    return _prepare_maps(options, "coco_object", "_instanceTrainIds.png", _to_object())


def _prepare_maps(options: PrepareOptions, name: str, suffix: str, convert: Convert) -> Report:
    needs = [f"{split}2017" for split in options.splits]
    source = find_folder(options.root, RAW_MAPS, needs, what="stuffthingmaps (COCO-Stuff 164k)", release=STUFF_RELEASE)
    if options.layout == "detectron2":
        target, suffix = options.out / "coco" / "stuffthingmaps_detectron2", ".png"
    elif options.out == options.root and source.name == "annotations":
        target = source
    else:
        target = options.out / "coco_stuff164k" / "annotations"
    report = Report()
    for split in options.splits:
        folder = f"{split}2017"
        raw = sorted(path for path in (source / folder).glob("*.png") if is_raw_name(path.stem))
        if not raw:
            raise FileNotFoundError(
                f"{source / folder} holds no raw label map (12 digits and .png). Get them from {STUFF_RELEASE}."
            )
        report.counts[split] = len(raw)
        jobs = [
            Job(goal, partial(_convert_map, path, goal, convert))
            for path in raw
            for goal in [target / folder / f"{path.stem}{suffix}"]
        ]
        run_jobs(jobs, options, report, f"{name} {split}")
    return report


def is_raw_name(stem: str) -> bool:
    """Whether a label map is one of the release and not a converted one beside it."""
    return len(stem) == RAW_DIGITS and stem.isdigit()


def _convert_map(path: Path, target: Path, convert: Convert) -> None:
    write_label_map(target, convert(read_label_map(path), path), largest=255)


def _to_contiguous() -> Convert:
    table = np.array(load_benchmark("coco_stuff_171")["raw_pixel_to_contiguous"], dtype=np.uint8)
    known = np.arange(256) < 182  # official ids 1..182, stored minus one
    known[255] = True
    return partial(_look_up, table, known)


def _to_object() -> Convert:
    entries = load_benchmark("coco_stuff_171")["raw_pixel_to_coco_object"]
    known = np.array([entry is not None for entry in entries])
    return partial(_look_up, np.array([entry or 0 for entry in entries], dtype=np.uint8), known)


def _look_up(table: NDArray, known: NDArray[np.bool_], values: NDArray, path: Path) -> NDArray:
    return map_values(values, table, known, path)


def prepare_stuff10k(options: PrepareOptions) -> Report:
    """Write ``*_labelTrainIds.png`` (class + 1, 0 unlabelled) and sort the images into splits.

    Raises:
        FileNotFoundError: if lists, images or MATLAB files are missing.
        ValueError: if a file cannot be read or holds values that the release does not have.
    """
    source = find_folder(
        options.root,
        STUFF10K_FOLDERS,
        ["images", "annotations"],
        what="COCO-Stuff 10k",
        release=STUFF10K_RELEASE,
    )
    target = source if options.out == options.root else options.out / "coco_stuff10k"
    table = np.array(load_benchmark("coco_stuff_171")["stuff10k_mat_value_to_png"], dtype=np.uint8)
    report = Report()
    for split in options.splits:
        stems = _stuff10k_list(source, STUFF10K_SPLITS[split])
        report.counts[split] = len(stems)
        folder = f"{STUFF10K_SPLITS[split]}2014"
        missing = [stem for stem in stems if not (source / "annotations" / f"{stem}.mat").is_file()]
        if missing:
            raise FileNotFoundError(
                f"{len(missing)} of {len(stems)} label files are missing in {source / 'annotations'}, the first is "
                f"{missing[0]}.mat. Get them from {STUFF10K_RELEASE}."
            )
        jobs = [
            Job(goal, partial(_convert_10k, source, target, folder, stem, table))
            for stem in stems
            for goal in [target / "annotations" / folder / f"{stem}_labelTrainIds.png"]
        ]
        run_jobs(jobs, options, report, f"coco_stuff10k {split}")
    return report


def _stuff10k_list(source: Path, name: str) -> list[str]:
    for folder in ("imageLists", "imagesLists"):
        path = source / folder / f"{name}.txt"
        if path.is_file():
            return read_lines(path)
    raise FileNotFoundError(f"{source} has no imageLists/{name}.txt. Get it from {STUFF10K_RELEASE}.")


def _convert_10k(source: Path, target: Path, folder: str, stem: str, table: NDArray[np.uint8]) -> None:
    image = target / "images" / folder / f"{stem}.jpg"
    if not image.exists():
        copy_file(source / "images" / f"{stem}.jpg", image)
    path = source / "annotations" / f"{stem}.mat"
    values = np.asarray(read_mat(path, "S")).astype(np.int64)
    labels = map_values(values, table, np.ones(len(table), dtype=bool), path)
    write_label_map(target / "annotations" / folder / f"{stem}_labelTrainIds.png", labels, largest=255)
