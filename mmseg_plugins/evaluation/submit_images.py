"""The images that a submission is about: their names, sizes and ids, from a folder or from COCO's image list."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from mmseg_plugins.evaluation.panoptic_files import read_json

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class SubmissionImage:
    """One image.

    Attributes:
        stem: file name without suffix.
        size: (height, width) in pixels.
        image_id: the benchmark's id; the stem where it has none.
    """

    stem: str
    size: tuple[int, int]
    image_id: int | str


def images_from_folder(folder: str | os.PathLike, img_suffix: str = "") -> dict[str, SubmissionImage]:
    """List the images of a folder and its sub-folders by stem.

    Args:
        folder: where they lie.
        img_suffix: what follows the stem; empty takes every image's extension.

    Raises:
        FileNotFoundError: if the folder is missing or holds no image.
        ValueError: if a file cannot be read, or two images have one name.
    """
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"the folder of images, {root}, does not exist.")
    found: dict[str, SubmissionImage] = {}
    for path in sorted(root.rglob("*")):
        wanted = path.name.endswith(img_suffix) if img_suffix else path.suffix.lower() in IMAGE_SUFFIXES
        if not wanted or path.name.startswith(".") or not path.is_file():
            continue
        stem = path.name.removesuffix(img_suffix or path.suffix)
        if stem in found:
            raise ValueError(f"two images in {root} have the name {stem!r}.")
        found[stem] = SubmissionImage(stem, _size_of(path), stem)
    if not found:
        raise FileNotFoundError(f"no images{f' ending in {img_suffix}' if img_suffix else ''} in {root}.")
    return found


def images_from_json(path: str | os.PathLike) -> dict[str, SubmissionImage]:
    """Read COCO's image list (``image_info_test-dev2017.json``, or any annotation file) by stem.

    Raises:
        FileNotFoundError: if the file is missing.
        ValueError: if it has no ``images``, or one of them lacks ``id``, ``file_name``, ``height`` or ``width``.
    """
    content = read_json(path)
    entries = content.get("images") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{os.fspath(path)} has no list 'images'; expected image_info_*.json or an annotation file.")
    return {image.stem: image for image in _described(entries, path)}


def _described(entries: Iterable[Any], path: str | os.PathLike) -> Iterable[SubmissionImage]:
    for entry in entries:
        missing = [key for key in ("id", "file_name", "height", "width") if key not in entry]
        if missing:
            raise ValueError(f"{os.fspath(path)}: an image lacks {', '.join(missing)}: {str(entry)[:100]}.")
        stem = Path(entry["file_name"]).stem
        yield SubmissionImage(stem, (int(entry["height"]), int(entry["width"])), entry["id"])


def _size_of(path: Path) -> tuple[int, int]:
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{path} cannot be read as an image: {error}") from error
