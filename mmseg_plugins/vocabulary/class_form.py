"""The class-file form: parallel lists of class names, alternative names, thing flags and colours.

Benchmark files and our own JSON class files have this form::

    {"classes": ["cat", "floor"], "synonyms": [["cat", "kitty"], ["floor"]], "isthing": [1, 0],
     "palette": [[255, 0, 0], [0, 0, 255]], "background": "floor"}
"""

from collections.abc import Mapping, Sequence
from typing import Any

from mmseg_plugins.vocabulary.rows import ClassRows, Colour, clean_name, clean_names, require_classes
from mmseg_plugins.vocabulary.suggest import unknown_name

_NAME_LIST_PREFIXES = ("synonyms", "names_", "official_names")


def parse_class_file_form(content: Mapping[str, Any], source: str, names: str | None = None) -> ClassRows:
    """Read ``{"classes": [...], "synonyms": [[...]], "isthing": [...], "palette": [...], "background": ...}``.

    Only ``classes`` is needed. ``names`` chooses the list to prompt with (any key that starts with ``synonyms`` or
    ``names_``, or ``"classes"``); without it ``synonyms`` is taken if there, else ``classes``. Other keys are remarks.

    Raises:
        TypeError: if an entry is of another kind.
        ValueError: if lists differ in length, or a name is not usable.
        KeyError: if there is no such list of names.
    """
    require_classes(content["classes"], source)
    labels = tuple(clean_name(name, f"class {i} of {source}") for i, name in enumerate(content["classes"], 1))
    chosen = names or ("synonyms" if "synonyms" in content else "classes")
    if chosen != "classes" and chosen not in name_lists(content):
        raise unknown_name(f"list of names in {source}:", chosen, name_lists(content))
    listed = _of_length(content[chosen], len(labels), chosen, source)
    where = [f"class {index} ({label!r}) of {source}, {chosen}" for index, label in enumerate(labels, 1)]
    prompts = tuple(clean_names([r] if isinstance(r, str) else r, w) for r, w in zip(listed, where, strict=True))
    is_thing = content.get("isthing")
    palette = content.get("palette")
    return ClassRows(
        labels=labels,
        prompts=prompts,
        is_thing=None if is_thing is None else tuple(map(bool, _of_length(is_thing, len(labels), "isthing", source))),
        colours=() if palette is None else _colours(_of_length(palette, len(labels), "palette", source), source),
        source=source,
        background=content.get("background"),
        background_words=content.get("background_words") or {},
    )


def name_lists(content: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the keys of a class file that hold names to prompt with, ``classes`` first."""
    listed = [key for key, value in content.items() if key.startswith(_NAME_LIST_PREFIXES) and isinstance(value, list)]
    return ("classes", *listed)


def check_colour(colour: object, where: str) -> Colour:
    """Return a colour as three integers.

    Raises:
        ValueError: if it is not three whole numbers from 0 to 255.
    """
    values = tuple(colour) if isinstance(colour, Sequence) and not isinstance(colour, str) else ()
    if len(values) != 3 or any(isinstance(v, bool) or not isinstance(v, int) or not 0 <= v <= 255 for v in values):
        raise ValueError(f"{where}: expected a colour, three whole numbers from 0 to 255, but got {colour!r}.")
    return values


def _colours(palette: Sequence[Any], source: str) -> tuple[Colour, ...]:
    return tuple(check_colour(colour, f"colour {index} of {source}") for index, colour in enumerate(palette, 1))


def _of_length(values: object, count: int, key: str, source: str) -> Sequence[Any]:
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise TypeError(f"{source}: expected a list under {key!r}, but got {type(values).__name__}.")
    if len(values) != count:
        raise ValueError(f"{source}: {key!r} has {len(values)} entries for {count} classes. Give one for each class.")
    return values
