"""Prompt templates: sets by name, lists and files. Every template holds ``{}`` once, where the name goes."""

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from mmseg_plugins.vocabulary.files import read_json, read_text
from mmseg_plugins.vocabulary.suggest import unknown_name

_FILE = Path(__file__).parents[1] / "assets" / "templates.json"
_SLOT = "{}"
_SUFFIXES = (".txt", ".json")


def list_templates() -> tuple[str, ...]:
    """Return the names of the template sets that ship with the package."""
    return tuple(name for name, entry in _sets().items() if isinstance(entry, dict))


def load_templates(source: str | Path | Sequence[str]) -> tuple[str, ...]:
    """Return prompt templates.

    Args:
        source: the name of a set (``imagenet80``), one template (a string with ``{}``), a list of templates, or a file:
            ``.txt`` with one template per line, or ``.json`` with a list.

    Returns:
        The templates in their published order.

    Raises:
        KeyError: if there is no set of that name; the message lists them.
        FileNotFoundError: if it is a path and there is no such file.
        ValueError: if there is no template, or one does not hold ``{}`` exactly once.
        TypeError: if something is no string.
    """
    if isinstance(source, str) and _SLOT not in source and not source.lower().endswith(_SUFFIXES):
        return _named(source)
    if isinstance(source, Path) or (isinstance(source, str) and source.lower().endswith(_SUFFIXES)):
        return _checked(_read(Path(source).expanduser()), f"template file {source}")
    return _checked([source] if isinstance(source, str) else source, "the list of templates")


def fill(template: str, name: str) -> str:
    """Put a name into a template, literally: no article is mended and other braces stay as they are."""
    return template.replace(_SLOT, name)


def _named(name: str) -> tuple[str, ...]:
    entry = _sets().get(name)
    if not isinstance(entry, dict):
        raise unknown_name("template set", name, list_templates())
    if "templates_same_as" in entry:
        return _named(entry["templates_same_as"])
    return _checked(entry["templates"], f"template set {name}")


def _read(path: Path) -> Any:
    if path.suffix.lower() == ".json":
        return read_json(path, "template file")
    return [line.strip() for line in read_text(path, "template file").splitlines() if line.strip()]


def _checked(templates: object, where: str) -> tuple[str, ...]:
    if isinstance(templates, (str, dict)) or not isinstance(templates, Sequence):
        raise TypeError(f"{where}: expected a list of templates, but got {type(templates).__name__}.")
    if not templates:
        raise ValueError(f"{where} is empty. Expected at least one template, such as 'a photo of a {{}}.'.")
    for index, template in enumerate(templates, 1):
        if not isinstance(template, str):
            raise TypeError(f"template {index} of {where}: expected a string, but got {template!r}.")
        if template.count(_SLOT) != 1:
            raise ValueError(
                f"template {index} of {where}, {template!r}, holds '{{}}' {template.count(_SLOT)} times. "
                "Write it exactly once, where the name goes."
            )
    return tuple(templates)


@lru_cache(maxsize=1)
def _sets() -> dict[str, Any]:
    return json.loads(_FILE.read_text(encoding="utf-8"))
