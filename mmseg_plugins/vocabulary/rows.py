"""Class names with their prompts as they come out of a string, list, file or benchmark, and the checks they pass."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Colour = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class ClassRows:
    """Classes as read, before background and colours are decided.

    Attributes:
        labels: K class names.
        prompts: per class the names that are put into prompts.
        is_thing: K flags, or None when the source does not say.
        colours: K colours or None each; empty when the source has none.
        source: where they came from, for messages.
        published: the lists are somebody's published ones, kept as they are, duplicates included.
        background: the source's own background rule, in the form of ``Vocabulary.parse(background=...)``.
        background_words: named lists of words that stand for the background.
    """

    labels: tuple[str, ...]
    prompts: tuple[tuple[str, ...], ...]
    is_thing: tuple[bool, ...] | None = None
    colours: tuple[Colour | None, ...] = ()
    source: str = ""
    published: bool = False
    background: Any = None
    background_words: Mapping[str, Sequence[str]] = field(default_factory=dict)


def clean_name(name: object, where: str) -> str:
    """Return a name without blanks at its ends and with single blanks inside.

    Args:
        name: a class name, synonym or label.
        where: the place to name in errors, such as ``class 3``.

    Raises:
        TypeError: if it is not a string.
        ValueError: if it is empty, has no letter or digit, or holds control characters.
    """
    if not isinstance(name, str):
        raise TypeError(f"{where}: expected a name (str), but got {type(name).__name__} {name!r}.")
    cleaned = " ".join(name.split())
    if not cleaned:
        raise ValueError(f"{where}: empty name. Write a name there, or take the separator away.")
    if any(ord(character) < 32 or ord(character) == 127 for character in cleaned):
        raise ValueError(f"{where}: {cleaned!r} holds control characters. Is it a text?")
    if not any(character.isalnum() for character in cleaned):
        raise ValueError(f"{where}: {cleaned!r} is only punctuation. A name needs at least one letter or digit.")
    return cleaned


def clean_names(names: object, where: str) -> tuple[str, ...]:
    """Clean the names of one class.

    Raises:
        TypeError: if ``names`` is not a list of strings.
        ValueError: if there is none, or one of them is not usable.
    """
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise TypeError(f"{where}: expected a list of names, but got {type(names).__name__} {names!r}.")
    if not names:
        raise ValueError(f"{where}: no names. Give at least one, or take the class away.")
    return tuple(clean_name(name, where) for name in names)


def require_classes(labels: Sequence[str], source: str) -> None:
    """Refuse an empty vocabulary.

    Raises:
        ValueError: if there is no class.
    """
    if not labels:
        raise ValueError(
            f"empty vocabulary: {source} names no class. Expected at least one, for example 'cat; sofa, couch' "
            "(';' between classes, ',' between names of one class)."
        )


def check_unique_labels(labels: Sequence[str], source: str = "") -> None:
    """Refuse two classes of one name; capitals do not count, as text towers do not see them.

    Raises:
        ValueError: naming the duplicates and their positions.
    """
    places = _places((label, index) for index, label in enumerate(labels, 1))
    repeated = [f"{shown!r} (classes {', '.join(map(str, at))})" for shown, at in places if len(at) > 1]
    if repeated:
        raise ValueError(
            f"duplicate classes{_of(source)}: {_shortened(repeated)}. Every class needs a name of its own; "
            "give several names of one class as synonyms."
        )


def repeated_prompts(rows: ClassRows) -> list[str]:
    """Describe every prompt that occurs twice, in one class or in several."""
    pairs = zip(rows.labels, rows.prompts, strict=True)
    places = _places((name, label) for label, names in pairs for name in names)
    return [f"{shown!r} (in {_and([repr(label) for label in at])})" for shown, at in places if len(at) > 1]


def check_unique_prompts(rows: ClassRows) -> None:
    """Refuse names that occur twice: the same words cannot stand for two classes.

    Raises:
        ValueError: naming the duplicates and their classes.
    """
    repeated = repeated_prompts(rows)
    if repeated:
        raise ValueError(
            f"duplicate names{_of(rows.source)}: {_shortened(repeated)}. Keep each in one class only, or pass "
            "duplicates='allow' to keep a published list as it is."
        )


def _places(items: Iterable[tuple[str, Any]]) -> list[tuple[str, list[Any]]]:
    found: dict[str, tuple[str, list[Any]]] = {}
    for name, place in items:
        found.setdefault(name.casefold(), (name, []))[1].append(place)
    return list(found.values())


def _and(labels: Sequence[str]) -> str:
    if len(set(labels)) == 1:
        return f"{labels[0]}, {'twice' if len(labels) == 2 else f'{len(labels)} times'}"
    return " and ".join(dict.fromkeys(labels))


def _of(source: str) -> str:
    return f" in {source}" if source else ""


def _shortened(items: Sequence[str], limit: int = 5) -> str:
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + more
