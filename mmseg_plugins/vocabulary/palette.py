"""Colours for any number of classes: deterministic, far apart, and black left for the background.

Each next colour is the one of a grid of RGB colours that lies farthest, in CIELAB, from all colours before it
(farthest-point sampling), so the first K colours of a longer palette are the palette of K classes.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from mmseg_plugins.vocabulary.rows import Colour

BLACK: Colour = (0, 0, 0)

_LEVELS = 24  # per channel: 13 824 candidates
_LIGHTNESS = (30.0, 92.0)  # darker looks like the background, lighter like paper
_SCALE = 16  # CIELAB in whole sixteenths: the same palette on every machine
_STEP = 2654435761  # odd, so that multiples of it visit every 24-bit colour once (Knuth's multiplicative hash)


def distinct_colours(count: int, taken: Sequence[Colour] = ()) -> tuple[Colour, ...]:
    """Return colours that differ from each other, from black and from those taken.

    Args:
        count: how many, 0 or more.
        taken: colours in use already.

    Returns:
        ``count`` RGB colours, 0 to 255.

    Raises:
        ValueError: if ``count`` is negative or more than there are colours.
    """
    if not 0 <= count <= 2**24 - 1 - len(taken):
        raise ValueError(f"expected a number of colours from 0 to {2**24 - 1 - len(taken)}, but got {count}.")
    return _sequence(count, tuple(sorted(set(taken))))


@lru_cache(maxsize=16)
def _sequence(count: int, taken: tuple[Colour, ...]) -> tuple[Colour, ...]:
    candidates, lab = _candidates()
    distance = np.full(lab.shape[1], np.iinfo(np.int32).max, dtype=np.int32)
    for point in _lab(np.array([BLACK, (255, 255, 255), *taken], dtype=np.float64)).T:
        _bring_closer(distance, lab, point)
    chosen = []
    while len(chosen) < count:
        best = int(distance.argmax())
        if distance[best] <= 0:
            break
        chosen.append(tuple(int(value) for value in candidates[best]))
        _bring_closer(distance, lab, lab[:, best])
    return tuple(chosen) + _further(count - len(chosen), {BLACK, *taken, *chosen})


def _bring_closer(distance: np.ndarray, lab: np.ndarray, point: np.ndarray) -> None:
    """Lower each candidate's squared distance to the colours in use by one more of them, in place."""
    squared = (lab[0] - point[0]) ** 2 + (lab[1] - point[1]) ** 2 + (lab[2] - point[2]) ** 2
    np.minimum(distance, squared, out=distance)


@lru_cache(maxsize=1)
def _candidates() -> tuple[np.ndarray, np.ndarray]:
    levels = np.linspace(0, 255, _LEVELS).round()
    colours = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    lab = _lab(colours)
    keep = (lab[0] >= _LIGHTNESS[0] * _SCALE) & (lab[0] <= _LIGHTNESS[1] * _SCALE)
    return colours[keep].astype(np.int64), np.ascontiguousarray(lab[:, keep])


def _further(count: int, used: set[Colour]) -> tuple[Colour, ...]:
    """Colours beyond the grid, for tens of thousands of classes: only distinct, not far apart."""
    found: list[Colour] = []
    number = 0
    while len(found) < count:
        number = (number + _STEP) % 2**24
        colour = (number >> 16, number >> 8 & 255, number & 255)
        if colour not in used:
            found.append(colour)
    return tuple(found)


def _lab(rgb: np.ndarray) -> np.ndarray:
    """Convert (N, 3) sRGB, 0 to 255, to (3, N) CIELAB under D65 (IEC 61966-2-1, CIE 15), in whole 1/16 units."""
    scaled = rgb / 255.0
    linear = np.where(scaled <= 0.04045, scaled / 12.92, ((scaled + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    relative = linear @ to_xyz.T / np.array([0.9505, 1.0, 1.089])
    cube = np.where(relative > (6 / 29) ** 3, np.cbrt(relative), relative / (3 * (6 / 29) ** 2) + 4 / 29)
    lab = np.stack([116 * cube[:, 1] - 16, 500 * (cube[:, 0] - cube[:, 1]), 200 * (cube[:, 1] - cube[:, 2])])
    return (lab * _SCALE).round().astype(np.int32)
