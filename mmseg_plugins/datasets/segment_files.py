"""Panoptic PNG files: segment ids in three colour channels."""

import os

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

LARGEST_ID = 256**3 - 1


def rgb_to_id(colours: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Segment ids of a panoptic image: R + 256 G + 65536 B.

    Args:
        colours: (H, W, 3) uint8, RGB.

    Returns:
        (H, W) int32, 0 is void.
    """
    wide = colours.astype(np.int32)
    return wide[..., 0] + 256 * wide[..., 1] + 65536 * wide[..., 2]


def id_to_rgb(ids: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Colours of segment ids, the inverse of `rgb_to_id`.

    Args:
        ids: (H, W) integers, 0..2^24 - 1.

    Returns:
        (H, W, 3) uint8, RGB.

    Raises:
        ValueError: for ids outside the range.
    """
    if ids.size and (ids.min() < 0 or ids.max() > LARGEST_ID):
        raise ValueError(f"segment ids {int(ids.min())}..{int(ids.max())} do not fit 24 bits (0..{LARGEST_ID}).")
    wide = ids.astype(np.int64)
    return np.stack([wide % 256, wide // 256 % 256, wide // 65536], axis=-1).astype(np.uint8)


def read_segment_ids(path: str | os.PathLike) -> NDArray[np.int32]:
    """Read a panoptic PNG.

    Returns:
        (H, W) int32 segment ids, 0 is void.

    Raises:
        FileNotFoundError: if the file is missing.
        ValueError: if it is not a readable image of three 8-bit channels.
    """
    try:
        with Image.open(path) as image:
            if image.mode != "RGB":
                raise ValueError(
                    f"panoptic map {os.fspath(path)} has mode {image.mode}, expected RGB (8 bits a channel)."
                )
            return rgb_to_id(np.asarray(image))
    except FileNotFoundError:
        raise FileNotFoundError(f"panoptic map {os.fspath(path)} does not exist.") from None
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"panoptic map {os.fspath(path)} cannot be read as an image: {error}") from error
