"""Drawing a label map over its picture, and a legend that can be read.

Both functions take an array (H, W, 3) uint8 RGB or a ``PIL.Image``, and return the same kind.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Picture = TypeVar("Picture", NDArray, Image.Image)
Colour = tuple[int, int, int]

_PAPER, _INK, _FAINT = (255, 255, 255), (25, 25, 25), (120, 120, 120)
_SMALLEST_FONT, _LARGEST_FONT = 13, 40
_FONT_SHARE = 45  # font size: the longer picture side divided by this
_MOST_ENTRIES = 40
_NARROWEST = 220  # pixels of a legend beside a small picture


@dataclass(frozen=True)
class LegendEntry:
    """One class in a legend.

    Args:
        name: class name.
        colour: (red, green, blue), 0 to 255.
        share: part of the picture, 0 to 1; None is not shown.
    """

    name: str
    colour: Colour
    share: float | None = None


def draw_label_map(
    image: Picture,
    labels: NDArray[np.integer],
    palette: Sequence[Colour],
    *,
    opacity: float = 0.55,
    borders: bool = True,
    skip: int | None = None,
) -> Picture:
    """Colour every pixel by its class.

    Args:
        image: (H, W, 3) uint8 RGB, or a PIL image of the same size.
        labels: (H, W) class indices; values outside the palette are left uncoloured.
        palette: colour of each class.
        opacity: 0 shows the picture alone, 1 the colours alone.
        borders: draw a thin line where classes meet.
        skip: class that is left uncoloured, usually the background.

    Returns:
        A new picture of the same kind and size.

    Raises:
        ValueError: if the sizes differ or opacity is outside [0, 1].
    """
    pixels = to_array(image)
    if pixels.shape[:2] != labels.shape:
        raise ValueError(f"picture {pixels.shape[:2]} and label map {labels.shape} (H, W) differ in size.")
    if not 0 <= opacity <= 1:
        raise ValueError(f"expected opacity between 0 and 1, but got {opacity}.")
    colours = np.asarray(palette, dtype=np.float32).reshape(-1, 3)
    is_coloured = (labels >= 0) & (labels < len(colours))
    if skip is not None:
        is_coloured &= labels != skip
    drawn = pixels.astype(np.float32)
    drawn[is_coloured] += opacity * (colours[labels[is_coloured]] - drawn[is_coloured])
    if borders:
        drawn[class_borders(labels)] *= 1 - 0.8 * opacity
    return like(drawn.round().astype(np.uint8), image)


def class_borders(labels: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Pixels whose right or lower neighbour has another class."""
    edges = np.zeros(labels.shape, dtype=bool)
    edges[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    edges[:-1] |= labels[:-1] != labels[1:]
    return edges


def draw_legend(image: Picture, entries: Sequence[LegendEntry], *, most: int = _MOST_ENTRIES) -> Picture:
    """Put a legend under a picture: a swatch, the name and the share of every class.

    Args:
        image: (H, W, 3) uint8 RGB or a PIL image.
        entries: classes in the order to show.
        most: show at most this many; a line says how many more there are.

    Returns:
        A new picture of the same kind: the picture above (on white where it is narrower), the legend below.
    """
    picture = Image.fromarray(to_array(image))
    size = int(np.clip(max(picture.size) / _FONT_SHARE, _SMALLEST_FONT, _LARGEST_FONT))
    width = max(picture.width, min(_NARROWEST * size // _SMALLEST_FONT, 4 * _NARROWEST))
    panel = _panel(entries[:most], len(entries) - most, width, size)
    sheet = Image.new("RGB", (width, picture.height + panel.height), _PAPER)
    sheet.paste(picture, ((width - picture.width) // 2, 0))
    sheet.paste(panel, (0, picture.height))
    return like(np.asarray(sheet), image)


def _panel(entries: Sequence[LegendEntry], hidden: int, width: int, size: int) -> Image.Image:
    font, gap, line = find_font(size), size // 2, round(1.6 * size)
    texts = [_text(entry) for entry in entries]
    longest = max((font.getlength(text) for text in texts), default=0)
    room = width - 2 * gap
    column = min(room, round(longest) + size + 3 * gap)
    columns = max(1, room // max(column, 1))
    rows = -(-len(entries) // columns)
    height = line * (rows + (hidden > 0)) + 2 * gap
    panel = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(panel)
    for index, (entry, text) in enumerate(zip(entries, texts, strict=True)):
        left, top = gap + (index // rows) * column, gap + (index % rows) * line
        middle = top + line // 2
        draw.rectangle((left, middle - size // 2, left + size, middle + size // 2), tuple(entry.colour), _FAINT)
        limit = column - size - 2 * gap
        draw.text((left + size + gap, middle), _fit(text, font, limit), _INK, font, anchor="lm")
    if hidden > 0:
        draw.text((gap, gap + rows * line + line // 2), f"and {hidden} more", _FAINT, font, anchor="lm")
    return panel


def _text(entry: LegendEntry) -> str:
    return entry.name if entry.share is None else f"{entry.name}  {format_share(entry.share)}"


def format_share(share: float) -> str:
    """Write a share of the picture in percent, never as zero when there is some.

    Example:
        >>> format_share(0.4123), format_share(0.0002)
        ('41.2 %', '<0.1 %')
    """
    return "<0.1 %" if 0 < share < 0.0005 else f"{100 * share:.1f} %"


def _fit(text: str, font: ImageFont.FreeTypeFont, limit: float) -> str:
    """Shorten the front of a text that is too long; the share at its end stays."""
    if font.getlength(text) <= limit:
        return text
    name, gap, share = text.rpartition("  ")
    name, tail = (name, gap + share) if gap else (share, "")
    while name and font.getlength(f"{name}…{tail}") > limit:
        name = name[:-1]
    return f"{name}…{tail}"


@cache
def find_font(size: int) -> ImageFont.FreeTypeFont:
    """Return the first of the usual fonts with many scripts, else Pillow's own, which has Latin letters."""
    for name in ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial.ttf", "Helvetica.ttc"):
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return ImageFont.load_default(size)


def enlarge_small(image: Picture, *, side: int = 512) -> Picture:
    """Enlarge a small picture by a whole factor, pixels staying sharp, so that it can be looked at.

    Args:
        image: (H, W, 3) uint8 RGB or a PIL image.
        side: the longer side grows to at most this many pixels.

    Returns:
        The picture, enlarged by the largest whole factor that fits, at least 1.
    """
    picture = Image.fromarray(to_array(image))
    factor = max(1, side // max(picture.size))
    size = (picture.width * factor, picture.height * factor)
    return like(np.asarray(picture.resize(size, Image.Resampling.NEAREST)), image)


def to_array(image: Picture) -> NDArray[np.uint8]:
    """Return the (H, W, 3) uint8 RGB pixels of an array or a PIL image.

    Raises:
        ValueError: if it is of another form.
    """
    if isinstance(image, Image.Image):
        return np.asarray(image.convert("RGB"))
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(
            "expected a PIL image or an array (H, W, 3) uint8 RGB, but got "
            f"{getattr(image, 'dtype', type(image).__name__)} {getattr(image, 'shape', '')}."
        )
    return image


def like(pixels: NDArray[np.uint8], image: Picture) -> Picture:
    """Return pixels as the kind of picture that ``image`` is."""
    return Image.fromarray(pixels) if isinstance(image, Image.Image) else pixels
