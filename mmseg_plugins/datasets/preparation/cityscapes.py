"""Cityscapes train ids from label ids, as the benchmark's own scripts make them."""

from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmseg_plugins.datasets.benchmarks import CITYSCAPES_FOLDERS, CITYSCAPES_RELEASE
from mmseg_plugins.datasets.label_files import read_label_map, write_label_map
from mmseg_plugins.datasets.preparation.jobs import Job, PrepareOptions, Report, find_folder, map_values, run_jobs
from mmseg_plugins.vocabulary.benchmarks import load_benchmark

RAW_SUFFIX = "_gtFine_labelIds.png"
SUFFIX = "_gtFine_labelTrainIds.png"
LABEL_IDS = 34  # 0..33


def prepare(options: PrepareOptions) -> Report:
    """Write ``*_gtFine_labelTrainIds.png`` beside the label id maps.

    Raises:
        FileNotFoundError: if the label id maps are missing.
        ValueError: if some cannot be read or hold values that are no label ids.
    """
    needs = [f"gtFine/{split}" for split in options.splits]
    source = find_folder(options.root, CITYSCAPES_FOLDERS, needs, what="Cityscapes", release=CITYSCAPES_RELEASE)
    target = source if options.out == options.root else options.out / "cityscapes"
    table = np.full(256, 255, dtype=np.uint8)
    for train_id, label_id in enumerate(load_benchmark("cityscapes_19")["dataset_ids"]):
        table[label_id] = train_id
    report = Report()
    for split in options.splits:
        folder = source / "gtFine" / split
        raw = sorted(folder.rglob(f"*{RAW_SUFFIX}"))
        if not raw:
            raise FileNotFoundError(f"{folder} holds no *{RAW_SUFFIX}. Get them from {CITYSCAPES_RELEASE}.")
        report.counts[split] = len(raw)
        jobs = [
            Job(goal, partial(_convert, path, goal, table))
            for path in raw
            for goal in [_target(target / "gtFine" / split, folder, path)]
        ]
        run_jobs(jobs, options, report, f"cityscapes {split}")
    return report


def _target(folder: Path, source: Path, path: Path) -> Path:
    return folder / path.relative_to(source).with_name(path.name.removesuffix(RAW_SUFFIX) + SUFFIX)


def _convert(path: Path, target: Path, table: NDArray[np.uint8]) -> None:
    known = np.arange(256) < LABEL_IDS
    write_label_map(target, map_values(read_label_map(path), table, known, path), largest=255)
