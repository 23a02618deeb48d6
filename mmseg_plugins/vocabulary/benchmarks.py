"""The benchmarks' class lists: ordered names, published lists of alternative names, colours, thing flags, id maps.

One JSON file per benchmark lies in ``assets/classes``; its ``source`` says where each list comes from. Published scores
cannot be reproduced without the list of names that the method used, so every list is kept as published, with its stray
blanks and duplicates. Names are stripped when they become a vocabulary.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

from mmseg_plugins.vocabulary.class_form import name_lists as _name_lists
from mmseg_plugins.vocabulary.class_form import parse_class_file_form
from mmseg_plugins.vocabulary.rows import ClassRows
from mmseg_plugins.vocabulary.suggest import unknown_name

_FOLDER = Path(__file__).parents[1] / "assets" / "classes"

# Benchmarks that share the class list of another one, and shorter names.
ALIASES = {
    "ade20k_instance": "ade20k_panoptic_150",
    "ade20k_panoptic": "ade20k_panoptic_150",
    "cityscapes": "cityscapes_19",
    "coco_instance": "coco_panoptic_133",
    "coco_object": "coco_object_81",
    "coco_panoptic": "coco_panoptic_133",
    "coco_stuff": "coco_stuff_171",
    "coco_stuff10k": "coco_stuff_171",
    "coco_stuff164k": "coco_stuff_171",
    "lvis": "lvis_1203",
    "mapillary_vistas": "mapillary_vistas_65",
}


def list_benchmarks() -> tuple[str, ...]:
    """Return the names of the benchmarks whose class lists are here, without their aliases."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.json")))


def find_benchmark(name: str) -> str | None:
    """Return the benchmark that a name or alias stands for, or None. Capitals and ``-`` for ``_`` do not matter."""
    key = name.strip().lower().replace("-", "_")
    key = ALIASES.get(key, key)
    return key if key in list_benchmarks() else None


def load_benchmark(name: str) -> dict[str, Any]:
    """Return the content of a benchmark's class file; the caller may change it.

    Args:
        name: a name of :func:`list_benchmarks` or of ``ALIASES``.

    Raises:
        KeyError: if there is no such benchmark; the message lists them.
    """
    key = find_benchmark(name)
    if key is None:
        raise unknown_name("benchmark", name, [*list_benchmarks(), *ALIASES])
    return json.loads(_text(key))


def name_lists(name: str) -> tuple[str, ...]:
    """Return which lists of names a benchmark has for prompting, ``classes`` first.

    Raises:
        KeyError: if there is no such benchmark.
    """
    return _name_lists(load_benchmark(name))


def benchmark_rows(name: str, names: str | None = None) -> ClassRows:
    """Return the classes of a benchmark with the names of one of its lists.

    Args:
        name: the benchmark.
        names: one of :func:`name_lists`; ``classes`` when None.

    Raises:
        KeyError: if there is no such benchmark or list; the message lists what there is.
    """
    content = load_benchmark(name)
    rows = parse_class_file_form(content, f"benchmark {find_benchmark(name)}", names)
    return ClassRows(**{**vars(rows), "published": True})


@cache
def _text(key: str) -> str:
    return (_FOLDER / f"{key}.json").read_text(encoding="utf-8")
