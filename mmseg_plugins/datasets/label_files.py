"""Label map files: 8 or 16 bits in, class indices out, and back, without losing a value."""

import os
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from mmseg_plugins.datasets.records import LabelRule

LABEL_RULES: tuple[LabelRule, ...] = ("as_stored", "reduce_zero", "add_background", "background_last")


def read_label_map(path: str | os.PathLike) -> NDArray[np.integer]:
    """Read a single-channel label map, keeping its depth.

    Args:
        path: PNG (8 bit, 16 bit or palette) or TIFF (8 or 16 bit).

    Returns:
        (H, W) uint8 or uint16, values as stored; for palette images the palette index.

    Raises:
        FileNotFoundError: if the file is missing.
        ValueError: if the file is not a readable image, has several channels, or holds values beyond 16 bits.
    """
    try:
        with Image.open(path) as image:
            if len(image.getbands()) != 1:
                raise ValueError(
                    f"label map {os.fspath(path)} has {len(image.getbands())} channels ({image.mode}), expected one. "
                    "Colour images must be turned into index maps first."
                )
            values = np.array(image)
    except FileNotFoundError:
        raise FileNotFoundError(f"label map {os.fspath(path)} does not exist.") from None
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"label map {os.fspath(path)} cannot be read as an image: {error}") from error
    return _narrow(values, path)


def _narrow(values: NDArray, path: str | os.PathLike) -> NDArray[np.integer]:
    if values.dtype in (np.uint8, np.uint16):
        return values
    if values.dtype == np.bool_:
        return values.astype(np.uint8)
    if not np.issubdtype(values.dtype, np.integer) or (values.size and (values.min() < 0 or values.max() > 65535)):
        raise ValueError(
            f"label map {os.fspath(path)} holds {values.dtype} values that do not fit 16 bits; expected 0..65535."
        )
    return values.astype(np.uint16)


def decode_labels(
    stored: NDArray[np.integer], *, rule: LabelRule = "as_stored", ignore_index: int = 255, num_classes: int = 0
) -> NDArray[np.integer]:
    """Turn stored label values into class indices; nothing wraps.

    Args:
        stored: (H, W) unsigned values as read from a file.
        rule: see `mmseg_plugins.datasets.records.LabelRule`.
        ignore_index: value of ignored pixels, in the file and in the result.
        num_classes: needed by ``background_last`` only: number of classes with background.

    Returns:
        (H, W) of the stored depth, or uint16 where the ignore value needs it.

    Raises:
        ValueError: for an unknown rule, or if ``background_last`` comes without ``num_classes``.
    """
    if rule == "background_last" and num_classes < 1:
        raise ValueError("label rule 'background_last' needs num_classes, the number of classes with background.")
    if rule not in LABEL_RULES:
        raise ValueError(f"unknown label rule {rule!r}, expected one of: {', '.join(LABEL_RULES)}.")
    if rule == "as_stored":
        return stored.astype(np.result_type(stored.dtype, np.min_scalar_type(ignore_index)), copy=False)
    return _decoding_table(stored.dtype.type, rule, ignore_index, num_classes)[stored]


@cache
def _decoding_table(
    stored: type[np.unsignedinteger], rule: LabelRule, ignore_index: int, num_classes: int
) -> NDArray[np.integer]:
    """Class index of every value that a file of this depth can hold."""
    values = np.arange(np.iinfo(stored).max + 1)
    ignored = values == ignore_index
    if rule == "add_background":
        decoded = np.where(ignored, 0, values + 1)
    else:
        zero = ignore_index if rule == "reduce_zero" else num_classes - 1
        decoded = np.where(ignored, ignore_index, np.where(values == 0, zero, values - 1))
    return decoded.astype(np.result_type(stored, np.min_scalar_type(ignore_index)))


def label_depth(largest: int) -> type[np.uint8] | type[np.uint16]:
    """Smallest unsigned type that holds labels up to ``largest``.

    Raises:
        ValueError: if 16 bits do not suffice.
    """
    if largest < 0 or largest > 65535:
        raise ValueError(f"label {largest} does not fit a 16-bit label map; expected 0..65535.")
    return np.uint8 if largest <= 255 else np.uint16


def write_label_map(path: str | os.PathLike, labels: NDArray[np.integer], *, largest: int | None = None) -> None:
    """Write a label map atomically, as 8 bits where they suffice and as 16 bits otherwise.

    Args:
        path: ends in ``.png`` or ``.tif``; the folder is made where missing.
        labels: (H, W) integers, 0..65535.
        largest: largest value that the data set can hold; chooses the depth so that all files have the same.
            None takes the largest value present.

    Raises:
        ValueError: if values are negative, exceed ``largest`` or 16 bits, or the map is not (H, W).
    """
    if labels.ndim != 2:
        raise ValueError(f"label map for {os.fspath(path)} must be (H, W), got shape {labels.shape}.")
    present = int(labels.max()) if labels.size else 0
    lowest = int(labels.min()) if labels.size else 0
    if lowest < 0 or (largest is not None and present > largest):
        raise ValueError(
            f"label map for {os.fspath(path)} holds values {lowest}..{present}, expected 0..{largest or 65535}."
        )
    depth = label_depth(present if largest is None else largest)
    save_image(path, Image.fromarray(labels.astype(depth)))


def save_image(path: str | os.PathLike, image: Image.Image, **options: object) -> None:
    """Save an image under a temporary name, then rename, so that a name never holds half a file.

    Args:
        path: final name; its suffix chooses the format.
        image: what to save.
        options: passed on to `PIL.Image.Image.save`.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.stem}.{os.getpid()}.part{target.suffix}")
    try:
        image.save(temporary, **options)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
