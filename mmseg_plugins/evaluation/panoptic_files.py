"""Panoptic results on disk: COCO's PNG of segment ids beside a JSON that says what each id is."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from mmseg_plugins.datasets.label_files import save_image
from mmseg_plugins.evaluation.panoptic import Segments

_LARGEST_ID = (1 << 24) - 1


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


def write_panoptic_json(path: str | os.PathLike, annotations: Sequence[dict[str, Any]], **further: object) -> None:
    """Write a panoptic JSON atomically.

    Args:
        path: the JSON; its PNGs belong into the folder of the same stem.
        annotations: one entry per image with ``image_id``, ``file_name`` and ``segments_info``.
        further: other top-level entries, such as ``images`` and ``categories``.
    """
    write_json(path, {"annotations": list(annotations), **further})


def read_segment_ids(path: str | os.PathLike) -> NDArray[np.int32]:
    """Read a PNG of segment ids, ``id = R + 256 G + 65536 B``, 0 = void.

    Returns:
        (H, W) int32.

    Raises:
        FileNotFoundError: if the file is missing.
        ValueError: if it is not a readable 8-bit RGB image.
    """
    try:
        with Image.open(path) as image:
            if image.mode not in ("RGB", "P"):
                raise ValueError(
                    f"{os.fspath(path)} has mode {image.mode}, expected 8-bit RGB with id = R + 256 G + 65536 B."
                )
            colours = np.asarray(image.convert("RGB"))
    except FileNotFoundError:
        raise FileNotFoundError(f"segment id map {os.fspath(path)} does not exist.") from None
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"segment id map {os.fspath(path)} cannot be read as an image: {error}") from error
    return colours_to_ids(colours)


def write_segment_ids(path: str | os.PathLike, ids: NDArray[np.integer]) -> None:
    """Write segment ids as an 8-bit RGB PNG, atomically.

    Raises:
        ValueError: if the map is not (H, W) or an id is outside 0..2^24 - 1.
    """
    save_image(path, Image.fromarray(ids_to_colours(ids)))


def colours_to_ids(colours: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Turn (..., 3) RGB into (...) segment ids."""
    parts = colours.astype(np.int32)
    return parts[..., 0] + 256 * parts[..., 1] + 65536 * parts[..., 2]


def ids_to_colours(ids: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Turn (H, W) segment ids into (H, W, 3) RGB.

    Raises:
        ValueError: if the map is not (H, W) or an id is outside 0..2^24 - 1.
    """
    if ids.ndim != 2 or (ids.size and (ids.min() < 0 or ids.max() > _LARGEST_ID)):
        raise ValueError(f"segment ids must be an (H, W) map of 0..{_LARGEST_ID}, got shape {ids.shape}.")
    wide = ids.astype(np.int64)
    return np.stack((wide & 255, (wide >> 8) & 255, wide >> 16), axis=-1).astype(np.uint8)


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


def write_json(path: str | os.PathLike, content: object) -> None:
    """Write a JSON file under a temporary name, then rename it."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        temporary.write_text(json.dumps(content), encoding="utf-8")
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _reason(error: Exception) -> str:
    return f"a segment has no {error}" if isinstance(error, KeyError) else str(error)
