"""Write COCO panoptic, stuff and detection submissions from saved predictions."""

import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmseg_plugins.datasets.preparation.jobs import Progress
from mmseg_plugins.datasets.segment_files import id_to_rgb
from mmseg_plugins.evaluation.export_finish import finish_archive
from mmseg_plugins.evaluation.export_sources import (
    Images,
    find_label_maps,
    find_results_json,
    read_detections,
    require_predictions,
)
from mmseg_plugins.evaluation.panoptic_files import read_panoptic_json
from mmseg_plugins.evaluation.rle import encode_mask
from mmseg_plugins.evaluation.submit_archive import ArchiveWriter, CheckReport
from mmseg_plugins.evaluation.submit_coco import check_coco
from mmseg_plugins.evaluation.submit_coco_masks import FIRST_STUFF, MAX_DETECTIONS, STUFF_OTHER


def export_panoptic(
    predictions: str | os.PathLike,
    out: str | os.PathLike,
    *,
    images: Images | None = None,
    progress: Progress | None = None,
) -> CheckReport:
    """Write a COCO panoptic archive.

    Segments without a pixel are left out; areas, boxes and crowd flags too, which the server does not read.

    Args:
        predictions: folder of saved predictions, or a panoptic JSON with its folder of PNGs.
        out: the archive, ``panoptic_[testset]_[alg]_results.zip``.
        images: the test set's images by stem; None exports what is there.
        progress: told after every image.

    Returns:
        The check of the finished archive.

    Raises:
        FileNotFoundError: if predictions are missing.
        ValueError: if they do not fit the images, or the archive would not be valid.
    """
    source = read_panoptic_json(find_results_json(predictions, "panoptic"))
    by_stem = {Path(entry["file_name"]).stem: key for key, entry in source.images.items()}
    stems = require_predictions(by_stem, images, "panoptic prediction")
    name = Path(out).stem

    def write(archive: ArchiveWriter) -> None:
        annotations = []
        for done, stem in enumerate(stems, 1):
            key = by_stem[stem]
            ids = source.read_ids(key)
            present = set(np.unique(ids).tolist())
            segments = [
                {"id": segment["id"], "category_id": segment["category_id"]}
                for segment in source.images[key]["segments_info"]
                if segment["id"] in present
            ]
            archive.add_image(f"{name}/{stem}.png", id_to_rgb(ids))
            image_id = images[stem].image_id if images is not None else key
            annotations.append({"image_id": image_id, "file_name": f"{stem}.png", "segments_info": segments})
            if progress is not None:
                progress("exporting", done, len(stems))
        archive.add_json(f"{name}.json", {"annotations": annotations})

    return finish_archive(out, write, lambda path: check_coco(path, "panoptic", images))


def export_stuff(
    predictions: str | os.PathLike,
    out: str | os.PathLike,
    *,
    images: Images | None = None,
    encoding: str | None = None,
    progress: Progress | None = None,
) -> CheckReport:
    """Write a COCO stuff archive from label maps of the 171 classes; all things are merged into 183 (other).

    Args:
        predictions: folder of saved label maps, named by the images' stems.
        out: the archive, ``stuff_[testset]_[alg]_results.zip``.
        images: the test set's images by stem; None exports what is there, with the stem as image id.
        encoding: of the predictions, class indices by default.
        progress: told after every image.

    Returns:
        The check of the finished archive.

    Raises:
        FileNotFoundError: if predictions are missing.
        ValueError: if they do not fit the images or classes, or the archive would not be valid.
    """
    source = find_label_maps(predictions, "coco_stuff164k", encoding)
    stems = require_predictions(source.paths, images, "prediction")
    ids = np.array(source.classes.category_ids)
    category_of = np.append(np.where(ids < FIRST_STUFF, STUFF_OTHER, ids), 0)  # -1, no answer, takes the last

    def write(archive: ArchiveWriter) -> None:
        entries: list[dict[str, Any]] = []
        for done, stem in enumerate(stems, 1):
            image = None if images is None else images[stem]
            categories = category_of[source.read(stem, image)]
            image_id = _id_of_stem(stem) if image is None else image.image_id
            entries += [{"image_id": image_id, **entry} for entry in _stuff_masks(categories)]
            if progress is not None:
                progress("exporting", done, len(stems))
        archive.add_json(f"{Path(out).stem}.json", entries)

    return finish_archive(out, write, lambda path: check_coco(path, "stuff", images))


def _stuff_masks(categories: NDArray[np.integer]) -> list[dict[str, Any]]:
    present = [int(category) for category in np.unique(categories) if category]
    return [
        {"category_id": category, "segmentation": dict(encode_mask(categories == category))} for category in present
    ]


def _id_of_stem(stem: str) -> int:
    if not stem.isdigit():
        raise ValueError(f"{stem!r} is no COCO image name (12 digits), so its id is unknown; give --image-info.")
    return int(stem)


def export_detections(
    predictions: str | os.PathLike,
    out: str | os.PathLike,
    *,
    images: Images | None = None,
    progress: Progress | None = None,
) -> CheckReport:
    """Write a COCO detection archive; of each image the 100 best are kept, which is what is scored.

    Args:
        predictions: folder of saved predictions, a results JSON, or an annotation file (its instances score 1).
        out: the archive, ``detections_[testset]_[alg]_results.zip``.
        images: the test set's images by stem; None leaves ids unchecked.
        progress: told at the end.

    Returns:
        The check of the finished archive.

    Raises:
        FileNotFoundError: if there are no predictions.
        ValueError: if entries lack fields, or the archive would not be valid.
    """
    of_image: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    sizes = {image.image_id: image.size for image in (images or {}).values()}
    for entry in read_detections(find_results_json(predictions, "instances")):
        of_image[entry["image_id"]].append(entry)
    kept = [
        {
            "image_id": image_id,
            "category_id": entry["category_id"],
            "segmentation": _compressed(entry["segmentation"], sizes.get(image_id), image_id),
            "score": float(entry["score"]),
        }
        for image_id, entries in of_image.items()
        for entry in sorted(entries, key=lambda entry: -entry["score"])[:MAX_DETECTIONS]
    ]

    def write(archive: ArchiveWriter) -> None:
        archive.add_json(f"{Path(out).stem}.json", kept)
        if progress is not None:
            progress("exporting", len(kept), len(kept))

    return finish_archive(out, write, lambda path: check_coco(path, "detections", images))


def _compressed(segmentation: Any, size: tuple[int, int] | None, image_id: object) -> dict[str, Any]:
    """Compressed RLE of any of COCO's mask forms."""
    if isinstance(segmentation, dict) and isinstance(segmentation.get("counts"), str):
        return {"size": segmentation["size"], "counts": segmentation["counts"]}
    from mmseg_plugins.datasets.segment_loading import decode_segmentation

    if size is None:
        if not isinstance(segmentation, dict):
            raise ValueError(f"image {image_id!r} has polygons, which need the image's size; give --image-info.")
        size = tuple(segmentation["size"])
    return dict(encode_mask(decode_segmentation(segmentation, size, f"a mask of image {image_id!r}")))
