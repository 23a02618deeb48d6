"""Published results as records: what was reported, under which settings, and what one needs to measure it again.

``assets/published.json`` holds the records; a method adds its results there as data. Other files of the same form can
be read beside it.
"""

import difflib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from mmseg_plugins.datasets.benchmarks import RECORDS
from mmseg_plugins.datasets.checking import check_benchmark
from mmseg_plugins.evaluation.panoptic_files import read_json
from mmseg_plugins.towers.weights import cached_path, find_record

SHIPPED = Path(__file__).parents[1] / "assets" / "published.json"
SAMPLED_LABEL_MAPS = 20


@dataclass(frozen=True, kw_only=True)
class PublishedResult:
    """One figure that a paper or repository reports.

    Attributes:
        name: how it is asked for.
        method: the method.
        config: name of the config that measures it.
        benchmark: key of the benchmark's record; None where the config's own data set is all there is.
        value: the published figure, in percent.
        source: where it is published.
        harness: the settings it was measured under; figures of other settings do not compare.
        metric: key of the figure among the metrics of the run.
        split: of the benchmark.
        tolerance: difference, in percentage points, that counts as reproduced.
        weights: records of the weights that the config loads by itself.
        checkpoint: what released checkpoint is needed beside them, for people; empty where none.
        options: config entries that differ from the config file, as for ``--cfg-options``.
    """

    name: str
    method: str
    config: str
    benchmark: str | None
    value: float
    source: str
    harness: str
    metric: str = "mIoU"
    split: str = "val"
    tolerance: float = 0.3
    weights: tuple[str, ...] = ()
    checkpoint: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Need:
    """One thing that a measurement needs.

    Attributes:
        kind: ``config``, ``weights``, ``checkpoint`` or ``data``.
        is_there: whether it is on this machine or will be fetched by itself.
        text: what it is, and where to get it if it is not there.
    """

    kind: str
    is_there: bool
    text: str


def read_results(path: str | os.PathLike = SHIPPED) -> list[PublishedResult]:
    """Read a file of records.

    Raises:
        FileNotFoundError: if it is missing.
        ValueError: naming the file and the record, if a field is missing or unknown, or a name occurs twice.
    """
    content = read_json(path)
    if not isinstance(content, list):
        raise ValueError(f"{os.fspath(path)} must be a list of published results.")
    results = [_result_of(entry, path) for entry in content]
    names = [result.name for result in results]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{os.fspath(path)} has {', '.join(twice)} twice.")
    return results


def _result_of(entry: Any, path: str | os.PathLike) -> PublishedResult:
    known = {each.name for each in fields(PublishedResult)}
    where = f"{os.fspath(path)}: {entry.get('name', json.dumps(entry)[:60]) if isinstance(entry, dict) else entry}"
    if not isinstance(entry, dict):
        raise ValueError(f"{where} is no record, expected an object.")
    unknown = sorted(set(entry) - known)
    if unknown:
        raise ValueError(f"{where} has the unknown fields {', '.join(unknown)}. Known: {', '.join(sorted(known))}.")
    if entry.get("benchmark") is not None and entry["benchmark"] not in RECORDS:
        raise ValueError(f"{where}: unknown benchmark {entry['benchmark']!r}. Known: {', '.join(RECORDS)}.")
    try:
        return PublishedResult(**{**entry, "weights": tuple(entry.get("weights", ()))})
    except TypeError as error:
        raise ValueError(f"{where} is incomplete: {error}.") from error


def find_result(name: str, results: list[PublishedResult]) -> PublishedResult:
    """Look a result up.

    Raises:
        KeyError: for an unknown name, with the nearest ones.
    """
    by_name = {result.name: result for result in results}
    if name in by_name:
        return by_name[name]
    near = difflib.get_close_matches(name, by_name, n=3, cutoff=0.4)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    raise KeyError(f"no published result is named {name!r}.{hint} `mmseg-plugins reproduce --list` shows all.")


def list_needs(
    result: PublishedResult, *, config_path: Path | None, data_root: str | None = None, checkpoint: str | None = None
) -> list[Need]:
    """Say what a measurement needs and which of it is there; label maps are sampled, nothing is fetched.

    Args:
        result: what to measure.
        config_path: the config's file, None if it was not found.
        data_root: folder to search for the benchmark; None searches the usual places.
        checkpoint: the released checkpoint that the user has, if the result needs one.
    """
    where = str(config_path) if config_path else f"{result.config} is not among the shipped configs"
    needs = [Need("config", config_path is not None, where)]
    needs += [_weights_need(name) for name in result.weights]
    if result.checkpoint:
        is_there = checkpoint is not None and Path(checkpoint).is_file()
        text = str(checkpoint) if is_there else f"{result.checkpoint}; give the file with --checkpoint"
        needs.append(Need("checkpoint", is_there, text))
    if result.benchmark is not None:
        needs.append(_data_need(result, data_root))
    return needs


def _weights_need(name: str) -> Need:
    try:
        record = find_record(name)
    except KeyError as error:
        return Need("weights", False, str(error.args[0]))
    path = cached_path(record)
    if path is not None:
        return Need("weights", True, f"{name}: {path}")
    return Need("weights", True, f"{name}: not here yet, fetched on first use from {record.source_page}")


def _data_need(result: PublishedResult, data_root: str | None) -> Need:
    [check] = check_benchmark(result.benchmark, data_root, splits=(result.split,), samples=SAMPLED_LABEL_MAPS)
    if check.problems:
        return Need("data", False, f"{result.benchmark} {result.split}: " + " ".join(check.problems))
    return Need("data", True, f"{result.benchmark} {result.split}: {check.images} images in {check.folder}")


@dataclass(frozen=True)
class Comparison:
    """A measured figure beside the published one.

    Attributes:
        result: the published one.
        measured: in percent.
        figures: all figures of the run.
    """

    result: PublishedResult
    measured: float
    figures: Mapping[str, float]

    @property
    def difference(self) -> float:
        """Measured minus published, in percentage points."""
        return self.measured - self.result.value

    @property
    def is_reproduced(self) -> bool:
        """Whether the difference is within the record's tolerance."""
        return abs(self.difference) <= self.result.tolerance

    def to_dict(self) -> dict[str, Any]:
        """Form for JSON."""
        return {
            "name": self.result.name,
            "metric": self.result.metric,
            "published": self.result.value,
            "measured": self.measured,
            "difference": self.difference,
            "tolerance": self.result.tolerance,
            "reproduced": self.is_reproduced,
            "harness": self.result.harness,
            "source": self.result.source,
            "figures": {key: float(value) for key, value in self.figures.items()},
        }


def compare(result: PublishedResult, figures: Mapping[str, float]) -> Comparison:
    """Set a run's figure beside the published one.

    Raises:
        KeyError: if the run did not compute it.
    """
    key = f"{result.metric}_unrounded" if f"{result.metric}_unrounded" in figures else result.metric
    if key not in figures:
        raise KeyError(f"the run gave no {result.metric!r}; it gave {', '.join(figures)}.")
    return Comparison(result, float(figures[key]), figures)
