"""The SBD augmentation of PASCAL VOC 2012: 9118 further training label maps from MATLAB files."""

from functools import partial
from pathlib import Path

import numpy as np

from mmseg_plugins.datasets.benchmarks import VOC_FOLDERS
from mmseg_plugins.datasets.label_files import write_label_map
from mmseg_plugins.datasets.preparation.jobs import (
    Job,
    PrepareOptions,
    Report,
    find_folder,
    read_lines,
    read_mat,
    run_jobs,
    write_lines,
)

SBD_FOLDERS = ("VOCdevkit/VOCaug/dataset", "VOCaug/dataset", "benchmark_RELEASE/dataset", "dataset")
RELEASE = (
    "benchmark.tgz of the Semantic Boundaries Dataset, https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/"
)
LISTS = "ImageSets/Segmentation"


def prepare(options: PrepareOptions) -> Report:
    """Write ``SegmentationClassAug`` and the lists ``aug.txt`` and ``trainaug.txt`` into VOC2012.

    ``aug`` holds SBD's images that are in neither VOC list, ``trainaug`` these and VOC's training images.

    Raises:
        FileNotFoundError: if VOC2012 or SBD are missing.
        ValueError: if a MATLAB file cannot be read.
    """
    voc = find_folder(
        options.root, VOC_FOLDERS, ["JPEGImages", f"{LISTS}/train.txt", f"{LISTS}/val.txt"], what="VOC2012", release=(
            "VOCtrainval_11-May-2012.tar, http://host.robots.ox.ac.uk/pascal/VOC/voc2012/"
        ),
    )  # fmt: skip
    sbd = find_folder(options.root, SBD_FOLDERS, ["cls"], what="the SBD augmentation", release=RELEASE)
    target = voc if options.out == options.root else options.out / VOC_FOLDERS[0]
    train, val = (set(read_lines(voc / LISTS / f"{split}.txt")) for split in ("train", "val"))
    augmented = sorted({path.stem for path in (sbd / "cls").glob("*.mat")} - train - val)
    report = Report(counts={"aug": len(augmented)})
    jobs = [
        Job(goal, partial(_convert, sbd / "cls" / f"{stem}.mat", goal))
        for stem in augmented
        for goal in [target / "SegmentationClassAug" / f"{stem}.png"]
    ]
    run_jobs(jobs, options, report, "voc_aug")
    write_lines(target / LISTS / "aug.txt", augmented)
    write_lines(target / LISTS / "trainaug.txt", sorted(train | set(augmented)))
    return report


def _convert(path: Path, target: Path) -> None:
    content = read_mat(path, "GTcls")
    if not isinstance(content, dict) or "Segmentation" not in content:
        raise ValueError(f"{path}: GTcls has no field 'Segmentation'.")
    labels = np.asarray(content["Segmentation"]).astype(np.int64)
    if labels.max(initial=0) > 20 and not set(np.unique(labels[labels > 20])) <= {255}:
        raise ValueError(f"{path} holds the label {int(labels.max())}, expected 0..20 and 255.")
    write_label_map(target, labels, largest=255)
