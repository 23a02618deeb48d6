"""Errors for names that do not exist: what was asked, what there is, what was probably meant."""

import difflib
from collections.abc import Iterable


class UnknownNameError(KeyError):
    """A name that is not in a table. A ``KeyError`` whose text is its message, not the quoted key."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the closest option, or an empty string when none is close."""
    by_lower = {option.lower(): option for option in options}
    close = difflib.get_close_matches(str(word).lower(), by_lower, n=1, cutoff=0.6)
    return f" Did you mean {by_lower[close[0]]!r}?" if close else ""


def unknown_name(kind: str, word: str, options: Iterable[str]) -> UnknownNameError:
    """Build the error for a name that is none of ``options``.

    Args:
        kind: what was looked up, in the singular ("benchmark", "template set").
        word: what was asked for.
        options: what exists.
    """
    options = list(options)
    return UnknownNameError(f"unknown {kind} {word!r}.{did_you_mean(word, options)} Available: {', '.join(options)}.")


def check_keys(kind: str, given: Iterable[str], allowed: Iterable[str]) -> None:
    """Refuse keys that nothing reads.

    Raises:
        ValueError: for the first key of ``given`` that is not in ``allowed``.
    """
    allowed = list(allowed)
    for key in given:
        if key not in allowed:
            raise ValueError(
                f"{kind} has an unknown key {key!r}.{did_you_mean(str(key), allowed)} Known keys: {', '.join(allowed)}."
            )
