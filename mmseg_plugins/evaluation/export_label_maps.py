"""Write ADE20K and Cityscapes submissions from saved label maps."""

import os
from pathlib import Path

import numpy as np

from mmseg_plugins.datasets.preparation.jobs import Progress
from mmseg_plugins.evaluation.export_finish import finish_archive
from mmseg_plugins.evaluation.export_sources import Images, LabelMapSource, find_label_maps, require_predictions
from mmseg_plugins.evaluation.submit_archive import ArchiveWriter, CheckReport
from mmseg_plugins.evaluation.submit_label_maps import CITYSCAPES_FRAME, check_ade20k, check_cityscapes


def export_ade20k(
    predictions: str | os.PathLike,
    out: str | os.PathLike,
    *,
    images: Images | None = None,
    encoding: str | None = None,
    progress: Progress | None = None,
) -> CheckReport:
    """Write a SceneParse150 archive: class + 1, and 0 where there is no answer.

    Args:
        predictions: saved label maps of the 150 classes.
        out: the archive.
        images: the benchmark's images; None exports what is there.
        encoding: of the predictions, class indices by default.
        progress: told after every image.

    Returns:
        The check of the finished archive.

    Raises:
        FileNotFoundError: if predictions are missing.
        ValueError: if they do not fit the classes or the images, or the archive would not be valid.
    """
    source = find_label_maps(predictions, "ade20k_150", encoding)
    stems = require_predictions(source.paths, images, "prediction")

    def write(archive: ArchiveWriter) -> None:
        for done, stem in enumerate(stems, 1):
            labels = source.read(stem, (images or {}).get(stem))
            archive.add_image(f"{stem}.png", (labels + 1).astype(np.uint8))
            if progress is not None:
                progress("exporting", done, len(stems))

    return finish_archive(out, write, lambda path: check_ade20k(path, images))


def export_cityscapes(
    predictions: str | os.PathLike,
    out: str | os.PathLike,
    *,
    images: Images | None = None,
    encoding: str | None = None,
    split: str = "test",
    progress: Progress | None = None,
) -> CheckReport:
    """Write a Cityscapes archive: label ids, and 0 (unlabelled) where there is no answer.

    Args:
        predictions: saved label maps of the 19 classes; names begin with ``<city>_<sequence>_<frame>``.
        out: the archive.
        images: the benchmark's images by frame; None exports what is there and expects the split's number.
        encoding: of the predictions, train ids by default; ``label_ids`` for label ids.
        split: ``test`` or ``val``.
        progress: told after every image.

    Returns:
        The check of the finished archive.

    Raises:
        FileNotFoundError: if predictions are missing.
        ValueError: if they do not fit the classes or the images, or the archive would not be valid.
    """
    source = by_frame(find_label_maps(predictions, "cityscapes_19", encoding))
    frames = require_predictions(source.paths, images, "prediction")
    label_ids = np.array([*source.classes.category_ids, 0], dtype=np.uint8)  # -1, no answer, takes the last

    def write(archive: ArchiveWriter) -> None:
        for done, frame in enumerate(frames, 1):
            archive.add_image(f"{frame}.png", label_ids[source.read(frame, (images or {}).get(frame))])
            if progress is not None:
                progress("exporting", done, len(frames))

    return finish_archive(out, write, lambda path: check_cityscapes(path, images, split))


def by_frame(source: LabelMapSource) -> LabelMapSource:
    """Name label maps by their frame alone, whatever follows it.

    Raises:
        ValueError: if a name does not begin with a frame, or two belong to one.
    """
    paths: dict[str, Path] = {}
    for stem, path in source.paths.items():
        frame = CITYSCAPES_FRAME.match(stem)
        if frame is None:
            raise ValueError(f"{path} does not begin with <city>_<sequence>_<frame>.")
        earlier = paths.setdefault(frame.group(), path)
        if earlier != path:
            raise ValueError(f"{path} and {earlier} belong to one frame.")
    return LabelMapSource(paths, source.classes, source.table)
