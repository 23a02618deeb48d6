"""COCO's compressed run-length masks as text, through pycocotools (the ``coco`` extra)."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


def _coco_masks() -> Any:
    try:
        from pycocotools import mask
    except ImportError as error:
        raise ImportError("COCO masks need pycocotools. Install it with: pip install 'mmseg_plugins[coco]'") from error
    return mask


def encode_rle(mask: NDArray) -> dict[str, Any]:
    """Encode a mask.

    Args:
        mask: (H, W), anything non-zero is inside.

    Returns:
        ``size`` [H, W] and ``counts`` as text, ready for JSON.
    """
    encoded = _coco_masks().encode(np.asfortranarray(mask != 0, dtype=np.uint8))
    return {"size": [int(side) for side in encoded["size"]], "counts": encoded["counts"].decode("ascii")}


def decode_rle(rle: Mapping[str, Any], *, where: str = "mask") -> NDArray[np.bool_]:
    """Decode a compressed mask.

    Args:
        rle: ``size`` [H, W] and ``counts`` (text or bytes).
        where: what the mask belongs to, for error messages.

    Returns:
        (H, W) bool.

    Raises:
        ValueError: if ``size`` or ``counts`` are missing, of another kind, or do not fit each other.
    """
    check_rle(rle, where=where)
    counts = rle["counts"]
    content = {
        "size": [int(side) for side in rle["size"]],
        "counts": counts.encode() if isinstance(counts, str) else counts,
    }
    return _coco_masks().decode(content).astype(bool)


def check_rle(rle: Any, *, where: str = "mask") -> None:
    """Check that a compressed mask is whole: its runs must add up to its size.

    pycocotools itself does not look, and reads beyond the end of a damaged one.

    Raises:
        ValueError: saying what is wrong with which mask.
    """
    if not isinstance(rle, Mapping) or "size" not in rle or "counts" not in rle:
        raise ValueError(f"{where}: expected RLE with 'size' and 'counts', got {str(rle)[:80]!r}.")
    size, counts = rle["size"], rle["counts"]
    if not (
        isinstance(size, list | tuple) and len(size) == 2 and all(isinstance(side, int) and side > 0 for side in size)
    ):
        raise ValueError(f"{where}: RLE size must be [height, width], got {size!r}.")
    if not isinstance(counts, str | bytes):
        raise ValueError(f"{where}: RLE counts must be compressed text, got {type(counts).__name__}.")
    covered = sum(_run_lengths(counts, where))
    if covered != size[0] * size[1]:
        raise ValueError(f"{where}: RLE covers {covered} pixels, but its size {list(size)} has {size[0] * size[1]}.")


def _run_lengths(counts: str | bytes, where: str) -> list[int]:
    """Run lengths of a compressed mask: 6 bits a character, 5 of them value, from the third run on as differences."""
    codes = counts.encode("latin-1", "replace") if isinstance(counts, str) else counts
    runs: list[int] = []
    value = shift = 0
    for code in codes:
        digit = code - 48
        if not 0 <= digit < 64:
            raise ValueError(f"{where}: RLE counts hold the character {chr(code)!r}, which the format does not have.")
        value |= (digit & 31) << shift
        shift += 5
        if digit & 32:
            continue
        if digit & 16:
            value -= 1 << shift
        if len(runs) > 2:
            value += runs[-2]
        if value < 0:
            raise ValueError(f"{where}: RLE counts hold a negative run.")
        runs.append(value)
        value = shift = 0
    if shift:
        raise ValueError(f"{where}: RLE counts end in the middle of a run.")
    return runs


def rle_of_polygons(polygons: list[list[float]], size: tuple[int, int]) -> dict[str, Any]:
    """Rasterise polygons [x0, y0, x1, y1, …] (pixels) into one mask of ``size`` (H, W), as the COCO evaluator does."""
    masks = _coco_masks()
    parts = masks.frPyObjects(polygons, *size) if polygons else [masks.encode(np.zeros(size, np.uint8, order="F"))]
    return masks.merge(parts)


def rle_of_runs(rle: Mapping[str, Any]) -> dict[str, Any]:
    """Compress an RLE whose ``counts`` are a list of run lengths (COCO's crowd annotations)."""
    return _coco_masks().frPyObjects(dict(rle), *rle["size"])
