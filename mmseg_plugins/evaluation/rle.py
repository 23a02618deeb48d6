"""COCO's run-length encoding of binary masks, read and written without pycocotools; the strings are identical.

Runs go down the columns and alternate between outside and inside, the first one being outside (0 when the first pixel
is inside). In the compressed form every run from the fourth on is stored as its difference to the run two places before
it, each number in groups of five bits, lowest first, as characters from '0' on; the sixth bit says that another group
follows.
"""

from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

_FIRST_CHARACTER = 48
_GROUP_BITS = 5
_MAX_GROUPS = 7  # 35 bits, enough for any run of a mask below 2^34 pixels


class Rle(TypedDict):
    """A mask as it stands in a COCO JSON.

    Attributes:
        size: [height, width].
        counts: compressed runs as text.
    """

    size: list[int]
    counts: str


def encode_mask(mask: NDArray) -> Rle:
    """Encode a binary mask.

    Args:
        mask: (H, W), nonzero is inside.

    Raises:
        ValueError: if the mask is not (H, W).
    """
    if mask.ndim != 2:
        raise ValueError(f"mask must be (H, W), got shape {mask.shape}. Encode one mask at a time.")
    return Rle(size=[int(mask.shape[0]), int(mask.shape[1])], counts=compress_runs(mask_to_runs(mask)))


def decode_mask(rle: dict) -> NDArray[np.uint8]:
    """Decode a compressed or uncompressed run-length encoding.

    Args:
        rle: ``{"size": [h, w], "counts": str | bytes | list of runs}``.

    Returns:
        (H, W) uint8 of 0 and 1.

    Raises:
        ValueError: if the runs are malformed or do not fill the mask.
    """
    height, width = rle_size(rle)
    runs = _runs_of(rle)
    values = np.zeros(len(runs), dtype=np.uint8)
    values[1::2] = 1
    return np.repeat(values, runs).reshape(width, height).T


def rle_area(rle: dict) -> int:
    """Count the pixels inside an encoded mask, without decoding it."""
    return int(_runs_of(rle)[1::2].sum())


def rle_box(rle: dict) -> list[float]:
    """Return the tight box [x, y, width, height] of an encoded mask; four zeros where it is empty."""
    mask = decode_mask(rle)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not rows.size:
        return [0.0, 0.0, 0.0, 0.0]
    x, y = columns[0], rows[0]
    return [float(x), float(y), float(columns[-1] - x + 1), float(rows[-1] - y + 1)]


def rle_size(rle: dict) -> tuple[int, int]:
    """Return (height, width) of an encoded mask.

    Raises:
        ValueError: if the entry is not a run-length encoding.
    """
    size = rle.get("size") if isinstance(rle, dict) else None
    if not isinstance(size, (list, tuple)) or len(size) != 2 or "counts" not in rle:
        raise ValueError("expected a run-length encoding {'size': [height, width], 'counts': ...}.")
    return int(size[0]), int(size[1])


def mask_to_runs(mask: NDArray) -> NDArray[np.int64]:
    """Return the lengths of the runs of a (H, W) mask in column order, the first one outside the mask."""
    flat = np.asarray(mask).astype(bool).T.reshape(-1)
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    starts = np.concatenate(([0], edges, [flat.size]))
    runs = np.diff(starts).astype(np.int64)
    return np.concatenate(([0], runs)) if flat.size and flat[0] else runs


def compress_runs(runs: NDArray[np.integer]) -> str:
    """Write run lengths as COCO's text."""
    numbers = np.array(runs, dtype=np.int64)
    numbers[3:] -= np.asarray(runs, dtype=np.int64)[1:-2]
    shifted = numbers[:, None] >> (_GROUP_BITS * np.arange(_MAX_GROUPS))  # (runs, groups), sign kept
    # A number ends with the first group whose top bit says the sign of all that is left.
    left = numbers[:, None] >> (_GROUP_BITS * np.arange(1, _MAX_GROUPS + 1))
    finished = left == -((shifted >> (_GROUP_BITS - 1)) & 1)
    length = finished.argmax(1) + 1
    position = np.arange(_MAX_GROUPS)
    more = (position < length[:, None] - 1) << _GROUP_BITS
    characters = (shifted & 31) + more + _FIRST_CHARACTER
    return characters[position < length[:, None]].astype(np.uint8).tobytes().decode("ascii")


def expand_runs(text: str | bytes) -> NDArray[np.int64]:
    """Read run lengths from COCO's text.

    Raises:
        ValueError: if the text has characters that the code does not use, ends inside a number, or gives a negative
            run.
    """
    data = text.encode("ascii", "replace") if isinstance(text, str) else text
    codes = np.frombuffer(data, dtype=np.uint8).astype(np.int64) - _FIRST_CHARACTER
    if not codes.size:
        return codes
    if codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        raise ValueError("not a compressed run-length string: characters outside '0'..'o', or it is cut off.")
    ends = np.flatnonzero((codes & 32) == 0)
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    if lengths.max() > _MAX_GROUPS:
        raise ValueError("not a compressed run-length string: a run is longer than any mask.")
    position = np.arange(codes.size) - np.repeat(starts, lengths)
    numbers = np.add.reduceat((codes & 31) << (_GROUP_BITS * position), starts)
    negative = (codes[ends] >> (_GROUP_BITS - 1)) & 1
    numbers -= negative << (_GROUP_BITS * lengths)
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    if numbers.min() < 0:
        raise ValueError("not a compressed run-length string: a run has negative length.")
    return numbers


def _runs_of(rle: dict) -> NDArray[np.int64]:
    height, width = rle_size(rle)
    counts = rle["counts"]
    runs = expand_runs(counts) if isinstance(counts, (str, bytes)) else np.asarray(counts, dtype=np.int64)
    if (runs.size and runs.min() < 0) or int(runs.sum()) != height * width:
        raise ValueError(f"runs cover {int(runs.sum())} pixels but the mask has {height} x {width} = {height * width}.")
    return runs
