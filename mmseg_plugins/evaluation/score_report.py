"""What scoring gives back: figures with everything one must know to read them, as JSON and as text."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, images done, images in all)."""


@dataclass(frozen=True)
class ScoreReport:
    """The outcome of scoring saved predictions.

    Attributes:
        task: ``semantic``, ``panoptic`` or ``instance``.
        settings: what was scored and how: classes, encodings, images, rules.
        figures: name -> fraction (1 is perfect) or count, nested where the evaluator's result is.
        per_class: one entry per class.
        statement: the sentence that must go with the means.
        notes: what else the reader should know.
    """

    task: str
    settings: dict[str, Any]
    figures: dict[str, Any]
    per_class: list[dict[str, Any]]
    statement: str
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready object; undefined figures are None."""
        return {
            "task": self.task,
            "unit": "fraction",
            **self.settings,
            "statement": self.statement,
            "figures": _jsonable(self.figures),
            "per_class": _jsonable(self.per_class),
            "notes": self.notes,
        }

    def to_text(self, *, per_class: bool = False) -> str:
        """Return the lines to print: settings, figures in percent, the statement, notes."""
        lines = [", ".join(f"{key} {value}" for key, value in self.settings.items() if value is not None)]
        if per_class and self.per_class:
            lines += ["", *_table(self.per_class)]
        lines += ["", *_figure_lines(self.figures), "", self.statement, *self.notes]
        return "\n".join(lines)


def _jsonable(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _jsonable(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(entry) for entry in value]
    if isinstance(value, float) and math.isnan(value):
        return None
    return value


def _shown(value: Any) -> str:
    """Show a fraction in percent; counts, names and pycocotools' -1 as they are."""
    if isinstance(value, float):
        if math.isnan(value):
            return "-"
        return f"{100 * value:.2f}" if value >= 0 else f"{value:g}"
    return str(value)


def _figure_lines(figures: dict[str, Any]) -> list[str]:
    flat = {name: value for name, value in figures.items() if not isinstance(value, dict)}
    lines = _aligned([list(flat), [_shown(value) for value in flat.values()]]) if flat else []
    groups = {name: value for name, value in figures.items() if isinstance(value, dict)}
    if groups:
        columns = list(dict.fromkeys(key for group in groups.values() for key in group))
        rows = [[name, *(_shown(group.get(key, "")) for key in columns)] for name, group in groups.items()]
        lines += _aligned([["", *columns], *rows])
    return lines


def _table(rows: Sequence[dict[str, Any]]) -> list[str]:
    columns = [key for key, value in rows[0].items() if not isinstance(value, (dict, list))]
    return _aligned([columns, *([_shown(row[key]) for key in columns] for row in rows)])


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
