"""The segments of a picture as a result holds them, and their form in COCO's panoptic files.

H W picture.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmseg_plugins.api.draw import Colour

# How later instances of a class differ from its colour: towards white (positive) or black.
_TINTS = (0.0, 0.35, -0.3, 0.55, -0.5, 0.18, -0.16)


@dataclass(frozen=True)
class Segment:
    """One segment.

    Attributes:
        id: its number in the map of segments, from 1 on.
        index: class index.
        name: class name.
        score: 0 to 1, how sure the class is.
        pixels: number of pixels.
        share: part of the picture, 0 to 1.
        is_thing: whether it is one countable object, or all of a stuff class.
        box: (left, top, width, height) in pixels.
        colour: (red, green, blue), that of the class; further things of a class are tinted.
    """

    id: int
    index: int
    name: str
    score: float
    pixels: int
    share: float
    is_thing: bool
    box: tuple[int, int, int, int]
    colour: Colour

    def to_dict(self) -> dict[str, Any]:
        """Return the fields in a form that JSON can hold."""
        return {
            "id": self.id,
            "index": self.index,
            "name": self.name,
            "is_thing": self.is_thing,
            "score": round(self.score, 4),
            "pixels": self.pixels,
            "share": self.share,
            "bbox": list(self.box),
            "color": list(self.colour),
        }


def list_segments(
    ids: NDArray[np.integer],
    segments_info: Sequence[Mapping[str, Any]],
    class_names: Sequence[str],
    palette: Sequence[Colour],
) -> tuple[Segment, ...]:
    """Describe the segments of a map, largest first.

    Args:
        ids: (H, W) segment ids, 0 unassigned.
        segments_info: ``id``, ``category_id`` (class index), ``isthing`` and ``score`` of each; those without a pixel
            are left out.
        class_names: K names.
        palette: K colours.

    Raises:
        ValueError: if the map has an id that is not listed.
    """
    counts = np.bincount(ids.ravel())
    entries = {int(entry["id"]): entry for entry in segments_info}
    unknown = sorted(set(np.flatnonzero(counts).tolist()) - {0} - set(entries))
    if unknown:
        raise ValueError(f"the map has segment ids that are not listed: {unknown[:5]}.")
    present = [number for number in entries if number < len(counts) and counts[number]]
    earlier: Counter[int] = Counter()
    found = []
    for number in sorted(present, key=lambda number: -counts[number]):
        entry = entries[number]
        index = int(entry["category_id"])
        colour = _tinted(palette[index], earlier[index]) if entry["isthing"] else palette[index]
        earlier[index] += 1
        found.append(
            Segment(
                id=number,
                index=index,
                name=class_names[index],
                score=float(entry.get("score", 1.0)),
                pixels=int(counts[number]),
                share=float(counts[number] / ids.size),
                is_thing=bool(entry["isthing"]),
                box=_box(ids == number),
                colour=colour,
            )
        )
    return tuple(found)


def _box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    left, top = int(columns[0]), int(rows[0])
    return left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1


def _tinted(colour: Colour, number: int) -> Colour:
    tint = _TINTS[number % len(_TINTS)]
    goal = 255 if tint > 0 else 0
    return tuple(round(value + abs(tint) * (goal - value)) for value in colour)


def ids_to_rgb(ids: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Write segment ids as COCO's panoptic PNGs hold them: (H, W) to (H, W, 3), id = R + 256 G + 65536 B."""
    numbers = ids.astype(np.uint32)
    return np.stack([(numbers >> shift) & 255 for shift in (0, 8, 16)], -1).astype(np.uint8)


def coco_annotation(segments: Sequence[Mapping[str, Any]], image_id: int | str, file_name: str) -> dict[str, Any]:
    """Return the entry of one picture in a COCO panoptic JSON; categories are class indices.

    Args:
        segments: of the picture, as :meth:`Segment.to_dict` gives them.
        image_id: its id.
        file_name: of the PNG of ids.
    """
    info = [
        {
            "id": segment["id"],
            "category_id": segment["index"],
            "area": segment["pixels"],
            "bbox": segment["bbox"],
            "iscrowd": 0,
            "score": segment["score"],
        }
        for segment in sorted(segments, key=lambda segment: segment["id"])
    ]
    return {"image_id": image_id, "file_name": file_name, "segments_info": info}


def coco_categories(class_names: Sequence[str], palette: Sequence[Colour], is_thing: Sequence[bool]) -> list[dict]:
    """Return the categories of a COCO panoptic JSON, whose ids are the class indices."""
    return [
        {"id": index, "name": name, "supercategory": name, "isthing": int(thing), "color": list(colour)}
        for index, (name, colour, thing) in enumerate(zip(class_names, palette, is_thing, strict=True))
    ]
