"""Classes from a string or from Python values.

The string grammar, the same on the command line, in Python and in configs::

    "cat; sofa, couch; other: floor, wall"

``;`` (or a line break) separates classes, ``,`` the names of one class, the first of which is its label.
``label: a, b`` is a group: one class called ``label`` that is prompted by ``a`` and ``b`` and not by its label.

In lists and dictionaries nothing is split. A plain item that holds a separator is refused, because it could be meant
either way; ``["sofa, couch"]`` as an item of its own is one name with a comma in it.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mmseg_plugins.vocabulary.class_form import check_colour, parse_class_file_form
from mmseg_plugins.vocabulary.rows import ClassRows, clean_name, clean_names, require_classes
from mmseg_plugins.vocabulary.suggest import check_keys

_logger = logging.getLogger(__name__)

_ENTRY_KEYS = ("name", "names", "isthing", "color")


def parse_text(text: str, source: str = "the text") -> ClassRows:
    """Read classes written in the string grammar.

    Args:
        text: the classes.
        source: what to call it in messages.

    Raises:
        ValueError: if there is no class, or a name is empty or only punctuation.
    """
    parts = re.split(r"[;\n]", text)
    while parts and not parts[-1].strip():
        parts.pop()
    require_classes(parts, source)
    parsed = [parse_class(part, f"class {index} of {source}") for index, part in enumerate(parts, 1)]
    labels, prompts = zip(*parsed, strict=True)
    if len(parsed) == 1 and len(prompts[0]) > 1 and ":" not in text:
        _logger.warning(
            "%r is one class with %d names; write ';' between classes if several were meant.", text, len(prompts[0])
        )
    return ClassRows(labels=labels, prompts=prompts, source=source)


def parse_class(text: str, where: str, separator: str = ",") -> tuple[str, tuple[str, ...]]:
    """Read one class, ``name, synonym`` or ``label: name, name``, into its label and its names.

    Raises:
        ValueError: if a name is empty or only punctuation, or there are several colons.
    """
    if text.count(":") > 1:
        raise ValueError(
            f"{where}: {text.strip()!r} holds several colons. Expected 'label: name, name'; "
            "give names that hold a colon as a list of lists."
        )
    label, colon, listed = text.rpartition(":")
    names = tuple(clean_name(name, where) for name in listed.split(separator)) if listed.strip() else ()
    if not names:
        reason = f"group {label.strip()!r} has no names after the colon" if colon else "empty name"
        raise ValueError(f"{where}: {reason}. Write a name there, or take the separator away.")
    return (clean_name(label, where) if colon else names[0]), names


def parse_list(items: Sequence[Any], source: str = "the list") -> ClassRows:
    """Read classes from a list: strings, lists of names, or ``{"name", "names", "isthing", "color"}``.

    Raises:
        TypeError: if an item is of another kind.
        ValueError: if there is no class, or a name is not usable or ambiguous.
    """
    require_classes(items, source)
    entries = [_parse_item(item, f"class {index} of {source}") for index, item in enumerate(items, 1)]
    return _combine(entries, source)


def parse_mapping(content: Mapping[str, Any], source: str = "the dict", names: str | None = None) -> ClassRows:
    """Read classes from ``{label: names}``, or from the class-file form when there is a list under ``classes``.

    Args:
        content: the mapping. In ``{label: names}`` the names are a list, one string, None (the label itself),
            or ``{"names", "isthing", "color"}``.
        source: what to call it in messages.
        names: in the class-file form, the key of the list of names to prompt with.

    Raises:
        TypeError: if a value is of another kind.
        ValueError: if there is no class, or a name is not usable or ambiguous.
        KeyError: if there is no such list of names.
    """
    if isinstance(content.get("classes"), Sequence) and not isinstance(content["classes"], str):
        return parse_class_file_form(content, source, names)
    require_classes(list(content), source)
    entries = []
    for label, value in content.items():
        where = f"class {label!r} of {source}"
        value = {"names": value} if not isinstance(value, Mapping) else dict(value)
        if "name" in value:
            raise ValueError(f"{where}: 'name' is given twice. The key is the name already; leave 'name' out.")
        entries.append(_parse_entry({**value, "name": label}, where))
    return _combine(entries, source)


def _parse_item(item: Any, where: str) -> dict[str, Any]:
    if isinstance(item, Mapping):
        return _parse_entry(item, where)
    if isinstance(item, str):
        return _parse_entry({"name": item, "names": item}, where)
    names = clean_names(item, where)
    return {"name": names[0], "names": names}


def _parse_entry(entry: Mapping[str, Any], where: str) -> dict[str, Any]:
    check_keys(where, entry, _ENTRY_KEYS)
    names = entry.get("names")
    listed = [names] if isinstance(names, str) else names
    if listed is None and "name" in entry:
        listed = [entry["name"]]
    for name in listed if isinstance(names, str) or names is None else ():
        _refuse_separators(name, where)
    prompts = clean_names(listed, where)
    label = clean_name(entry.get("name", prompts[0]), where)
    parsed = {"name": label, "names": prompts}
    if entry.get("isthing") is not None:
        parsed["isthing"] = bool(entry["isthing"])
    if entry.get("color") is not None:
        parsed["color"] = check_colour(entry["color"], where)
    return parsed


def _refuse_separators(name: object, where: str) -> None:
    if not isinstance(name, str) or not any(mark in name for mark in ",;:"):
        return
    parts = [part.strip() for part in re.split("[,;:]", name) if part.strip()]
    raise ValueError(
        f"{where}: {name!r} could be one name or several. Write {parts!r} for several names of one class, "
        f"or {[name]!r} for one name with that mark in it."
    )


def _combine(entries: Sequence[Mapping[str, Any]], source: str) -> ClassRows:
    flags = [entry.get("isthing") for entry in entries]
    missing = [entry["name"] for entry, flag in zip(entries, flags, strict=True) if flag is None]
    if missing and len(missing) < len(entries):
        raise ValueError(f"{source}: 'isthing' is given for some classes but not for {missing[0]!r}. Give all or none.")
    colours = tuple(entry.get("color") for entry in entries)
    return ClassRows(
        labels=tuple(entry["name"] for entry in entries),
        prompts=tuple(entry["names"] for entry in entries),
        is_thing=None if missing else tuple(flags),
        colours=colours if any(colour is not None for colour in colours) else (),
        source=source,
    )
