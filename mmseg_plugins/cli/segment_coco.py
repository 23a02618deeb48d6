"""The segments of many pictures as one COCO panoptic result."""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mmseg_plugins.api.result import dump_json, output_paths, write_together
from mmseg_plugins.api.segments import coco_annotation, coco_categories


def write_coco(places: Sequence[Path], folder: Path) -> Path:
    """Write ``panoptic.json`` and the PNGs that it names, ``panoptic/NAME.png``, from results that were saved.

    Args:
        places: overlays of the pictures; those without saved segments are left out.
        folder: where to write; the pictures' names below it are their ids.

    Returns:
        The path of the JSON.

    Raises:
        ValueError: if no picture has segments, or two were made with different classes.
        PermissionError: if the folder cannot be written to.
    """
    images, annotations, writers = [], [], {}
    classes: dict[str, Any] | None = None
    for place, content in _saved(places):
        found = {key: content[key] for key in ("class_names", "palette", "is_thing")}
        if classes not in (None, found):
            raise ValueError(f"{place} was made with other classes than the pictures before it: --overwrite.")
        classes, name = found, _name(place, folder)
        entry = {"id": name, "file_name": f"{name}.png", "width": content["width"], "height": content["height"]}
        images.append(entry)
        annotations.append(coco_annotation(content["segments"], name, f"{name}.png"))
        writers[folder / "panoptic" / f"{name}.png"] = _copier(output_paths(place, segments=True)["segments"])
    if classes is None:
        raise ValueError(f"no picture in {folder} has segments: run with --panoptic, and --overwrite where it was not.")
    categories = coco_categories(classes["class_names"], classes["palette"], classes["is_thing"])
    whole = {"images": images, "annotations": annotations, "categories": categories}
    target = folder / "panoptic.json"
    write_together(writers | {target: lambda temporary: dump_json(temporary, whole)})
    return target


def _saved(places: Sequence[Path]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the overlays that have segments beside them, with the content of their JSON."""
    for place in places:
        paths = output_paths(place, segments=True)
        if paths["json"].is_file() and paths["segments"].is_file():
            content = json.loads(paths["json"].read_text(encoding="utf-8"))
            if "segments" in content:
                yield place, content


def _copier(source: Path) -> Callable[[Path], Any]:
    return lambda target: shutil.copyfile(source, target)


def _name(place: Path, folder: Path) -> str:
    """The name of a picture below the folder; parts of the path are joined, as COCO has one folder."""
    relative = place.relative_to(folder) if place.is_relative_to(folder) else Path(place.name)
    return "_".join(relative.with_suffix("").parts)
