"""Check COCO archives: names here, contents in the modules of each type."""

import os
import re
from pathlib import Path

from mmseg_plugins.evaluation.submit_archive import ArchiveReader, CheckReport
from mmseg_plugins.evaluation.submit_coco_masks import check_detections, check_stuff
from mmseg_plugins.evaluation.submit_coco_panoptic import check_panoptic
from mmseg_plugins.evaluation.submit_fields import CheckContext, Images

CHECKS = {"detections": check_detections, "stuff": check_stuff, "panoptic": check_panoptic}
TEST_SETS = ("val2017", "test-dev2017", "test-challenge2017")
NAME = re.compile(rf"({'|'.join(CHECKS)})_({'|'.join(TEST_SETS)})_([^\s/]+)_results")


def submission_name(kind: str, test_set: str, algorithm: str) -> str:
    """Name of a COCO submission without suffix: ``[type]_[testset]_[alg]_results``.

    Raises:
        ValueError: if a part is not allowed.
    """
    name = f"{kind}_{test_set}_{algorithm}_results"
    if not NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} is not a COCO submission name: type one of {', '.join(CHECKS)}, test set one of "
            f"{', '.join(TEST_SETS)}, and a free algorithm name without blanks and slashes."
        )
    return name


def check_coco(path: str | os.PathLike, kind: str, images: Images | None = None) -> CheckReport:
    """Check a COCO archive of one type.

    Args:
        path: the archive, ``[type]_[testset]_[alg]_results.zip``.
        kind: ``detections``, ``stuff`` or ``panoptic``.
        images: the test set's images by stem; None leaves image ids and sizes unchecked and says so.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for another type.
    """
    if kind not in CHECKS:
        raise ValueError(f"unknown COCO submission type {kind!r}, expected one of: {', '.join(CHECKS)}.")
    report = CheckReport(f"coco {kind}", str(path))
    with ArchiveReader(path, report) as archive:
        stem = _check_names(archive, Path(path), kind, report)
        content = archive.read_json(f"{stem}.json") if stem else None
        if content is not None:
            CHECKS[kind](CheckContext(archive, report, images, stem), content)
    if images is None:
        report.notes.append("no image list was given (--image-info): image ids and sizes were not checked.")
    return report


def _check_names(archive: ArchiveReader, path: Path, kind: str, report: CheckReport) -> str | None:
    """Check the names of archive, JSON and everything else; return the JSON's stem."""
    if not archive.is_open:
        return None
    match = NAME.fullmatch(path.stem)
    if match is None or path.suffix != ".zip" or match.group(1) != kind:
        report.problems.append(f"{path.name} is not named {kind}_[testset]_[alg]_results.zip.")
    jsons = [name for name in archive.names if name.endswith(".json")]
    if len(jsons) != 1 or "/" in jsons[0]:
        report.problems.append(f"expected one JSON at the top level, found {', '.join(jsons) or 'none'}.")
        return None
    stem = jsons[0].removesuffix(".json")
    if stem != path.stem:
        report.problems.append(f"{jsons[0]} must have the archive's name, {path.stem}.json.")
    for name in archive.names:
        is_png = name.startswith(f"{stem}/") and name.count("/") == 1 and name.endswith(".png")
        if name != jsons[0] and not (kind == "panoptic" and is_png):
            report.problems.append(f"{name} does not belong into the archive.")
    return stem
