"""Semantic results given as one mask per class and image, in COCO's stuff results format."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmseg_plugins.evaluation.class_lists import ClassList, load_class_list
from mmseg_plugins.evaluation.label_tables import IGNORED
from mmseg_plugins.evaluation.panoptic_files import read_json
from mmseg_plugins.evaluation.rle import decode_mask

STUFF_SERVER = "coco_stuff_server"
_OTHER = 183  # COCO's stuff server merges all things into this category


def stuff_server_classes() -> ClassList:
    """Return the 92 classes of COCO's stuff server: ids 92..182, and 183 for all things together."""
    stuff = load_class_list("coco_stuff_171")
    kept = [index for index, thing in enumerate(stuff.is_thing) if not thing]
    return ClassList(
        source=STUFF_SERVER,
        names=(*(stuff.names[index] for index in kept), "other"),
        category_ids=(*(stuff.category_ids[index] for index in kept), _OTHER),
        is_thing=(False,) * (len(kept) + 1),
        has_ids=True,
    )


def fold_things() -> NDArray[np.int32]:
    """Return the table from the 171 COCO-Stuff classes to the server's 92."""
    stuff, server = load_class_list("coco_stuff_171"), stuff_server_classes().index_of_category
    categories = [_OTHER if thing else i for i, thing in zip(stuff.category_ids, stuff.is_thing, strict=True)]
    return np.array([server[category] for category in categories], dtype=np.int32)


@dataclass(frozen=True)
class MaskResults:
    """Masks of a results JSON.

    Attributes:
        path: the JSON.
        entries: image id -> its entries (``category_id``, ``segmentation``).
        index_of_category: category id -> class index.
    """

    path: Path
    entries: dict[int | str, list[dict[str, Any]]]
    index_of_category: dict[int, int]

    def label_map(self, image_id: int | str, shape: tuple[int, int]) -> NDArray[np.int32]:
        """Paint the masks of one image; pixels without a mask are `IGNORED`, no answer.

        Raises:
            ValueError: naming JSON and image, if a mask is malformed, has another size, or masks overlap.
        """
        labels = np.full(shape, IGNORED, dtype=np.int32)
        for entry in self.entries[image_id]:
            where = f"{self.path}: image {image_id!r}, category {entry['category_id']}"
            try:
                mask = decode_mask(entry["segmentation"]).astype(bool)
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from error
            if mask.shape != shape:
                raise ValueError(f"{where}: its mask is {mask.shape} but the label map is {shape} (height, width).")
            if (labels[mask] != IGNORED).any():
                raise ValueError(f"{where}: its mask overlaps another one. A pixel has one class.")
            labels[mask] = self.index_of_category[entry["category_id"]]
        return labels


def read_mask_results(path: Path, classes: ClassList) -> MaskResults:
    """Read a results JSON: a list of ``image_id``, ``category_id`` and ``segmentation`` (RLE).

    Raises:
        FileNotFoundError: if it is missing.
        ValueError: naming the file, if an entry lacks a field or names an unknown category.
    """
    content = read_json(path)
    if not isinstance(content, list):
        raise ValueError(f"{path} is not a COCO results JSON: expected a list of objects.")
    index = classes.index_of_category
    entries: dict[int | str, list[dict[str, Any]]] = {}
    for number, entry in enumerate(content):
        missing = {"image_id", "category_id", "segmentation"} - (set(entry) if isinstance(entry, dict) else set())
        if missing:
            raise ValueError(f"{path}: entry {number} has no {', '.join(sorted(missing))}.")
        if entry["category_id"] not in index:
            raise ValueError(
                f"{path}: entry {number} has category_id {entry['category_id']!r}, which is not in {classes.source}."
            )
        entries.setdefault(entry["image_id"], []).append(entry)
    return MaskResults(path, entries, index)
