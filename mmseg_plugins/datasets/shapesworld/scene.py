"""Scenes of ShapesWorld: composed from a seed and an index, always the same bytes."""

import dataclasses
from typing import Literal

import numpy as np

from mmseg_plugins.datasets.shapesworld.patterns import TILE_SIZE, ground_tile, shape_distance, texture_coverage
from mmseg_plugins.datasets.shapesworld.world import (
    ALL_RGB,
    ALL_TEXTURES,
    COLOURS,
    DARK_PATTERN_ONLY,
    GROUNDS,
    LIGHT_PATTERN_ONLY,
    NO_LABEL,
    PAIRS,
    SEEN_PAIRS,
    SHAPES,
    TEXTURES,
    coarsen,
    ground_class,
    object_class,
)

SPLITS = ("train", "validation", "test")
MIN_SCENE_SIZE = 16

_TILT = 20.0  # degrees, either way, for shapes and patterns
_COLOUR_JITTER = 18
_LIGHT_PATTERN_SHARE = 0.4
_PERIODS = {"dotted": (4.5, 6.5), "checked": (5.0, 7.5), "grid": (5.0, 7.0)}  # pixels
_DEFAULT_PERIOD = (4.0, 6.0)
_TWO_GROUNDS_SHARE = 0.6
_PLACING_TRIES = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class SceneOptions:
    """What scenes look like.

    Args:
        size: (height, width) in pixels, at least 16 each.
        objects: fewest and most objects; None grows with the area (1-3 at 64 x 64, 2-5 at 96 x 96).
        radius: smallest and largest object radius in pixels. Textures keep their scale whatever the radius.
        pairs: "all" or "seen" (the held-out colour-texture pairs never appear).
        grounds: most grounds in a scene; None grows with the size (two at 64 x 64, at most four).
        nameless: share of objects, 0..1, of a colour (half of them) or a texture that has no name; for training CLIP.
            They have no label.
        margin: how far from the border centres stay, in radii. 0.35 lets objects be cut by the border.
    """

    size: tuple[int, int] = (64, 64)
    objects: tuple[int, int] | None = None
    radius: tuple[float, float] = (12.0, 21.0)
    pairs: Literal["all", "seen"] = "all"
    grounds: int | None = None
    nameless: float = 0.0
    margin: float = 0.35

    def __post_init__(self) -> None:
        if len(self.size) != 2 or min(self.size) < MIN_SCENE_SIZE:
            raise ValueError(
                f"scene size must be (height, width) of at least {MIN_SCENE_SIZE} px, but got {self.size}."
            )
        if self.pairs not in ("all", "seen"):
            raise ValueError(f"pairs must be 'all' or 'seen', but got {self.pairs!r}.")
        low, high = self.object_range
        if not 0 <= low <= high <= 250:
            raise ValueError(f"objects must be (fewest, most) within 0..250, but got {self.objects}.")
        if not 0 <= self.nameless <= 1:
            raise ValueError(f"nameless must be a share within 0..1, but got {self.nameless}.")
        if not 2 <= self.radius[0] <= self.radius[1]:
            raise ValueError(f"radius must be (smallest, largest) of at least 2 px, but got {self.radius}.")

    @property
    def object_range(self) -> tuple[int, int]:
        """Fewest and most objects, growing with the area unless given."""
        if self.objects is not None:
            return self.objects
        area = self.size[0] * self.size[1] / 4096
        low = max(1, int(0.9 * area + 0.5))
        return low, max(low, int(2 * area + 1.3))

    @property
    def max_grounds(self) -> int:
        """Most grounds in a scene."""
        return self.grounds if self.grounds is not None else min(4, max(1, 1 + max(self.size) // 64))


@dataclasses.dataclass(frozen=True)
class SceneObject:
    """One painted object: its colour, texture and shape index, and how many of its pixels are visible.

    A colour index of 8 or more, or a texture index of 4 or more, is one without a name.
    """

    colour: int
    texture: int
    shape: int
    visible: int

    @property
    def label(self) -> int:
        """Class index among the 38 classes, 255 without a name."""
        is_named = self.colour < len(COLOURS) and self.texture < len(TEXTURES)
        return object_class(self.colour, self.texture, 38) if is_named else NO_LABEL


@dataclasses.dataclass(frozen=True)
class Scene:
    """A picture and its ground truth.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        ground: (H, W) uint8, ground index under everything, 0..5.
        instance: (H, W) uint8, 0 where no object is, else 1 + index into ``objects``.
        objects: painted from first to last; a later one hides an earlier one.
    """

    image: np.ndarray
    ground: np.ndarray
    instance: np.ndarray
    objects: tuple[SceneObject, ...]

    def labels(self, granularity: int = 38) -> np.ndarray:
        """Return the (H, W) uint8 label map of a granularity (38, 14 or 10).

        Every pixel has a label, except those of objects of a nameless colour or texture (255).
        """
        table = [0] + [item.label for item in self.objects]
        objects = np.array(table, dtype=np.uint8)[self.instance]
        labels = np.where(self.instance > 0, objects, ground_class(0, 38) + self.ground).astype(np.uint8)
        return coarsen(labels, granularity)

    @property
    def colour(self) -> np.ndarray:
        """(H, W) uint8 colour index of the object at each pixel, 255 on grounds."""
        return np.array([255] + [item.colour for item in self.objects], dtype=np.uint8)[self.instance]

    @property
    def texture(self) -> np.ndarray:
        """(H, W) uint8 texture index of the object at each pixel, 255 on grounds."""
        return np.array([255] + [item.texture for item in self.objects], dtype=np.uint8)[self.instance]


def scene_generator(seed: int, split: str, index: int) -> np.random.Generator:
    """Return the random generator of one scene; seeds, splits and indices never share a stream."""
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, but got {split!r}.")
    return np.random.Generator(np.random.PCG64([seed, SPLITS.index(split), index]))


def generate_scene(seed: int, index: int, *, split: str = "train", options: SceneOptions | None = None) -> Scene:
    """Generate one scene.

    Args:
        seed: of the whole set, 0 or more.
        index: of the scene in its set, 0 or more. Scenes can be made in any order.
        split: "train", "validation" or "test": separate streams of the same seed.
        options: size and content; the defaults where left out.

    Returns:
        The scene. Equal arguments and ``GENERATOR_VERSION`` give equal bytes.
    """
    options = options or SceneOptions()
    rng = scene_generator(seed, split, index)
    ground = _draw_ground_map(rng, options)
    canvas = _paint_grounds(rng, ground)
    instance = np.zeros(options.size, dtype=np.uint8)
    placed: list[tuple[float, float, float]] = []
    kinds: list[tuple[int, int, int]] = []
    low, high = options.object_range
    for number in range(int(rng.integers(low, high + 1))):
        colour, texture = _choose_pair(rng, options)
        shape = int(rng.integers(len(SHAPES)))
        placed.append(_place(rng, options, placed))
        _paint_object(rng, canvas, instance, number + 1, (colour, texture, shape), placed[-1])
        kinds.append((colour, texture, shape))
    visible = np.bincount(instance.ravel(), minlength=len(kinds) + 1)[1:]
    objects = tuple(SceneObject(*kind, int(count)) for kind, count in zip(kinds, visible, strict=True))
    image = np.clip(np.floor(canvas + np.float32(0.5)), 0, 255).astype(np.uint8)
    return Scene(image, ground, instance, objects)


def _choose_pair(rng: np.random.Generator, options: SceneOptions) -> tuple[int, int]:
    # No draw without nameless objects, so that they do not change the scenes of others.
    if options.nameless > 0 and (draw := rng.random()) < options.nameless:
        if draw < options.nameless / 2:
            return int(rng.integers(len(COLOURS), len(ALL_RGB))), int(rng.integers(len(TEXTURES)))
        return int(rng.integers(len(COLOURS))), int(rng.integers(len(TEXTURES), len(ALL_TEXTURES)))
    pairs = PAIRS if options.pairs == "all" else SEEN_PAIRS
    return pairs[int(rng.integers(len(pairs)))]


def _uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return low + (high - low) * rng.random()


def _rotation(rng: np.random.Generator, degrees: float) -> tuple[float, float]:
    """Cosine and sine of a random angle, rounded so that the last bit of the machine's sine does not matter."""
    angle = _uniform(rng, -degrees, degrees) * 0.017453292519943295
    return round(float(np.cos(angle)), 6), round(float(np.sin(angle)), 6)


def _draw_ground_map(rng: np.random.Generator, options: SceneOptions) -> np.ndarray:
    """Divide the canvas by wavy lines; the first ground covers what the later ones leave."""
    height, width = options.size
    kinds = rng.permutation(len(GROUNDS))
    count = 1
    while count < options.max_grounds and rng.random() < _TWO_GROUNDS_SHARE:
        count += 1
    ground = np.full((height, width), kinds[0], dtype=np.uint8)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    for kind in kinds[1:count]:
        cosine, sine = _rotation(rng, 180.0)
        across = (x - _uniform(rng, 0.25, 0.75) * width) * cosine + (y - _uniform(rng, 0.25, 0.75) * height) * sine
        along = y * cosine - x * sine
        wave = along / _uniform(rng, 24.0, 40.0) + rng.random()
        swing = (wave - np.floor(wave)) * 2 - 1
        # A parabola bent up and down in turn looks like a sine and needs no trigonometric call.
        bend = (1 - swing * swing) * np.where(np.floor(wave) % 2 == 0, 1, -1)
        ground[across + _uniform(rng, 1.5, 4.0) * bend > 0] = kind
    return ground


def _paint_grounds(rng: np.random.Generator, ground: np.ndarray) -> np.ndarray:
    height, width = ground.shape
    canvas = np.zeros((height, width, 3), dtype=np.float32)
    for kind in range(len(GROUNDS)):
        where = ground == kind
        if not where.any():
            continue
        top, left = rng.integers(0, TILE_SIZE, 2)
        rows = (np.arange(height) + top) % TILE_SIZE
        columns = (np.arange(width) + left) % TILE_SIZE
        tile = ground_tile(kind)[np.ix_(rows, columns)]
        gain = np.float32(_uniform(rng, 0.87, 1.1))
        shift = rng.integers(-9, 10, 3).astype(np.float32)
        np.copyto(canvas, tile * gain + shift, where=where[..., None])
    return canvas


def _place(
    rng: np.random.Generator, options: SceneOptions, placed: list[tuple[float, float, float]]
) -> tuple[float, float, float]:
    """Choose (x, y, radius): of a few random places, the first that hides little, else the one that hides least."""
    height, width = options.size
    radius = _uniform(rng, *options.radius)
    best, best_gap = (width / 2, height / 2), -np.inf
    for _ in range(_PLACING_TRIES):
        x = _uniform(rng, min(options.margin * radius, width / 2), max(width - options.margin * radius, width / 2))
        y = _uniform(rng, min(options.margin * radius, height / 2), max(height - options.margin * radius, height / 2))
        gaps = [((x - px) ** 2 + (y - py) ** 2) - (0.75 * (radius + pr)) ** 2 for px, py, pr in placed]
        gap = min(gaps, default=0.0)
        if gap >= 0:
            return x, y, radius
        if gap > best_gap:
            best, best_gap = (x, y), gap
    return *best, radius


def _paint_object(
    rng: np.random.Generator,
    canvas: np.ndarray,
    instance: np.ndarray,
    number: int,
    kind: tuple[int, int, int],
    place: tuple[float, float, float],
) -> None:
    """Paint an object onto ``canvas`` and write ``number`` into ``instance``, both in place."""
    colour, texture, shape = kind
    centre_x, centre_y, radius = place
    height, width = instance.shape
    reach = 1.2 * radius + 2
    top, bottom = max(0, int(centre_y - reach)), min(height, int(centre_y + reach) + 1)
    left, right = max(0, int(centre_x - reach)), min(width, int(centre_x + reach) + 1)
    x = (np.arange(left, right) - centre_x).astype(np.float32)[None, :]
    y = (np.arange(top, bottom) - centre_y).astype(np.float32)[:, None]
    cosine, sine = _rotation(rng, _TILT)
    waves = np.round((rng.random((4, 2)) - 0.5) * np.array([[0.3], [0.22], [0.16], [0.1]]), 6)
    distance = shape_distance(shape, x * cosine + y * sine, y * cosine - x * sine, radius, waves)

    period = _uniform(rng, *_PERIODS.get(ALL_TEXTURES[texture], _DEFAULT_PERIOD))
    cosine, sine = _rotation(rng, _TILT)
    turned = rng.random() < 0.5
    phase_u, phase_v = rng.random(2) * period
    u, v = x * cosine + y * sine + phase_u, y * cosine - x * sine + phase_v
    second = texture_coverage(texture, v if turned else u, u if turned else v, period)[..., None]

    base = (ALL_RGB[colour] + rng.integers(-_COLOUR_JITTER, _COLOUR_JITTER + 1, 3)).astype(np.float32)
    is_light = rng.random() < _LIGHT_PATTERN_SHARE
    is_light = (is_light and colour not in DARK_PATTERN_ONLY) or colour in LIGHT_PATTERN_ONLY
    other = np.float32(0.3) * base + np.float32(170 if is_light else 0)
    cover = np.clip(0.5 - distance, 0, 1)[..., None].astype(np.float32)
    paint = base + (other - base) * second.astype(np.float32)
    window = canvas[top:bottom, left:right]
    window += (paint - window) * cover
    instance[top:bottom, left:right][distance < 0] = number
