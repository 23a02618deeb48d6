"""Class files: text in the forms that published projects use, and JSON.

Text files have one class per line, and say by themselves which form they have:

* every line starts with ``number:``: the form of FC-CLIP, ``1:wall,walls,brick wall``; a row named
  ``invalid_class_id`` is skipped;
* some line holds ``;``: the form of ProxyCLIP, names separated by ``;``;
* else the form of SCLIP, names separated by ``,``. A line may also be a group, ``label: name, name``.

Lines that start with ``#`` are remarks. An empty line in between is an error: it could be a class that lost its name.
"""

import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmseg_plugins.vocabulary.grammar import parse_class, parse_list, parse_mapping
from mmseg_plugins.vocabulary.rows import ClassRows, clean_name, repeated_prompts, require_classes

_logger = logging.getLogger(__name__)

_INDEXED = re.compile(r"\s*(\d+)\s*:(.*)")
_SKIPPED_ROW = "invalid_class_id"
_LARGEST_BYTES = 16 * 2**20  # a list of 10 000 classes with synonyms stays below 1 MiB

Line = tuple[int, str]  # line number from 1, text


def read_text(path: Path, kind: str = "class file") -> str:
    """Return the text of a small file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no UTF-8 text, or far too large to be a list.
    """
    if path.is_dir():
        raise FileNotFoundError(f"{kind} {path} is a folder. Expected a text or JSON file.")
    if not path.is_file():
        raise FileNotFoundError(f"{kind} {path} does not exist. Check the path; it is looked up from {Path.cwd()}.")
    if path.stat().st_size > _LARGEST_BYTES:
        raise ValueError(
            f"{kind} {path} has {path.stat().st_size / 2**20:.0f} MiB. Expected a short list as text or JSON."
        )
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{kind} {path} is no UTF-8 text ({error.reason} at byte {error.start}). Save it as UTF-8."
        ) from error


def read_json(path: Path, kind: str = "class file") -> Any:
    """Return the content of a JSON file; a key that occurs twice is refused.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no JSON, or an object holds a key twice.
    """

    def unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        repeated = sorted({key for key in keys if keys.count(key) > 1}) if len(set(keys)) < len(keys) else []
        if repeated:
            raise ValueError(f"{kind} {path} holds the key {repeated[0]!r} twice. Keep one of them.")
        return dict(pairs)

    text = read_text(path, kind)
    try:
        return json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise ValueError(f"{kind} {path} is not valid JSON: {error}.") from error


def read_class_file(path: str | Path, names: str | None = None) -> ClassRows:
    """Read classes from a file: JSON when its name ends in ``.json``, else text.

    Args:
        path: the file.
        names: which list of names to prompt with, where the file holds several (class-file form).

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds no class, or something in it cannot be a class; the message gives the line.
        KeyError: if it has no such list of names.
    """
    path = Path(path).expanduser()
    if path.suffix.lower() != ".json":
        if names is not None:
            raise ValueError(f"names={names!r} was given, but {path} holds one list of names. Leave names out.")
        return _read_text_classes(path)
    content = read_json(path)
    if isinstance(content, dict):
        return parse_mapping(content, str(path), names)
    if not isinstance(content, list):
        raise ValueError(f"class file {path} holds a single {type(content).__name__}. Expected a list or an object.")
    if names is not None:
        raise ValueError(f"names={names!r} was given, but {path} holds one list of names. Leave names out.")
    return parse_list(content, str(path))


def _read_text_classes(path: Path) -> ClassRows:
    lines = list(enumerate(read_text(path).splitlines(), 1))
    while lines and not lines[-1][1].strip():
        lines.pop()
    lines = [(number, text) for number, text in lines if not text.lstrip().startswith("#")]
    require_classes(lines, f"class file {path}")
    empty = next((number for number, text in lines if not text.strip()), None)
    if empty is not None:
        raise ValueError(f"line {empty} of {path} is empty. Write the class there, or take the line away.")
    indexed = [_INDEXED.fullmatch(text) for _, text in lines]
    if all(indexed):
        return _indexed_classes(lines, path)
    if indexed[0]:
        odd = next(number for (number, _), match in zip(lines, indexed, strict=True) if not match)
        raise ValueError(
            f"line {odd} of {path} does not start with 'number:' as line {lines[0][0]} does. Write all lines alike."
        )
    return _listed_classes(lines, path)


def _indexed_classes(lines: Sequence[Line], path: Path) -> ClassRows:
    """Rows ``index:name,name``. The order is that of the file, and the indices must rise, so both readings agree."""
    labels, prompts, last = [], [], -1
    for number, text in lines:
        index, listed = _INDEXED.fullmatch(text).groups()
        if int(index) <= last:
            raise ValueError(f"line {number} of {path} has index {index} after {last}. Expected indices that rise.")
        last = int(index)
        names = tuple(clean_name(name, f"line {number} of {path}") for name in listed.split(","))
        if names != (_SKIPPED_ROW,):
            labels.append(names[0])
            prompts.append(names)
    require_classes(labels, f"class file {path}")
    rows = ClassRows(labels=_numbered(labels), prompts=tuple(prompts), source=str(path), published=True)
    repeated = repeated_prompts(rows)
    if repeated:
        _logger.warning("%s holds names more than once, kept as they are: %s.", path, ", ".join(repeated[:5]))
    return rows


def _numbered(labels: Sequence[str]) -> tuple[str, ...]:
    """Tell classes of one first name apart, which published lists have: ``bag``, ``bag (2)``."""
    seen: dict[str, int] = {}
    result = []
    for label in labels:
        seen[label] = seen.get(label, 0) + 1
        result.append(label if seen[label] == 1 else f"{label} ({seen[label]})")
    return tuple(result)


def _listed_classes(lines: Sequence[Line], path: Path) -> ClassRows:
    separator = ";" if any(";" in text for _, text in lines) else ","
    if separator == ";":
        _refuse_mixed(lines, path)
    parsed = [parse_class(text, f"line {number} of {path}", separator) for number, text in lines]
    labels, prompts = zip(*parsed, strict=True)
    return ClassRows(labels=labels, prompts=prompts, source=str(path))


def _refuse_mixed(lines: Sequence[Line], path: Path) -> None:
    both = next((number for number, text in lines if "," in text), None)
    if both is not None:
        raise ValueError(
            f"{path} holds ';' and, in line {both}, ','. It could be one class per line with names separated by ';' "
            "(then no ',' may occur), or classes separated by ';' (then give the text itself, not the file). Use one "
            "class per line and ',' between its names."
        )
    if len(lines) == 1:
        raise ValueError(
            f"{path} has one line with ';' in it. It could be one class with several names, or several classes. "
            "Write one class per line, or one class with ',' between its names."
        )
