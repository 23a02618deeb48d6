"""What all converters share: where to read and write, resumable loops, and what is reported at the end."""

import shutil
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Progress = Callable[[str, int, int], None]
"""Called with what is done, the number of finished items, and the number of all items."""

SHOWN_FAILURES = 3
IN_FLIGHT = 4  # queued items per worker: enough to keep workers busy, few enough to stop soon after an interruption


def _no_progress(label: str, done: int, total: int) -> None:
    return None


@dataclass(frozen=True)
class PrepareOptions:
    """What a converter is asked to do.

    Attributes:
        root: folder that holds the raw release.
        out: folder to write below, in the benchmark's layout; the data root of configs.
        layout: directory layout to write, ``mmseg`` or ``detectron2``.
        splits: splits to convert.
        overwrite: convert again what is there already.
        workers: files converted at a time.
        progress: called as files are finished.
    """

    root: Path
    out: Path
    layout: str = "mmseg"
    splits: tuple[str, ...] = ("train", "val")
    overwrite: bool = False
    workers: int = 4
    progress: Progress = _no_progress


@dataclass
class Report:
    """What a conversion did.

    Attributes:
        counts: images of each split.
        made: files written now.
        kept: files that were there already.
        notes: further lines for the user.
    """

    counts: dict[str, int] = field(default_factory=dict)
    made: int = 0
    kept: int = 0
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Job:
    """One resumable step: ``work`` writes ``target``, atomically and last of all."""

    target: Path
    work: Callable[[], None]


def run_jobs(jobs: Sequence[Job], options: PrepareOptions, report: Report, label: str) -> None:
    """Run the jobs whose target is missing (or all of them); go on after a failure and raise at the end.

    Args:
        jobs: what to do.
        options: ``overwrite``, ``workers`` and ``progress`` are used.
        report: its counters are increased.
        label: what is being done, for the progress line.

    Raises:
        ValueError: if jobs failed; the first messages are quoted. Their targets do not exist; a second run repeats
            only them.
    """
    waiting = [job for job in jobs if options.overwrite or not job.target.exists()]
    report.kept += len(jobs) - len(waiting)
    failures: list[str] = []
    done = len(jobs) - len(waiting)
    options.progress(label, done, len(jobs))
    with ThreadPoolExecutor(max_workers=max(1, options.workers)) as pool:
        for future in _in_turn(pool, waiting, IN_FLIGHT * max(1, options.workers)):
            error = future.exception()
            if error is None:
                report.made += 1
            elif isinstance(error, ValueError | OSError | KeyError):
                failures.append(str(error))
            else:
                raise error
            done += 1
            options.progress(label, done, len(jobs))
    if failures:
        shown = "; ".join(failures[:SHOWN_FAILURES])
        raise ValueError(
            f"{label}: {len(failures)} of {len(jobs)} files could not be converted: {shown}"
            f"{' …' if len(failures) > SHOWN_FAILURES else ''} Mend or fetch these and run the command again; "
            "what is finished is kept."
        )


def _in_turn(pool: ThreadPoolExecutor, jobs: Iterable[Job], window: int) -> Iterable[Future]:
    """Submit jobs a few at a time, so that an interruption does not wait for thousands of queued ones."""
    pending: set[Future] = set()
    for job in jobs:
        pending.add(pool.submit(job.work))
        if len(pending) >= window:
            finished, pending = wait(pending, return_when=FIRST_COMPLETED)
            yield from finished
    while pending:
        finished, pending = wait(pending, return_when=FIRST_COMPLETED)
        yield from finished


def find_folder(root: Path, candidates: Sequence[str], needs: Sequence[str], *, what: str, release: str) -> Path:
    """Find the raw release below ``root``.

    Args:
        root: what the user gave.
        candidates: where the release may start below it; ``""`` is the root itself.
        needs: entries that it must hold.
        what: the release, for the message.
        release: where it is to be had.

    Raises:
        FileNotFoundError: listing what was looked for and what is missing.
    """
    looked_for = []
    for candidate in candidates:
        folder = root / candidate
        missing = [entry for entry in needs if not (folder / entry).exists()]
        if not missing:
            return folder
        looked_for.append(f"  {folder}: missing {', '.join(missing)}")
    lines = "\n".join(looked_for)
    raise FileNotFoundError(f"{what} was not found below {root}. Looked for:\n{lines}\nGet it from {release}.")


def copy_file(source: Path, target: Path) -> None:
    """Copy a file under a temporary name, then rename."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.part")
    try:
        shutil.copyfile(source, temporary)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def write_lines(target: Path, lines: Sequence[str]) -> None:
    """Write a text file under a temporary name, then rename."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.part")
    try:
        temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def read_lines(path: Path) -> list[str]:
    """Non-empty lines of a list file, first word of each.

    Raises:
        FileNotFoundError: if it is missing.
    """
    if not path.is_file():
        raise FileNotFoundError(f"the list {path} does not exist.")
    return [line.split()[0] for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def read_mat(path: Path, key: str) -> Any:
    """Read one variable of a MATLAB file; structures become dictionaries.

    Raises:
        FileNotFoundError: if the file is missing.
        ValueError: if it is damaged or lacks the variable.
    """
    from scipy.io import loadmat

    try:
        content = loadmat(path, variable_names=[key], simplify_cells=True)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} does not exist.") from None
    except Exception as error:  # scipy raises many kinds for a damaged file
        raise ValueError(f"{path} cannot be read as a MATLAB file: {error}") from error
    if key not in content:
        raise ValueError(f"{path} has no variable {key!r}.")
    return content[key]


def map_values(values: NDArray, table: NDArray, known: NDArray[np.bool_], path: Path) -> NDArray:
    """Look every value up in a table, refusing values that the release does not have.

    Args:
        values: (H, W) unsigned integers.
        table: new value of each old one.
        known: whether each old value may occur.
        path: the file, for the message.

    Raises:
        ValueError: naming the file and the unknown values.
    """
    present = np.unique(values)
    foreign = [int(value) for value in present if not 0 <= value < len(table) or not known[value]]
    if foreign:
        raise ValueError(f"{path} holds values that the release does not have: {foreign[:5]}.")
    return table[values]
