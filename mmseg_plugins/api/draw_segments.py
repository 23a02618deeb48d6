"""Drawing segments over their picture: colours, outlines and names where they fit."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from mmseg_plugins.api.draw import Picture, find_font, like, to_array
from mmseg_plugins.api.segments import Segment

_WHITE, _DARK = (255, 255, 255), (20, 20, 20)
_SMALLEST_FONT, _LARGEST_FONT, _FONT_SHARE = 11, 32, 45
_OUTLINE_SHARE = 400  # width of outlines: the longer picture side divided by this, at least one pixel


def draw_segments(
    image: Picture,
    ids: NDArray[np.integer],
    segments: Sequence[Segment],
    *,
    opacity: float = 0.55,
    outlines: bool = True,
    names: bool = True,
) -> Picture:
    """Colour the segments of a picture, outline them and write their names into them.

    Args:
        image: (H, W, 3) uint8 RGB, or a PIL image of the same size.
        ids: (H, W) segment ids; pixels whose id is not among the segments stay as they are.
        segments: what is drawn.
        opacity: 0 shows the picture alone, 1 the colours alone.
        outlines: draw a white line around each segment.
        names: write the name of each segment where there is room for it inside.

    Returns:
        A new picture of the same kind and size.

    Raises:
        ValueError: if the sizes differ or opacity is outside [0, 1].
    """
    pixels = to_array(image)
    if pixels.shape[:2] != ids.shape:
        raise ValueError(f"picture {pixels.shape[:2]} and map of segments {ids.shape} (H, W) differ in size.")
    if not 0 <= opacity <= 1:
        raise ValueError(f"expected opacity between 0 and 1, but got {opacity}.")
    drawn = pixels.astype(np.float32)
    colours = np.zeros((int(ids.max(initial=0)) + 1, 3), dtype=np.float32)
    is_drawn = np.zeros(len(colours), dtype=bool)
    for segment in segments:
        if segment.id < len(colours):
            colours[segment.id], is_drawn[segment.id] = segment.colour, True
    inside = is_drawn[ids]
    drawn[inside] += opacity * (colours[ids[inside]] - drawn[inside])
    drawn = drawn.round().astype(np.uint8)
    if outlines:
        drawn[_outlines(ids, inside)] = _WHITE
    if not names:
        return like(drawn, image)
    return like(np.asarray(_write_names(Image.fromarray(drawn), ids, segments)), image)


def _outlines(ids: NDArray[np.integer], inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(H, W) bool: pixels of drawn segments next to another id, in a line as wide as suits the picture."""
    edges = np.zeros(ids.shape, dtype=bool)
    for axis in (0, 1):
        differ = np.diff(ids, axis=axis) != 0
        before, after = ((slice(None, -1), slice(1, None)) if axis == 0 else
                         ((slice(None), slice(None, -1)), (slice(None), slice(1, None))))  # fmt: skip
        edges[before] |= differ
        edges[after] |= differ
    width = max(ids.shape) // _OUTLINE_SHARE
    if width > 1:
        edges = cv2.dilate(edges.astype(np.uint8), np.ones((width, width), np.uint8)).astype(bool)
    return edges & inside


def _write_names(picture: Image.Image, ids: NDArray[np.integer], segments: Sequence[Segment]) -> Image.Image:
    draw = ImageDraw.Draw(picture)
    font = find_font(int(np.clip(max(picture.size) / _FONT_SHARE, _SMALLEST_FONT, _LARGEST_FONT)))
    for segment in segments:
        place = _place_for(ids == segment.id, segment.name, font)
        if place is not None:
            draw.text(place, segment.name, _WHITE, font, anchor="mm", stroke_width=1, stroke_fill=_DARK)
    return picture


def _place_for(mask: NDArray[np.bool_], name: str, font: ImageFont.FreeTypeFont) -> tuple[int, int] | None:
    """Find the (x, y) in a segment that is farthest from its border; None where the name does not fit there."""
    padded = np.pad(mask, 1).astype(np.uint8)
    distance = cv2.distanceTransform(padded, cv2.DIST_L2, 3)[1:-1, 1:-1]
    y, x = np.unravel_index(int(distance.argmax()), distance.shape)
    left, top, right, bottom = font.getbbox(name, anchor="mm")
    row = mask[y]
    start = x - int(np.argmin(row[x::-1])) + 1 if not row[: x + 1].all() else 0
    stop = x + int(np.argmin(row[x:])) if not row[x:].all() else len(row)
    if right - left > stop - start or bottom - top > 2 * distance[y, x]:
        return None
    middle = int(np.clip(x, start + (right - left) / 2, stop - (right - left) / 2))
    return middle, int(y)
