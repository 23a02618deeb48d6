"""What comes back from segmenting a picture: label map, legend with areas, overlay, files."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mmseg_plugins.api.draw import Colour, LegendEntry, draw_label_map, draw_legend, enlarge_small, format_share
from mmseg_plugins.api.draw_segments import draw_segments
from mmseg_plugins.api.segments import Segment, coco_annotation, coco_categories, ids_to_rgb
from mmseg_plugins.vocabulary.suggest import unknown_name

_PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
# Up to this many classes a label map has 8 bits; 255 stays free for "ignore".
_MOST_CLASSES_IN_8_BITS = 255


@dataclass(frozen=True)
class Area:
    """How much of a picture one class takes.

    Args:
        index: class index in the label map.
        name: class name.
        pixels: number of pixels.
        share: part of the picture, 0 to 1.
        colour: (red, green, blue).
    """

    index: int
    name: str
    pixels: int
    share: float
    colour: Colour


class Legend(tuple[Area, ...]):
    """The classes in a picture, largest area first; prints as a table."""

    def __str__(self) -> str:
        width = max((len(area.name) for area in self), default=0)
        return "\n".join(f"{area.name:<{width}}  {format_share(area.share):>7}" for area in self)

    def __repr__(self) -> str:
        return f"Legend({', '.join(f'{area.name} {format_share(area.share)}' for area in self)})"


@dataclass(frozen=True, repr=False)
class SegmentationResult:
    """One picture with every pixel named.

    Args:
        labels: (H, W) uint8 or uint16, index of the class of each pixel; H, W are those of the picture.
        class_names: K names, in the order of the indices.
        palette: K colours (red, green, blue).
        image: (H, W, 3) uint8 RGB, the picture the right way up.
        background_index: class left uncoloured in overlays; None colours all.
        about: what the result was made with (model, vocabulary, device, ...), written to the JSON file.
        segment_ids: (H, W) panoptic map, 0 where there is no segment; None where none was asked for.
        segments: its segments, largest first.
        is_thing: K flags, which classes are countable objects; None where no segments were asked for.
    """

    labels: NDArray[np.unsignedinteger]
    class_names: tuple[str, ...]
    palette: tuple[Colour, ...]
    image: NDArray[np.uint8]
    background_index: int | None = None
    about: dict[str, Any] = field(default_factory=dict)
    segment_ids: NDArray[np.integer] | None = None
    segments: tuple[Segment, ...] = ()
    is_thing: tuple[bool, ...] | None = None

    def __post_init__(self) -> None:
        if self.segment_ids is not None:
            self._check_segments()
        if self.labels.shape != self.image.shape[:2]:
            raise ValueError(f"label map {self.labels.shape} and picture {self.image.shape[:2]} (H, W) differ in size.")
        if len(self.palette) != len(self.class_names):
            raise ValueError(f"{len(self.class_names)} class names need as many colours, but got {len(self.palette)}.")

    def _check_segments(self) -> None:
        if self.segment_ids.shape != self.labels.shape:
            raise ValueError(
                f"map of segments {self.segment_ids.shape} and label map {self.labels.shape} (H, W) differ in size."
            )
        if self.is_thing is None or len(self.is_thing) != len(self.class_names):
            raise ValueError(f"segments need is_thing, one flag for each of {len(self.class_names)} classes.")

    def __repr__(self) -> str:
        height, width = self.labels.shape
        segments = "" if self.segment_ids is None else f", {len(self.segments)} segments"
        return f"SegmentationResult({height} x {width}, {len(self.class_names)} classes{segments}: {self.legend!r})"

    @property
    def legend(self) -> Legend:
        """The classes that occur, with their areas, largest first."""
        counts = np.bincount(self.labels.ravel(), minlength=len(self.class_names))
        order = np.argsort(-counts, kind="stable")
        return Legend(
            Area(int(k), self.class_names[k], int(counts[k]), float(counts[k] / self.labels.size), self.palette[k])
            for k in order
            if counts[k]
        )

    def mask(self, name: str) -> NDArray[np.bool_]:
        """Return the (H, W) mask of one class.

        Args:
            name: class name.

        Raises:
            KeyError: if the vocabulary has no such class.
        """
        if name not in self.class_names:
            raise unknown_name("class", name, self.class_names)
        return self.labels == self.class_names.index(name)

    def segment_mask(self, number: int) -> NDArray[np.bool_]:
        """Return the (H, W) mask of one segment.

        Args:
            number: id of the segment.

        Raises:
            KeyError: if there is no such segment.
        """
        if number not in {segment.id for segment in self.segments}:
            raise KeyError(f"no segment {number}. There are: {sorted(segment.id for segment in self.segments)}.")
        return self.segment_ids == number

    def overlay(self, *, opacity: float = 0.55, legend: bool = True) -> Image.Image:
        """Draw the classes over the picture, or the segments where there are some.

        Args:
            opacity: 0 shows the picture alone, 1 the colours alone.
            legend: put the legend below; a small picture is then enlarged by a whole factor.

        Returns:
            An RGB picture, of the size of the input when there is no legend.
        """
        if self.segment_ids is not None:
            return self._segments_overlay(opacity, legend)
        drawn = draw_label_map(self.image, self.labels, self.palette, opacity=opacity, skip=self.background_index)
        return self._with_legend(enlarge_small(drawn)) if legend else Image.fromarray(drawn)

    def _segments_overlay(self, opacity: float, legend: bool) -> Image.Image:
        if not legend:
            return Image.fromarray(draw_segments(self.image, self.segment_ids, self.segments, opacity=opacity))
        picture = enlarge_small(self.image)  # first, so that outlines are thin and names fit
        factor = picture.shape[0] // self.image.shape[0]
        ids = self.segment_ids.repeat(factor, 0).repeat(factor, 1)
        return self._with_legend(draw_segments(picture, ids, self.segments, opacity=opacity))

    def _with_legend(self, drawn: NDArray[np.uint8]) -> Image.Image:
        entries = [LegendEntry(area.name, area.colour, area.share) for area in self.legend]
        return Image.fromarray(draw_legend(drawn, entries))

    def to_dict(self) -> dict[str, Any]:
        """Return areas and settings in a form that JSON can hold."""
        height, width = self.labels.shape
        classes = [
            {"index": a.index, "name": a.name, "pixels": a.pixels, "share": a.share, "color": list(a.colour)}
            for a in self.legend
        ]
        return {
            "height": height,
            "width": width,
            "class_names": list(self.class_names),
            "background_index": self.background_index,
            "present": classes,
            **self._segments_dict(),
            **self.about,
        }

    def _segments_dict(self) -> dict[str, Any]:
        if self.segment_ids is None:
            return {}
        return {
            "palette": [list(colour) for colour in self.palette],
            "is_thing": list(self.is_thing),
            "segments": [segment.to_dict() for segment in self.segments],
        }

    def save(self, path: str | os.PathLike, *, opacity: float = 0.55, overwrite: bool = True) -> dict[str, Path]:
        """Write overlay, label map and JSON side by side; all of them or none.

        Args:
            path: of the overlay, ``NAME.png`` (or another picture format; ``.png`` is added if there is none). The
                label map goes to ``NAME.labels.png`` (grey, value = class index; 8 bits up to 255 classes, else 16),
                the areas to ``NAME.json``, and segments, where there are some, to ``NAME.segments.png`` (RGB, id =
                R + 256 G + 65536 B, 0 unassigned). Missing folders are made.
            opacity: of the overlay.
            overwrite: whether files that exist may be replaced.

        Returns:
            The paths under ``overlay``, ``labels`` and ``json``, and ``segments`` where there are some.

        Raises:
            ValueError: if the suffix is not that of a picture format.
            FileExistsError: if a file exists and ``overwrite`` is off.
            PermissionError: if the folder cannot be written to.
        """
        paths = output_paths(path, segments=self.segment_ids is not None)
        taken = [str(place) for place in paths.values() if place.exists()]
        if taken and not overwrite:
            raise FileExistsError(f"{', '.join(taken)} exist already. Pass overwrite=True, or another name.")
        overlay = self.overlay(opacity=opacity)
        content = self.to_dict() | {"overlay_file": paths["overlay"].name, "labels_file": paths["labels"].name}
        labels = Image.fromarray(self.labels.astype(label_dtype(len(self.class_names))))
        writers = {
            paths["overlay"]: lambda place: overlay.save(place),
            paths["labels"]: lambda place: labels.save(place),
            paths["json"]: lambda place: dump_json(place, content, indent=1),
        }
        if self.segment_ids is not None:
            content["segments_file"] = paths["segments"].name
            ids = Image.fromarray(ids_to_rgb(self.segment_ids))
            writers = {paths["segments"]: lambda place: ids.save(place), **writers}
        write_together(writers)
        return paths

    def save_coco_panoptic(self, path: str | os.PathLike, *, image_id: int | str = 1) -> dict[str, Path]:
        """Write the segments as a COCO panoptic JSON and the PNG it names; both or none.

        Args:
            path: of the JSON, ``NAME.json``; the PNG goes to ``NAME/IMAGE_ID.png``.
            image_id: id of the picture.

        Returns:
            The paths under ``json`` and ``segments``.

        Raises:
            ValueError: if the result has no segments.
            PermissionError: if the folder cannot be written to.
        """
        if self.segment_ids is None:
            raise ValueError("the result has no segments: ask for them with segment(..., panoptic=True).")
        place = Path(path).expanduser().with_suffix(".json")
        height, width = self.labels.shape
        annotation = coco_annotation([segment.to_dict() for segment in self.segments], image_id, f"{image_id}.png")
        content = {
            "images": [{"id": image_id, "width": width, "height": height, "file_name": f"{image_id}.png"}],
            "annotations": [annotation],
            "categories": coco_categories(self.class_names, self.palette, self.is_thing),
        }
        ids = Image.fromarray(ids_to_rgb(self.segment_ids))
        paths = {"json": place, "segments": place.with_suffix("") / f"{image_id}.png"}
        write_together(
            {
                paths["segments"]: lambda temporary: ids.save(temporary),
                paths["json"]: lambda temporary: dump_json(temporary, content),
            }
        )
        return paths


def label_dtype(num_classes: int) -> type[np.unsignedinteger]:
    """Return the type that a label map of this many classes has: uint8, or uint16 above 255 classes."""
    return np.uint8 if num_classes <= _MOST_CLASSES_IN_8_BITS else np.uint16


def output_paths(path: str | os.PathLike, *, segments: bool = False) -> dict[str, Path]:
    """Return where ``SegmentationResult.save`` puts its files.

    Args:
        path: of the overlay.
        segments: whether there are segments.

    Returns:
        The paths under ``overlay``, ``labels`` and ``json``, and ``segments`` where there are some.

    Raises:
        ValueError: if the suffix is not that of a picture format.
    """
    place = Path(path).expanduser()
    if not place.suffix:
        place = place.with_name(f"{place.name}.png")
    if place.suffix.lower() not in _PICTURE_SUFFIXES:
        raise ValueError(f"{path} must end in one of {', '.join(_PICTURE_SUFFIXES)}, or in nothing for .png.")
    stem = place.name.removesuffix(place.suffix)
    paths = {"overlay": place, "labels": place.with_name(f"{stem}.labels.png"), "json": place.with_name(f"{stem}.json")}
    return paths | ({"segments": place.with_name(f"{stem}.segments.png")} if segments else {})


def dump_json(path: Path, content: Any, indent: int | None = None) -> None:
    """Write JSON as UTF-8; bytes of a file's name that are no UTF-8 are written as escapes and read back as they were.

    Args:
        path: of the file.
        content: what JSON can hold.
        indent: blanks per level; None writes one line.
    """
    text = json.dumps(content, indent=indent, ensure_ascii=False)
    path.write_text(f"{text}\n", encoding="utf-8", errors="backslashreplace")


def write_together(writers: dict[Path, Callable[[Path], Any]]) -> None:
    """Write several files under temporary names and rename them when all are complete, in order.

    Args:
        writers: for each final path, a function that writes the file to the path it is given.

    Raises:
        PermissionError: if a folder cannot be made or written to; nothing is left behind.
    """
    temporary = {place: place.with_name(f".{os.getpid()}.{place.name}") for place in writers}
    try:
        for place, write in writers.items():
            with _readable_refusal(place.parent):
                place.parent.mkdir(parents=True, exist_ok=True)
                write(temporary[place])
        for place in writers:
            with _readable_refusal(place.parent):
                os.replace(temporary[place], place)
    finally:
        for place in temporary.values():
            with suppress(OSError):
                place.unlink()


def check_writable(folder: str | os.PathLike) -> None:
    """Find out whether files can be written to a folder, before work begins whose results go there.

    Args:
        folder: the folder; where it does not exist yet, the nearest one above it that does is tried.

    Raises:
        PermissionError: if it cannot be made or written to.
    """
    place = Path(folder).absolute()
    with _readable_refusal(place):
        while not place.exists():
            place = place.parent
        probe = place / f".{os.getpid()}.probe"
        probe.touch()
        probe.unlink()


@contextmanager
def _readable_refusal(folder: Path) -> Iterator[None]:
    try:
        yield
    except (PermissionError, NotADirectoryError, FileExistsError, FileNotFoundError) as error:
        raise PermissionError(
            f"cannot write to folder {folder}: {error.strerror}. Choose another output folder."
        ) from error
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, f"cannot write to folder {folder}: {error.strerror}") from error
