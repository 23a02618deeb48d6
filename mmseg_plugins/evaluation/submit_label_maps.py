"""Check ADE20K and Cityscapes archives, which hold one grey PNG per image."""

import os
import re
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from mmseg_plugins.evaluation.submit_archive import ArchiveReader, CheckReport
from mmseg_plugins.evaluation.submit_images import SubmissionImage
from mmseg_plugins.vocabulary.benchmarks import load_benchmark

ADE_NAME = re.compile(r"ADE_(test|val)_\d{8}\.png")
ADE_CLASSES = 150
CITYSCAPES_FRAME = re.compile(r"[A-Za-z-]+_\d{6}_\d{6}")
CITYSCAPES_SIZE = (1024, 2048)
CITYSCAPES_COUNTS = {"test": 1525, "val": 500}
GREY = "8 bits, one channel"

Images = Mapping[str, SubmissionImage]


def check_ade20k(path: str | os.PathLike, images: Images | None = None) -> CheckReport:
    """Check a SceneParse150 archive: ``ADE_test_%08d.png`` at the top level, values class + 1.

    Args:
        path: the archive.
        images: the benchmark's images; None leaves number and sizes unchecked and says so.

    Raises:
        FileNotFoundError: if there is no such file.
    """
    report = CheckReport("ade20k", str(path))
    seen: set[str] = set()
    unanswered = 0
    with ArchiveReader(path, report) as archive:
        for name in archive.pngs():
            if "/" in name:
                report.problems.append(f"{name} lies in a folder; expected the PNG files at the top level.")
                continue
            if not ADE_NAME.fullmatch(name):
                report.problems.append(f"{name} is not named like an image (ADE_test_%08d.png).")
                continue
            stem = name.removesuffix(".png")
            seen.add(stem)
            labels = archive.read_image(name, "L", GREY)
            if labels is None or not _check_size(name, labels, stem, images, report):
                continue
            if labels.max(initial=0) > ADE_CLASSES:
                report.problems.append(
                    f"{name} holds the value {labels.max()}, expected class + 1, 1..{ADE_CLASSES} (0: no answer)."
                )
            unanswered += bool((labels == 0).any())
    if unanswered:
        report.notes.append(f"{unanswered} files have pixels of value 0 (no answer), which count as wrong.")
    _check_missing(seen, images, report)
    report.counts["images"] = len(seen)
    return report


def check_cityscapes(path: str | os.PathLike, images: Images | None = None, split: str = "test") -> CheckReport:
    """Check a Cityscapes pixel-level archive: one PNG per frame with label ids, in any folder.

    Args:
        path: the archive.
        images: the benchmark's images by ``<city>_<seq>_<frame>``; None expects the split's number of files of
            2048 x 1024 pixels.
        split: ``test`` or ``val``, for the number of files.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for another split.
    """
    if split not in CITYSCAPES_COUNTS:
        raise ValueError(f"Cityscapes has no split {split!r}; expected one of: {', '.join(CITYSCAPES_COUNTS)}.")
    report = CheckReport("cityscapes", str(path))
    allowed = _evaluated_label_ids()
    of_frame: dict[str, str] = {}
    with ArchiveReader(path, report) as archive:
        for name in archive.pngs():
            frame = CITYSCAPES_FRAME.match(name.rsplit("/", 1)[-1])
            if frame is None:
                report.problems.append(f"{name} does not begin with <city>_<sequence>_<frame>.")
                continue
            earlier = of_frame.setdefault(frame.group(), name)
            if earlier != name:
                report.problems.append(f"{name} and {earlier} belong to one frame.")
                continue
            labels = archive.read_image(name, "L", GREY)
            if labels is None or not _check_size(name, labels, frame.group(), images, report, CITYSCAPES_SIZE):
                continue
            foreign = np.flatnonzero(~allowed[np.unique(labels)])
            if foreign.size:
                values = np.unique(labels)[foreign].tolist()
                report.problems.append(
                    f"{name} holds the values {values[:5]}, which are not evaluated label ids (7, 8, 11, … 33). "
                    "Train ids must be turned into label ids."
                )
    _check_missing(set(of_frame), images, report)
    if images is None and len(of_frame) != CITYSCAPES_COUNTS[split]:
        report.problems.append(f"{len(of_frame)} frames, expected {CITYSCAPES_COUNTS[split]} ({split}).")
    report.counts["images"] = len(of_frame)
    return report


def _evaluated_label_ids() -> NDArray[np.bool_]:
    """(256,) label ids that a result may hold; 0 stands for pixels without an answer."""
    allowed = np.zeros(256, dtype=bool)
    allowed[[0, *load_benchmark("cityscapes_19")["dataset_ids"]]] = True
    return allowed


def _check_size(
    name: str,
    labels: NDArray[np.uint8],
    stem: str,
    images: Images | None,
    report: CheckReport,
    default: tuple[int, int] | None = None,
) -> bool:
    wanted = images[stem].size if images is not None and stem in images else default
    if wanted is None or labels.shape[:2] == wanted:
        return True
    height, width = labels.shape[:2]
    report.problems.append(
        f"{name} is {width} x {height}, but the image is {wanted[1]} x {wanted[0]} (width x height)."
    )
    return False


def _check_missing(seen: set[str], images: Images | None, report: CheckReport) -> None:
    if images is None:
        report.notes.append("no list of images was given (--images): names and sizes were checked by their form only.")
        return
    report.problems += [f"{stem} has no prediction." for stem in sorted(set(images) - seen)]
    report.problems += [f"{stem} is not one of the benchmark's images." for stem in sorted(seen - set(images))]
