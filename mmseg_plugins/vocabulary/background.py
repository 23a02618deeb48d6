"""The background rule of a vocabulary: a class with words of its own, a probability threshold, or none."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from mmseg_plugins.vocabulary.palette import BLACK
from mmseg_plugins.vocabulary.rows import ClassRows, clean_name, clean_names
from mmseg_plugins.vocabulary.suggest import check_keys, unknown_name

NAME = "background"


@dataclass(frozen=True, kw_only=True)
class Background:
    """Which class is the background and how a pixel becomes it.

    Attributes:
        kind: ``none``: every pixel gets a class. ``name``: a class whose words compete as those of any other.
            ``threshold``: as ``name``, where the class has words at all; besides, every pixel whose best class has
            a probability below the threshold becomes background, whatever won.
        index: the background class; None for ``none``.
        threshold: probability in (0, 1); None unless the kind is ``threshold``.

    Raises:
        ValueError: if the three do not fit together.
    """

    kind: Literal["none", "name", "threshold"] = "none"
    index: int | None = None
    threshold: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("none", "name", "threshold"):
            raise ValueError(f"background kind must be 'none', 'name' or 'threshold', but got {self.kind!r}.")
        if (self.index is None) != (self.kind == "none"):
            raise ValueError(f"background kind {self.kind!r} does not go with class index {self.index!r}.")
        if (self.threshold is None) != (self.kind != "threshold"):
            raise ValueError(f"background kind {self.kind!r} does not go with threshold {self.threshold!r}.")
        if self.threshold is not None:
            _check_threshold(self.threshold)


def apply_background(rows: ClassRows, rule: Any = None) -> tuple[ClassRows, Background]:
    """Decide the background of classes as read; a background class that is missing is put in front.

    Args:
        rows: the classes.
        rule: ``None``: what the source says, else the class called ``background`` if there is one. ``"none"``: no class
            is background. A number: probability threshold. A label: that class; ``"background"`` is added if missing. A
            list of words, or the key of one of the source's ``background_words``: words that stand for the background.
            ``dict(name=, words=, threshold=)``: any of these together. A :class:`Background`: as it is.

    Returns:
        The classes, possibly one more or with other words, and the rule.

    Raises:
        ValueError: if the rule is not usable.
        KeyError: if it names a class or list that does not exist.
        TypeError: if it is of another kind.
    """
    rule = rows.background if rule is None else rule
    if rule is None:
        index = _find(rows, NAME)
        return rows, Background() if index is None else Background(kind="name", index=index)
    if isinstance(rule, Background):
        return rows, _check_index(rule, rows)
    if rule == "none" or rule is False:
        return rows, Background()
    return _apply(rows, **_as_fields(rule, rows))


def _as_fields(rule: Any, rows: ClassRows) -> dict[str, Any]:
    if isinstance(rule, Mapping):
        check_keys("background", rule, ("name", "words", "threshold"))
        if not rule:
            raise ValueError("background is an empty dict. Give name, words or threshold, or background='none'.")
        return dict(rule)
    if isinstance(rule, str):
        is_label = _find(rows, rule) is not None or rule == NAME
        return {"name": rule} if is_label or rule not in rows.background_words else {"words": rule}
    if isinstance(rule, (int, float)) and not isinstance(rule, bool):
        return {"threshold": rule}
    if isinstance(rule, Sequence):
        return {"words": rule}
    raise TypeError(
        f"background must be None, 'none', a threshold, a class name, a list of words or a dict, but got {rule!r}."
    )


def _apply(rows: ClassRows, name: str | None = None, words: Any = None, threshold: float | None = None) -> tuple:
    label = NAME if name is None else clean_name(name, "background")
    index = _find(rows, label)
    if index is None and label != NAME and words is None:
        raise unknown_name("background class", label, [*rows.labels, NAME, *rows.background_words])
    prompts = None if words is None else _words(words, rows)
    if index is None:
        default = () if threshold is not None and name is None else (label,)
        rows, index = _put_in_front(rows, label, default if prompts is None else prompts), 0
    elif prompts is not None:
        rows = replace(rows, prompts=(*rows.prompts[:index], prompts, *rows.prompts[index + 1 :]))
    if threshold is None:
        return rows, Background(kind="name", index=index)
    return rows, Background(kind="threshold", index=index, threshold=_check_threshold(threshold))


def _words(words: Any, rows: ClassRows) -> tuple[str, ...]:
    if isinstance(words, str):
        if words not in rows.background_words:
            options = [*rows.background_words] or ["none for this source; give a list of words"]
            raise unknown_name("list of background words", words, options)
        words = rows.background_words[words]
    return clean_names(words, "background words")


def _put_in_front(rows: ClassRows, label: str, prompts: tuple[str, ...]) -> ClassRows:
    return replace(
        rows,
        labels=(label, *rows.labels),
        prompts=(prompts, *rows.prompts),
        is_thing=None if rows.is_thing is None else (False, *rows.is_thing),
        colours=(BLACK, *rows.colours) if rows.colours else (),
    )


def _find(rows: ClassRows, label: str) -> int | None:
    label = " ".join(label.split())
    return rows.labels.index(label) if label in rows.labels else None


def _check_index(rule: Background, rows: ClassRows) -> Background:
    if rule.index is not None and not 0 <= rule.index < len(rows.labels):
        raise ValueError(
            f"background index {rule.index} is not one of the {len(rows.labels)} classes, 0 to {len(rows.labels) - 1}."
        )
    return rule


def _check_threshold(threshold: object) -> float:
    if isinstance(threshold, bool) or not isinstance(threshold, (int, float)) or not 0 < threshold < 1:
        raise ValueError(
            f"background threshold must be a probability above 0 and below 1, but got {threshold!r}. "
            "Leave it out for no threshold."
        )
    return float(threshold)
