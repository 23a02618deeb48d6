"""How ShapesWorld is drawn: outlines of shapes, object textures and ground tiles.

Only additions, multiplications, divisions, square roots and floors are used on arrays (IEEE 754 fixes their results),
so that a seed gives the same bytes on every machine.
"""

import functools
from collections.abc import Callable

import numpy as np

from mmseg_plugins.datasets.shapesworld.world import ALL_TEXTURES, GROUNDS, SHAPES

TILE_SIZE = 256  # pixels; ground tiles repeat seamlessly
_TILE_SEED = 20_240_611


def _fraction(values: np.ndarray) -> np.ndarray:
    return values - np.floor(values)


def _half_planes(x: np.ndarray, y: np.ndarray, count: int, distance: float) -> np.ndarray:
    """Signed distances to ``count`` lines around the origin, evenly turned, the first normal pointing up."""
    # Rounded so that the last bit of the machine's sine does not matter.
    angles = [2 * np.pi * index / count for index in range(count)]
    return np.stack([x * round(np.sin(a), 6) - y * round(np.cos(a), 6) - distance for a in angles])


def _circle(x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    return np.sqrt(x * x + y * y) - 0.92 * radius


def _square(x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    return np.maximum(np.abs(x), np.abs(y)) - 0.8 * radius


def _triangle(x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    return _half_planes(x, -(y - 0.2 * radius), 3, 0.58 * radius).max(axis=0)


def _star(x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    # A point lies in a pentagram if it violates at most one of its five lines.
    return np.sort(_half_planes(x, -y, 5, 0.36 * radius), axis=0)[-2]


def _cross(x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    across, along = np.abs(x), np.abs(y)
    bar = 0.4 * radius
    return np.minimum(
        np.maximum(across - radius, along - bar),
        np.maximum(across - bar, along - radius),
    )


def _heart(x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    # A square standing on its corner with a half disc on each upper edge.
    half, y = 0.58 * radius, y + 0.1 * radius
    across = np.abs(x)
    square = (across + np.abs(y)) * 0.70710678 - half
    dx, dy = across - half * 0.70710678, y + half * 0.70710678
    return np.minimum(square, np.sqrt(dx * dx + dy * dy) - half)


_OUTLINES = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "heart": _heart,
}


def _blob(x: np.ndarray, y: np.ndarray, radius: float, waves: np.ndarray) -> np.ndarray:
    """Signed distance to a wavy disc; ``waves`` (4, 2) holds cosine and sine amplitudes of orders 2 to 5."""
    distance = np.sqrt(x * x + y * y)
    safe = np.maximum(distance, 1e-6)
    cosine, sine = x / safe, y / safe
    cos_n, sin_n = cosine, sine
    outline = np.ones_like(x)
    for cos_part, sin_part in waves:
        # Angle addition gives the next order without a trigonometric call.
        cos_n, sin_n = cos_n * cosine - sin_n * sine, sin_n * cosine + cos_n * sine
        outline = outline + cos_part * cos_n + sin_part * sin_n
    return distance - 0.86 * radius * outline


def shape_distance(
    shape: int, x: np.ndarray, y: np.ndarray, radius: float, waves: np.ndarray | None = None
) -> np.ndarray:
    """Return the approximate signed distance to a shape's outline, in pixels, negative inside.

    Args:
        shape: index into ``SHAPES``.
        x: pixel offsets to the right of the shape's centre, in the shape's own frame.
        y: pixel offsets below the centre, same shape as ``x``.
        radius: radius of the disc around the shape, in pixels.
        waves: (4, 2) amplitudes of a blob's outline; needed for blobs only.
    """
    name = SHAPES[shape]
    if name != "blob":
        return _OUTLINES[name](x, y, radius)
    if waves is None:
        raise ValueError("shape 'blob' needs waves, an array (4, 2) of outline amplitudes, but got None.")
    return _blob(x, y, radius, waves)


def _edge_distance(coordinate: np.ndarray, period: float) -> np.ndarray:
    """Distance in pixels to the nearest change of a half-and-half pattern; positive in the second half."""
    return (np.abs(_fraction(coordinate / period) - 0.5) * 2 - 0.5) * (period / 2)


def _coverage(distance: np.ndarray) -> np.ndarray:
    return np.clip(0.5 + distance, 0.0, 1.0)


def _dotted(u: np.ndarray, v: np.ndarray, period: float) -> np.ndarray:
    du, dv = (_fraction(u / period) - 0.5) * period, (_fraction(v / period) - 0.5) * period
    return _coverage(0.29 * period - np.sqrt(du * du + dv * dv))


def _checked(u: np.ndarray, v: np.ndarray, period: float) -> np.ndarray:
    across, along = (np.clip(_edge_distance(c, period), -0.5, 0.5) * 2 for c in (u, v))
    return 0.5 + 0.5 * across * along


def _grid(u: np.ndarray, v: np.ndarray, period: float) -> np.ndarray:
    # Moving the edges makes the lines thin: a fifth of the period.
    lines = (_coverage(_edge_distance(c, period) - 0.15 * period) for c in (u, v))
    return np.maximum(*lines)


def _zigzag(u: np.ndarray, v: np.ndarray, period: float) -> np.ndarray:
    swing = np.abs(_fraction(v / (2 * period)) - 0.5) * (2 * period)
    return _coverage(_edge_distance(u + swing, period))


def _speckled(u: np.ndarray, v: np.ndarray, period: float) -> np.ndarray:
    cells = (np.floor(c / (0.4 * period)).astype(np.int64) for c in (u, v))
    mixed = [cell * prime for cell, prime in zip(cells, (73_856_093, 19_349_663), strict=True)]
    return ((mixed[0] ^ mixed[1]) % 1009 < 400).astype(u.dtype)


_TEXTURE_COVERAGE = {
    "plain": lambda u, v, period: np.zeros_like(u),
    "striped": lambda u, v, period: _coverage(_edge_distance(u, period)),
    "dotted": _dotted,
    "checked": _checked,
    "grid": _grid,
    "zigzag": _zigzag,
    "speckled": _speckled,
}


def texture_coverage(texture: int, u: np.ndarray, v: np.ndarray, period: float) -> np.ndarray:
    """Return how much of each pixel has the second tone, 0..1, anti-aliased.

    Args:
        texture: index into ``ALL_TEXTURES``.
        u: coordinate across the pattern, in pixels, phase included.
        v: coordinate along it, same shape.
        period: length after which the pattern repeats, in pixels.
    """
    return _TEXTURE_COVERAGE[ALL_TEXTURES[texture]](u, v, period)


# ---- ground tiles ----------------------------------------------------------------------------------------------------


def _smooth(noise: np.ndarray, axis: int, width: int) -> np.ndarray:
    """Average over ``width`` neighbours along an axis, wrapping around."""
    total = np.zeros_like(noise)
    for offset in range(width):
        total += np.roll(noise, offset - width // 2, axis=axis)
    return total / width


def _noise(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """Wrapping noise about 0 with unit spread, averaged over ``rows`` x ``columns`` pixels."""
    noise = rng.random((TILE_SIZE, TILE_SIZE)) - 0.5
    noise = _smooth(_smooth(noise, 0, rows), 1, columns)
    # Rounded so that the order in which a machine adds does not matter.
    return noise / round(float(np.sqrt((noise * noise).mean())), 6)


def _tint(base: tuple[int, int, int], *layers: tuple[np.ndarray, tuple[int, int, int]]) -> np.ndarray:
    tile = np.broadcast_to(np.array(base, dtype=np.float64), (TILE_SIZE, TILE_SIZE, 3)).copy()
    for amount, colour in layers:
        tile += amount[..., None] * np.array(colour, dtype=np.float64)
    return tile


def _grass(rng: np.random.Generator) -> np.ndarray:
    return _tint((88, 128, 52), (_noise(rng, 5, 1), (20, 22, 12)), (_noise(rng, 9, 9), (8, 10, 4)))


def _sand(rng: np.random.Generator) -> np.ndarray:
    return _tint((208, 184, 138), (_noise(rng, 1, 1), (11, 11, 10)), (_noise(rng, 7, 15), (8, 8, 7)))


def _water(rng: np.random.Generator) -> np.ndarray:
    return _tint((62, 108, 148), (_noise(rng, 2, 11), (16, 18, 16)), (_noise(rng, 5, 21), (9, 10, 10)))


def _brick(rng: np.random.Generator) -> np.ndarray:
    rows, columns = np.mgrid[0:TILE_SIZE, 0:TILE_SIZE]
    course = rows // 8
    shifted = (columns + (course % 2) * 8) % TILE_SIZE
    mortar = (rows % 8 < 2) | (shifted % 16 < 2)
    tone = (rng.random((TILE_SIZE // 8, TILE_SIZE // 16)) - 0.5)[course, shifted // 16]
    tile = _tint((150, 74, 56), (tone, (44, 26, 20)), (_noise(rng, 1, 1), (6, 5, 5)))
    tile[mortar] = np.array((186, 178, 168)) + _noise(rng, 1, 1)[mortar][:, None] * 5
    return tile


def _wood(rng: np.random.Generator) -> np.ndarray:
    rows, _ = np.mgrid[0:TILE_SIZE, 0:TILE_SIZE]
    plank = (rng.random(TILE_SIZE // 16) - 0.5)[rows // 16]
    tile = _tint(
        (138, 98, 62),
        (plank, (30, 24, 18)),
        (_noise(rng, 1, 23), (10, 8, 6)),
        (_noise(rng, 2, 41), (7, 6, 4)),
    )
    tile[rows % 16 == 0] *= 0.55
    return tile


def _snow(rng: np.random.Generator) -> np.ndarray:
    return _tint((234, 238, 244), (_noise(rng, 9, 9), (7, 5, 3)), (_noise(rng, 1, 1), (3, 3, 3)))


_TILES: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "grass": _grass,
    "sand": _sand,
    "water": _water,
    "brick": _brick,
    "wood": _wood,
    "snow": _snow,
}


@functools.cache
def ground_tile(ground: int) -> np.ndarray:
    """Return the seamless tile of a ground.

    Args:
        ground: index into ``GROUNDS``.

    Returns:
        (256, 256, 3) float32 RGB, about 0..255, read-only. The same in every call and on every machine.
    """
    rng = np.random.Generator(np.random.PCG64([_TILE_SEED, ground]))
    tile = np.floor(_TILES[GROUNDS[ground]](rng) + 0.5).astype(np.float32)
    tile.flags.writeable = False
    return tile
