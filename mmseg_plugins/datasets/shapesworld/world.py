"""What exists in ShapesWorld: colours, textures, grounds, shapes, and the label sets made from them.

A *pair* is a colour with a texture. Classes are pairs and grounds; the shape of an object is nuisance and gives the
instances. Eight balanced pairs are held out: scenes made with ``pairs="seen"`` never show them.
"""

import numpy as np

# Raise whenever any scene's bytes change: written sets and the embedded model's record carry it.
GENERATOR_VERSION = 1

# Every word is one token of CLIP's tokeniser. Black and white are left out: their two-tone patterns mirror each other.
COLOURS = ("red", "green", "blue", "yellow", "purple", "pink", "orange", "teal")
COLOUR_RGB = np.array(
    [
        (205, 40, 40),
        (45, 165, 60),
        (45, 75, 215),
        (232, 214, 50),
        (135, 60, 180),
        (238, 120, 178),
        (238, 135, 30),
        (25, 160, 155),
    ],
    dtype=np.int64,
)
# Colours and textures that training scenes may add and no caption names. The former appear with every texture, the
# latter in every colour; they teach a model that the two do not depend on each other. They are far from those with a
# name, and the colours from the grounds.
NAMELESS_RGB = np.array(
    [(172, 226, 48), (95, 214, 242), (128, 128, 130), (28, 34, 104), (108, 22, 48), (34, 34, 38)], dtype=np.int64
)
ALL_RGB = np.concatenate([COLOUR_RGB, NAMELESS_RGB])
# On these the other second tone would have too little contrast.
DARK_PATTERN_ONLY = frozenset({COLOURS.index("yellow"), COLOURS.index("pink"), len(COLOURS), len(COLOURS) + 1})
LIGHT_PATTERN_ONLY = frozenset(range(len(COLOURS) + 3, len(COLOURS) + 6))

TEXTURES = ("plain", "striped", "dotted", "checked")
ALL_TEXTURES = (*TEXTURES, "grid", "zigzag", "speckled")
GROUNDS = ("grass", "sand", "water", "brick", "wood", "snow")
SHAPES = ("circle", "square", "triangle", "star", "cross", "heart", "blob")

PAIRS = tuple((colour, texture) for colour in range(len(COLOURS)) for texture in range(len(TEXTURES)))
# One per colour, two per texture.
HELD_OUT_PAIRS = tuple((colour, (colour + colour // 4) % 4) for colour in range(len(COLOURS)))
SEEN_PAIRS = tuple(pair for pair in PAIRS if pair not in HELD_OUT_PAIRS)

# Number of classes -> what the classes are. Ids run over objects first, then grounds.
GRANULARITIES = {38: "pairs and grounds", 14: "colours and grounds", 10: "textures and grounds"}

NO_LABEL = 255


def check_granularity(granularity: int) -> int:
    """Return ``granularity`` if it is one of ``GRANULARITIES``, else raise ``ValueError``."""
    if granularity not in GRANULARITIES:
        known = "; ".join(f"{number}: {text}" for number, text in GRANULARITIES.items())
        raise ValueError(
            f"granularity must be one of {sorted(GRANULARITIES)} classes, but got {granularity} ({known})."
        )
    return granularity


def num_object_classes(granularity: int) -> int:
    """Count the object (thing) classes of a granularity; the grounds follow them."""
    return check_granularity(granularity) - len(GROUNDS)


def object_class(colour: int, texture: int, granularity: int) -> int:
    """Return the class index of an object with this colour and texture index."""
    by_granularity = {38: colour * len(TEXTURES) + texture, 14: colour, 10: texture}
    return by_granularity[check_granularity(granularity)]


def ground_class(ground: int, granularity: int) -> int:
    """Return the class index of a ground."""
    return num_object_classes(granularity) + ground


def class_names(granularity: int) -> tuple[str, ...]:
    """Return the class names in the wording of the embedded model's captions, such as ``"red striped thing"``."""
    check_granularity(granularity)
    objects = {
        38: [f"{COLOURS[colour]} {TEXTURES[texture]} thing" for colour, texture in PAIRS],
        14: [f"{colour} thing" for colour in COLOURS],
        10: [f"{texture} thing" for texture in TEXTURES],
    }[granularity]
    return (*objects, *GROUNDS)


def held_out_classes(granularity: int) -> tuple[int, ...]:
    """Return the classes that scenes with ``pairs="seen"`` never show; empty unless classes are pairs."""
    if check_granularity(granularity) != 38:
        return ()
    return tuple(object_class(colour, texture, 38) for colour, texture in HELD_OUT_PAIRS)


def coarsen(labels: np.ndarray, granularity: int) -> np.ndarray:
    """Map labels of the 38 classes to a coarser granularity.

    Args:
        labels: any shape, integer, 0..37, or 255 for no label (kept).
        granularity: 38, 14 or 10.

    Returns:
        The same shape, uint8.
    """
    table = np.full(256, NO_LABEL, dtype=np.uint8)
    for colour, texture in PAIRS:
        table[object_class(colour, texture, 38)] = object_class(colour, texture, granularity)
    for ground in range(len(GROUNDS)):
        table[ground_class(ground, 38)] = ground_class(ground, granularity)
    return table[labels]
