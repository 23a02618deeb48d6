"""Comparing the figures of a published evaluator, nested and sparse as its result is, with ours."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from mmseg_plugins.cases import StageResult

FIGURE_TOLERANCE = 1e-6
PRINTED_TOLERANCE = 5.001e-3  # percentages that an evaluator rounds to two decimals, kept as float32


def compare_figures(want: Mapping[str, Any], got: Mapping[str, Any]) -> list[StageResult]:
    """Compare every group of figures; one that was not computed fails.

    Args:
        want: name -> figures of the published evaluator: numbers, text, lists, or tables by name or by index. A table
            by index leaves out what is 0 or undefined.
        got: ours, of the same form; tables by index may be lists.
    """
    return [
        _compare(f"{name}.{key}" if key else name, expected, computed)
        for name, figures in want.items()
        for key, expected, computed in _groups(figures, got.get(name))
    ]


def _groups(want: Any, got: Any) -> Iterable[tuple[str, Any, Any]]:
    """Split a group of figures into scalars together and one entry for each list or table; remarks are left out."""
    if not isinstance(want, Mapping) or got is None:
        yield "", want, got
        return
    scalars = {key: value for key, value in want.items() if isinstance(value, (int, float))}
    if scalars:
        yield "", scalars, {key: got.get(key) for key in scalars}
    for key, value in want.items():
        if isinstance(value, (Mapping, list)):
            yield str(key), value, got.get(key)


def _compare(name: str, want: Any, got: Any) -> StageResult:
    printed = name.endswith("summary") or "nan_to_num" in name
    tolerance = PRINTED_TOLERANCE if printed else FIGURE_TOLERANCE
    if got is None:
        return StageResult(name, float("nan"), "", False, "not produced")
    wrong, largest = [], 0.0
    for where, expected, value in _leaves(want, got):
        difference = _difference(expected, value)
        largest = max(largest, difference)
        # Percentages of a float64 evaluator are 100 times a fraction; float32 figures carry 6e-8 of their value.
        if difference > tolerance + (0 if printed or isinstance(expected, str) else 1e-7 * abs(expected or 0)):
            wrong.append(f"{where}: {value}, expected {expected}")
    text = "two printed decimals" if printed else f"atol {tolerance:g}"
    return StageResult(name, largest, text, not wrong, "; ".join(wrong[:3]))


def _leaves(want: Any, got: Any, where: str = "") -> Iterable[tuple[str, Any, Any]]:
    """Pair expected and computed figures; a sparse table leaves out what is 0 or undefined."""
    if isinstance(want, Mapping) and isinstance(got, Mapping):
        for key in want:
            yield from _leaves(want[key], got.get(key), f"{where}.{key}" if where else str(key))
    elif isinstance(want, Mapping):  # sparse: index -> value
        values = list(got)
        for index, value in enumerate(values):
            expected = want.get(str(index), 0)
            undefined = value is None or (isinstance(value, float) and np.isnan(value))
            yield f"{where}[{index}]", expected, 0 if undefined and str(index) not in want else value
    elif isinstance(want, list):
        values = list(got) if len(got) == len(want) else [None] * len(want)
        for index, (expected, value) in enumerate(zip(want, values, strict=True)):
            yield from _leaves(expected, value, f"{where}[{index}]")
    else:
        yield where, want, got


def _difference(want: Any, got: Any) -> float:
    undefined = [value is None or (isinstance(value, float) and np.isnan(value)) for value in (want, got)]
    if any(undefined):
        return 0.0 if all(undefined) else float("inf")
    if isinstance(want, str) or isinstance(got, str):
        return 0.0 if want == got else float("inf")
    return abs(float(want) - float(got))
