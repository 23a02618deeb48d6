"""The classes that figures are computed for: names, and where there are any, category ids and thing flags."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmseg_plugins.datasets.benchmarks import RECORDS
from mmseg_plugins.vocabulary.benchmarks import find_benchmark, load_benchmark
from mmseg_plugins.vocabulary.files import read_class_file, read_json


@dataclass(frozen=True)
class ClassList:
    """An ordered list of classes.

    Attributes:
        source: benchmark or file that it comes from.
        names: class names; the index is the class.
        category_ids: category id of each class in COCO-style JSON and in maps of label ids; class indices where the
            source has none.
        is_thing: flags, or None where the source does not say.
        has_ids: whether the source gives category ids of its own.
    """

    source: str
    names: tuple[str, ...]
    category_ids: tuple[int, ...]
    is_thing: tuple[bool, ...] | None = None
    has_ids: bool = False

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.names)

    @property
    def index_of_category(self) -> dict[int, int]:
        """Category id -> class index."""
        return {category: index for index, category in enumerate(self.category_ids)}

    def things_only(self) -> "ClassList":
        """Return the thing classes with their category ids; all classes where there are no flags."""
        if self.is_thing is None:
            return self
        kept = [index for index, thing in enumerate(self.is_thing) if thing]
        return ClassList(
            source=self.source,
            names=tuple(self.names[index] for index in kept),
            category_ids=tuple(self.category_ids[index] for index in kept),
            is_thing=(True,) * len(kept),
            has_ids=self.has_ids,
        )


def load_class_list(source: str) -> ClassList:
    """Load the classes of a benchmark or a file.

    Args:
        source: a benchmark's name, or a file: text with one class a line, a JSON list of names, a JSON object with
            ``classes`` (and ``dataset_ids``, ``isthing``), or a COCO JSON with ``categories``.

    Raises:
        KeyError: if it is neither a benchmark nor a path.
        FileNotFoundError: if the file does not exist.
        ValueError: if the file is no class list, or lists of different length stand in it.
    """
    if source in RECORDS:
        record = RECORDS[source]
        return _from_object(load_benchmark(record.class_file), source, extra=record.extra_classes)
    if find_benchmark(source) is not None:
        return _from_object(load_benchmark(source), source)
    path = Path(source)
    if path.suffix or path.exists():
        return _from_file(path)
    load_benchmark(source)  # raises, and lists the benchmarks
    raise AssertionError("unreachable: an unknown benchmark raises")


def class_list_from_categories(categories: Sequence[dict[str, Any]], source: str) -> ClassList:
    """Make a class list of COCO ``categories`` entries (``id``, ``name``, and for panoptic ``isthing``).

    Raises:
        ValueError: naming the source, if an entry has no id, or ids repeat.
    """
    ids = [entry.get("id") for entry in categories]
    if not categories or None in ids or len(set(ids)) < len(ids):
        raise ValueError(f"{source}: 'categories' must be a list of entries with distinct ids.")
    flags = [entry.get("isthing") for entry in categories]
    return ClassList(
        source=source,
        names=tuple(str(entry.get("name", entry["id"])) for entry in categories),
        category_ids=tuple(int(value) for value in ids),
        is_thing=None if None in flags else tuple(bool(flag) for flag in flags),
        has_ids=True,
    )


def class_indices(values: Sequence[int | str], names: Sequence[str]) -> list[int]:
    """Turn class names, indices or indices as text into class indices.

    Args:
        values: names (stray blanks do not matter) or indices.
        names: all class names in order.

    Raises:
        ValueError: naming the values that are neither.
    """
    by_name = {str(index): index for index in range(len(names))}
    by_name |= {name.strip().lower(): index for index, name in enumerate(names)}
    indices = [by_name.get(str(value).strip().lower()) for value in values]
    unknown = [value for value, index in zip(values, indices, strict=True) if index is None]
    if unknown:
        raise ValueError(f"{unknown} are neither class names nor indices 0..{len(names) - 1}.")
    return indices


def _from_file(path: Path) -> ClassList:
    if path.suffix.lower() == ".json":
        content = read_json(path)
        if isinstance(content, dict) and "classes" in content:
            return _from_object(content, str(path))
        categories = content.get("categories") if isinstance(content, dict) else content
        if isinstance(categories, list) and categories and isinstance(categories[0], dict):
            return class_list_from_categories(categories, str(path))
    names = read_class_file(path).labels
    return ClassList(str(path), tuple(names), tuple(range(len(names))))


def _from_object(content: dict[str, Any], source: str, extra: Sequence[str] = ()) -> ClassList:
    names = [*content["classes"], *extra]
    for key in ("dataset_ids", "isthing"):
        if key in content and len(content[key]) != len(content["classes"]):
            raise ValueError(f"{source}: {len(content['classes'])} classes but {len(content[key])} entries in {key!r}.")
    ids = content.get("dataset_ids")
    flags = content.get("isthing")
    has_ids = ids is not None and not extra
    return ClassList(
        source=source,
        names=tuple(str(name).strip() for name in names),
        category_ids=tuple(map(int, ids)) if has_ids else tuple(range(len(names))),
        is_thing=tuple(map(bool, flags)) if flags is not None and not extra else None,
        has_ids=has_ids,
    )
