"""Turn a benchmark's raw release into the label maps it is evaluated on, or check that its data is whole.

Nothing is downloaded: the verb says what is missing and where the release is to be had. Finished files are kept, so an
interrupted conversion goes on where it stopped.
"""

import argparse
import os
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

    from mmseg_plugins.api.result import check_writable
    from mmseg_plugins.cli.progress import ProgressLine
    from mmseg_plugins.datasets.preparation.jobs import PrepareOptions
    from mmseg_plugins.datasets.preparation.registry import PREPARATIONS, prepare

    if options.root is None:
        raise ValueError("--root DIR is needed: the folder that holds the raw release.")
    root = Path(options.root)
    if not root.is_dir():
        raise FileNotFoundError(f"--root {root} is not a folder.")
    check_writable(options.out or root)
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
    from mmseg_plugins.cli.progress import ProgressLine
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
