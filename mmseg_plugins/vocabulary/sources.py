"""What a vocabulary source stands for: class names, a file or a benchmark.

Rules for a string, in this order:

1. It holds ``;``, ``,`` or a line break: class names in the string grammar.
2. It is a benchmark's name or alias: that benchmark.
3. It looks like a path (ends in .txt, .json, .csv or .names, or starts with /, ./, ../ or ~): that file, which must
   exist.
4. It is nearly a benchmark's name (``ade20k_15``, ``voc``): an error that says which ones there are.
5. Else: one class.

A string that is a file *and* something else by these rules is refused with both readings. A ``Path`` is always a file;
lists and dictionaries are always class names.
"""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmseg_plugins.vocabulary.benchmarks import ALIASES, benchmark_rows, find_benchmark, list_benchmarks
from mmseg_plugins.vocabulary.files import read_class_file
from mmseg_plugins.vocabulary.grammar import parse_list, parse_mapping, parse_text
from mmseg_plugins.vocabulary.rows import ClassRows
from mmseg_plugins.vocabulary.suggest import unknown_name

_PATH_SUFFIXES = (".txt", ".json", ".csv", ".names")
_PATH_STARTS = ("/", "./", "../", "~")
_FAMILIES = ("ade", "ade20k", "voc", "pascal_voc", "context", "pascal_context", "coco", "mapillary", "shapesworld")
_NEARLY = 0.8  # share of matching characters from which a word with a digit or underscore is taken for a slip


def read_source(source: Any, names: str | None = None) -> ClassRows:
    """Read classes from whatever a source stands for.

    Args:
        source: a string (rules above), a ``Path``, a list or a dictionary.
        names: which list of names to prompt with; for benchmarks and class files that have several.

    Raises:
        TypeError: if the source is of another kind.
        ValueError: if it is ambiguous or holds something that cannot be a class.
        FileNotFoundError: if it is a path and there is no such file.
        KeyError: if it is nearly a benchmark's name, or has no such list of names.
    """
    if isinstance(source, Path):
        return read_class_file(source, names)
    if isinstance(source, str):
        return _read_string(source, names)
    if isinstance(source, Mapping):
        return parse_mapping(source, "the dict", names)
    if isinstance(source, Sequence):
        _refuse_names(names, "a list")
        return parse_list(source)
    raise TypeError(
        "a vocabulary is a string such as 'cat; sofa, couch', a list of names, a dict, a Path or a benchmark's name, "
        f"but got {type(source).__name__}."
    )


def _read_string(text: str, names: str | None) -> ClassRows:
    reading = _reading(text)
    if _is_file(text) and reading != "file":
        raise _ambiguous(text, reading)
    if reading == "file":
        return read_class_file(text.strip(), names)
    if reading == "benchmark":
        return benchmark_rows(text, names)
    _refuse_names(names, "class names")
    return parse_text(text)


def _reading(text: str) -> str:
    """Say what a string is by the rules of this module: ``names``, ``benchmark`` or ``file``."""
    stripped = text.strip()
    if any(mark in stripped for mark in ";,\n"):
        return "names"
    if find_benchmark(stripped):
        return "benchmark"
    if stripped.lower().endswith(_PATH_SUFFIXES) or stripped.startswith(_PATH_STARTS):
        return "file"
    if _is_nearly_benchmark(stripped) and not _is_file(text):
        error = unknown_name("benchmark", stripped, [*list_benchmarks(), *ALIASES])
        raise type(error)(f"{error} For a class of that name write [{stripped!r}].")
    return "names"


def _is_nearly_benchmark(word: str) -> bool:
    key = word.lower().replace("-", "_")
    if key in _FAMILIES:
        return True
    looks_like_key = " " not in key and (any(c.isdigit() for c in key) or "_" in key)
    return looks_like_key and bool(difflib.get_close_matches(key, [*list_benchmarks(), *ALIASES], n=1, cutoff=_NEARLY))


def _is_file(text: str) -> bool:
    try:
        return Path(text.strip()).expanduser().is_file()
    except (OSError, ValueError, RuntimeError):  # too long for a path, holds a zero character, or unknown ~user
        return False


def _ambiguous(text: str, reading: str) -> ValueError:
    other = {
        "benchmark": f"the benchmark {find_benchmark(text)!r} (write Vocabulary.from_benchmark({text!r}))",
        "names": f"class names (write them as a list, [{text.strip()!r}])",
    }[reading]
    path = text if text.startswith(_PATH_STARTS) else f"./{text}"
    as_path = f"'{path}' or " if reading != "names" or not any(mark in text for mark in ";,\n") else ""
    return ValueError(
        f"{text!r} could be the file of that name (write {as_path}Path({text!r})) or {other}. Say which one is meant."
    )


def _refuse_names(names: str | None, what: str) -> None:
    if names is not None:
        raise ValueError(
            f"names={names!r} chooses a list of a benchmark or class file, but the source is {what}. Leave names out."
        )
