"""Panoptic results on disk: COCO's PNG of segment ids beside a JSON that says what each id is."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmseg_plugins.datasets.segment_files import read_segment_ids
from mmseg_plugins.evaluation.panoptic import Segments


@dataclass(frozen=True)
class PanopticFile:
    """The content of a panoptic JSON.

    Attributes:
        path: the JSON.
        folder: where the PNGs lie.
        images: image id -> its annotation (``file_name``, ``segments_info``), in file order.
        categories: category entries (``id``, ``name``, ``isthing``); empty where the JSON has none.
    """

    path: Path
    folder: Path
    images: dict[int | str, dict[str, Any]]
    categories: list[dict[str, Any]]

    def read_ids(self, image_id: int | str) -> NDArray[np.int32]:
        """Read the segment ids of one image, (H, W) int32."""
        return read_segment_ids(self.folder / self.images[image_id]["file_name"])

    def read_segments(self, image_id: int | str, category_index: dict[int, int]) -> Segments:
        """Return the segments of one image with category indices.

        Raises:
            ValueError: naming the JSON and the image.
        """
        try:
            return Segments.from_info(self.images[image_id]["segments_info"], category_index)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{self.path}: image {image_id!r}: {_reason(error)}") from error


def read_panoptic_json(path: str | os.PathLike, folder: str | os.PathLike | None = None) -> PanopticFile:
    """Read a panoptic JSON and check its form.

    Args:
        path: the JSON.
        folder: where the PNGs lie; None takes the folder beside the JSON that has its stem.

    Raises:
        FileNotFoundError: if the JSON or the folder is missing.
        ValueError: naming the file, if it is not a panoptic JSON or lists an image twice.
    """
    path = Path(path)
    content = read_json(path)
    annotations = content.get("annotations") if isinstance(content, dict) else None
    if not isinstance(annotations, list):
        raise ValueError(f"{path} is not a panoptic JSON: expected an object with a list 'annotations'.")
    images: dict[int | str, dict[str, Any]] = {}
    for entry in annotations:
        missing = {"image_id", "file_name", "segments_info"} - set(entry)
        if missing:
            raise ValueError(f"{path} is not a panoptic JSON: an annotation has no {', '.join(sorted(missing))}.")
        if entry["image_id"] in images:
            raise ValueError(f"{path} lists image {entry['image_id']!r} twice.")
        images[entry["image_id"]] = entry
    folder = path.with_suffix("") if folder is None else Path(folder)
    if images and not folder.is_dir():
        raise FileNotFoundError(f"folder {folder} with the PNGs of {path} does not exist; expected it beside the JSON.")
    return PanopticFile(path, folder, images, content.get("categories", []))


def read_json(path: str | os.PathLike) -> Any:
    """Read a JSON file.

    Raises:
        FileNotFoundError: if it is missing.
        ValueError: naming the file, if it is not valid JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"file {os.fspath(path)} does not exist.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{os.fspath(path)} is not valid JSON: {error}") from error


def _reason(error: Exception) -> str:
    return f"a segment has no {error}" if isinstance(error, KeyError) else str(error)
