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
    """

    labels: NDArray[np.unsignedinteger]
    class_names: tuple[str, ...]
    palette: tuple[Colour, ...]
    image: NDArray[np.uint8]
    background_index: int | None = None
    about: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.labels.shape != self.image.shape[:2]:
            raise ValueError(f"label map {self.labels.shape} and picture {self.image.shape[:2]} (H, W) differ in size.")
        if len(self.palette) != len(self.class_names):
            raise ValueError(f"{len(self.class_names)} class names need as many colours, but got {len(self.palette)}.")

    def __repr__(self) -> str:
        height, width = self.labels.shape
        return f"SegmentationResult({height} x {width}, {len(self.class_names)} classes: {self.legend!r})"

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

    def overlay(self, *, opacity: float = 0.55, legend: bool = True) -> Image.Image:
        """Draw the classes over the picture.

        Args:
            opacity: 0 shows the picture alone, 1 the colours alone.
            legend: put the legend below; a small picture is then enlarged by a whole factor.

        Returns:
            An RGB picture, of the size of the input when there is no legend.
        """
        drawn = draw_label_map(self.image, self.labels, self.palette, opacity=opacity, skip=self.background_index)
        if not legend:
            return Image.fromarray(drawn)
        entries = [LegendEntry(area.name, area.colour, area.share) for area in self.legend]
        return Image.fromarray(draw_legend(enlarge_small(drawn), entries))

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
            **self.about,
        }

    def save(self, path: str | os.PathLike, *, opacity: float = 0.55, overwrite: bool = True) -> dict[str, Path]:
        """Write overlay, label map and JSON side by side; all of them or none.

        Args:
            path: of the overlay, ``NAME.png`` (or another picture format; ``.png`` is added if there is none). The
                label map goes to ``NAME.labels.png`` (grey, value = class index; 8 bits up to 255 classes, else 16),
                the areas to ``NAME.json``. Missing folders are made.
            opacity: of the overlay.
            overwrite: whether files that exist may be replaced.

        Returns:
            The paths under ``overlay``, ``labels`` and ``json``.

        Raises:
            ValueError: if the suffix is not that of a picture format.
            FileExistsError: if a file exists and ``overwrite`` is off.
            PermissionError: if the folder cannot be written to.
        """
        paths = output_paths(path)
        taken = [str(place) for place in paths.values() if place.exists()]
        if taken and not overwrite:
            raise FileExistsError(f"{', '.join(taken)} exist already. Pass overwrite=True, or another name.")
        overlay = self.overlay(opacity=opacity)
        content = self.to_dict() | {"overlay_file": paths["overlay"].name, "labels_file": paths["labels"].name}
        labels = Image.fromarray(self.labels.astype(label_dtype(len(self.class_names))))
        write_together(
            {
                paths["overlay"]: lambda place: overlay.save(place),
                paths["labels"]: lambda place: labels.save(place),
                paths["json"]: lambda place: place.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n"),
            }
        )
        return paths


def label_dtype(num_classes: int) -> type[np.unsignedinteger]:
    """Return the type that a label map of this many classes has: uint8, or uint16 above 255 classes."""
    return np.uint8 if num_classes <= _MOST_CLASSES_IN_8_BITS else np.uint16


def output_paths(path: str | os.PathLike) -> dict[str, Path]:
    """Return where ``SegmentationResult.save`` puts its files.

    Args:
        path: of the overlay.

    Returns:
        The paths under ``overlay``, ``labels`` and ``json``.

    Raises:
        ValueError: if the suffix is not that of a picture format.
    """
    place = Path(path).expanduser()
    if not place.suffix:
        place = place.with_name(f"{place.name}.png")
    if place.suffix.lower() not in _PICTURE_SUFFIXES:
        raise ValueError(f"{path} must end in one of {', '.join(_PICTURE_SUFFIXES)}, or in nothing for .png.")
    stem = place.name.removesuffix(place.suffix)
    return {"overlay": place, "labels": place.with_name(f"{stem}.labels.png"), "json": place.with_name(f"{stem}.json")}


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
    except (PermissionError, NotADirectoryError, FileExistsError) as error:
        raise PermissionError(
            f"cannot write to folder {folder}: {error.strerror}. Choose another output folder."
        ) from error
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, f"cannot write to folder {folder}: {error.strerror}") from error
