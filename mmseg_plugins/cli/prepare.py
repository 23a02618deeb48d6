"""Turn a benchmark's raw release into the label maps it is evaluated on, or check that its data is whole.

Nothing is downloaded: the verb says what is missing and where the release is to be had. Finished files are kept, so an
interrupted conversion goes on where it stopped.
"""

import argparse
import os
import sys
import time

EXAMPLES = """  mmseg-plugins prepare --list
  mmseg-plugins prepare context459 --root data
  mmseg-plugins prepare ade20k_847 --root /raw --out data --split val
  mmseg-plugins prepare ade20k_150 --check --root data"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the verb."""
    parser.add_argument("name", nargs="?", help="benchmark, see --list")
    parser.add_argument("--list", action="store_true", help="list what can be prepared or checked")
    parser.add_argument("--root", metavar="DIR", help="folder that holds the raw release (or, with --check, the data)")
    parser.add_argument("--out", metavar="DIR", help="folder to write below (default: beside the raw files)")
    parser.add_argument("--layout", choices=["mmseg", "detectron2"], help="directory layout (default: the first known)")
    parser.add_argument(
        "--split", action="append", metavar="NAME", help="split, may be repeated (default: all; val for --check)"
    )
    parser.add_argument("--overwrite", action="store_true", help="convert again what is there already")
    parser.add_argument("--workers", type=int, default=min(8, os.cpu_count() or 1), metavar="N",
                        help="files converted at a time (default: %(default)s)")  # fmt: skip
    parser.add_argument("--check", action="store_true", help="convert nothing: count files and sample label values")
    parser.add_argument("--samples", type=int, default=50, metavar="N",
                        help="label maps that --check reads per split, 0 for all (default: %(default)s)")  # fmt: skip


def run(options: argparse.Namespace) -> int:
    """Prepare or check; 1 when a check finds problems."""
    if options.list:
        return _list()
    if options.name is None:
        raise ValueError("name a benchmark, or use --list to see them.")
    return _check(options) if options.check else _prepare(options)


def _list() -> int:
    from mmseg_plugins.datasets.benchmarks import RECORDS
    from mmseg_plugins.datasets.preparation.registry import PREPARATIONS

    for name, preparation in PREPARATIONS.items():
        print(f"{name:<16} reads {preparation.reads}; writes {' or '.join(preparation.layouts)} layout")
        print(f"{'':<16} from {RECORDS[preparation.benchmark].release}")
    for name in sorted(set(RECORDS) - set(PREPARATIONS)):
        print(f"{name:<16} used as released (--check only): {RECORDS[name].release}")
    return 0


def _prepare(options: argparse.Namespace) -> int:
    from pathlib import Path

    from mmseg_plugins.datasets.preparation.jobs import PrepareOptions
    from mmseg_plugins.datasets.preparation.registry import PREPARATIONS, prepare

    if options.root is None:
        raise ValueError("--root DIR is needed: the folder that holds the raw release.")
    root = Path(options.root)
    if not root.is_dir():
        raise FileNotFoundError(f"--root {root} is not a folder.")
    known = PREPARATIONS.get(options.name)
    start = time.perf_counter()
    report = prepare(
        options.name,
        PrepareOptions(
            root=root,
            out=Path(options.out or options.root),
            layout=options.layout or (known.layouts[0] if known else "mmseg"),
            splits=tuple(options.split or (known.splits if known else ())),
            overwrite=options.overwrite,
            workers=options.workers,
            progress=ProgressLine(),
        ),
    )
    for split, count in report.counts.items():
        print(f"{options.name} {split}: {count} images")
    seconds = time.perf_counter() - start
    print(f"written {report.made}, there already {report.kept}, {seconds:.1f} s, below {options.out or options.root}")
    for note in report.notes:
        print(note)
    return 0


def _check(options: argparse.Namespace) -> int:
    from mmseg_plugins.datasets.checking import check_benchmark

    results = check_benchmark(
        options.name,
        options.root,
        splits=tuple(options.split or ()),
        layout=options.layout or "auto",
        samples=options.samples,
        progress=ProgressLine(),
    )
    for result in results:
        state = "ok" if not result.problems else f"{len(result.problems)} problem{'s'[: len(result.problems) > 1]}"
        where = f"{result.layout} layout in {result.folder}" if result.layout else "not found"
        print(
            f"{options.name} {result.split}: {state}; {where}; {result.images} images, {result.sampled} label maps "
            f"read, {result.classes_seen} classes seen"
        )
        for problem in result.problems:
            print(f"  {problem}")
    return int(any(result.problems for result in results))


class ProgressLine:
    """Progress on stderr: one line rewritten on a terminal, a plain line now and then elsewhere."""

    def __init__(self, seconds: float = 10.0) -> None:
        self._seconds = seconds
        self._start = time.monotonic()
        self._last = 0.0

    def __call__(self, label: str, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` items are finished."""
        now = time.monotonic()
        is_terminal = sys.stderr.isatty()
        if done not in (0, total) and now - self._last < (0.2 if is_terminal else self._seconds):
            return
        self._last = now
        rate = done / max(now - self._start, 1e-6)
        left = f", left {(total - done) / rate:.0f} s" if done and done < total else ""
        end = "\r" if is_terminal and done < total else "\n"
        if done or total:
            print(f"{label}: {done}/{total}{left}", end=end, file=sys.stderr, flush=True)
