"""ShapesWorld ground truth in the COCO forms: panoptic (PNG and JSON) and instances (JSON)."""

from typing import Any

import numpy as np

from mmseg_plugins.datasets.shapesworld.class_files import legend_colours
from mmseg_plugins.datasets.shapesworld.scene import Scene
from mmseg_plugins.datasets.shapesworld.world import class_names, num_object_classes


def categories(granularity: int, *, things_only: bool = False) -> list[dict[str, Any]]:
    """Return the COCO categories; ids are class index + 1, as in the label maps."""
    things = num_object_classes(granularity)
    rows = zip(class_names(granularity), legend_colours(granularity), strict=True)
    return [
        {
            "id": index + 1,
            "name": name,
            "isthing": int(index < things),
            "supercategory": "object" if index < things else "ground",
            "color": colour,
        }
        for index, (name, colour) in enumerate(rows)
        if index < things or not things_only
    ]


def segment_map(scene: Scene) -> np.ndarray:
    """Return (H, W) int64: a number for each object (1, 2, ...) and, behind all objects, one for each ground."""
    return np.where(scene.instance > 0, scene.instance, len(scene.objects) + 1 + scene.ground.astype(np.int64))


def panoptic_segments(
    scene: Scene, granularity: int, *, hidden: tuple[int, ...] = ()
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Describe the segments of a scene.

    Args:
        scene: the scene.
        granularity: 38, 14 or 10.
        hidden: class indices left without annotation (their pixels are void, id 0).

    Returns:
        (H, W, 3) uint8 RGB whose ``R + 256 G + 65536 B`` is the segment id, and the ``segments_info`` list. Objects
        without visible pixels have no segment. The colours are near the classes' legend colours.
    """
    segments, labels = segment_map(scene), scene.labels(granularity)
    colours, infos = legend_colours(granularity), []
    encoded = np.zeros((*segments.shape, 3), dtype=np.uint8)
    used: set[tuple[int, ...]] = {(0, 0, 0)}
    for number in np.unique(segments):
        mask = segments == number
        label = int(labels[mask][0])
        if label in hidden:
            continue
        colour = _free_colour(colours[label], used)
        encoded[mask] = colour
        infos.append({"id": colour[0] + 256 * colour[1] + 65536 * colour[2], **_describe(mask, label)})
    return encoded, infos


def instance_annotations(scene: Scene, granularity: int, *, hidden: tuple[int, ...] = ()) -> list[dict[str, Any]]:
    """Describe the visible objects of a scene, with masks as uncompressed COCO run lengths."""
    labels, annotations = scene.labels(granularity), []
    for number in range(1, len(scene.objects) + 1):
        mask = scene.instance == number
        if not mask.any() or int(labels[mask][0]) in hidden:
            continue
        annotations.append({**_describe(mask, int(labels[mask][0])), "segmentation": run_lengths(mask)})
    return annotations


def run_lengths(mask: np.ndarray) -> dict[str, Any]:
    """Encode a bool mask (H, W) column by column: lengths of runs of 0, 1, 0, ... and the size."""
    flat = mask.T.ravel()
    changes = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff(np.concatenate([[0], changes, [flat.size]])).tolist()
    return {"counts": [0, *counts] if flat[0] else counts, "size": list(mask.shape)}


def _describe(mask: np.ndarray, label: int) -> dict[str, Any]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
    return {
        "category_id": label + 1,
        "area": int(mask.sum()),
        "bbox": [int(value) for value in box],
        "iscrowd": 0,
    }


def _free_colour(colour: list[int], used: set[tuple[int, ...]]) -> tuple[int, int, int]:
    """Step the blue channel away from taken colours, then remember the choice in ``used``."""
    red, green, blue = colour
    for step in range(256):
        choice = (red, green, (blue + step * 7) % 256)
        if choice not in used:
            used.add(choice)
            return choice
    raise ValueError("a scene holds at most 256 segments of one class.")
