"""Find a benchmark's files below a data root, whichever of the known layouts they follow."""

import os
from dataclasses import dataclass
from pathlib import Path

from mmseg_plugins.datasets.records import BenchmarkRecord, LabelEncoding, SplitFiles

ROOT_VARIABLES = ("MMSEG_PLUGINS_DATA", "DETECTRON2_DATASETS")
ROOT_FOLDERS = ("data", "datasets")


@dataclass(frozen=True)
class LocatedSplit:
    """A split that was found on disk.

    Attributes:
        layout: name of the layout it follows.
        folder: folder that the split's paths are relative to.
        files: the record's paths.
        encoding: how its label maps are stored.
    """

    layout: str
    folder: Path
    files: SplitFiles
    encoding: LabelEncoding

    def path(self, relative: str) -> str:
        """Path of one of the split's entries, ``""`` for an empty one."""
        return str(self.folder / relative) if relative else ""


def data_roots(data_root: str | os.PathLike | None = None) -> list[Path]:
    """List the folders to search: the given one, or the environment's and the customary ones.

    Without ``data_root`` these are ``$MMSEG_PLUGINS_DATA``, ``$DETECTRON2_DATASETS`` (where set), ``./data`` and
    ``./datasets``.
    """
    if data_root:
        return [Path(data_root)]
    from_environment = [os.environ[name] for name in ROOT_VARIABLES if os.environ.get(name)]
    return [Path(folder) for folder in (*from_environment, *ROOT_FOLDERS)]


def locate_split(
    record: BenchmarkRecord, data_root: str | os.PathLike | None = None, *, split: str = "val", layout: str = "auto"
) -> LocatedSplit:
    """Find the files of one split.

    Args:
        record: the benchmark.
        data_root: folder to search; None searches `data_roots`.
        split: one of the record's splits.
        layout: ``auto`` tries all layouts of the record, a layout's name only that one.

    Raises:
        ValueError: for a split or layout that the record does not have.
        FileNotFoundError: if no layout is complete; the message lists what was looked for and what is missing.
    """
    layouts = [candidate for candidate in record.layouts if layout in ("auto", candidate.name)]
    if not layouts:
        known = ", ".join(candidate.name for candidate in record.layouts)
        raise ValueError(f"{record.name} has no layout {layout!r}; expected auto or one of: {known}.")
    if split not in record.splits:
        raise ValueError(f"{record.name} has no split {split!r}; expected one of: {', '.join(record.splits)}.")
    looked_for: list[str] = []
    for root in data_roots(data_root):
        for candidate in (known for known in layouts if split in known.splits):
            files = candidate.splits[split]
            for folder in candidate.folders:
                base = root / folder
                missing = [path for path in files.paths if not (base / path).exists()]
                if not missing:
                    return LocatedSplit(candidate.name, base, files, candidate.encoding)
                looked_for.append(f"  [{candidate.name}] {base}: missing {', '.join(missing)}")
    raise FileNotFoundError(_not_found_text(record, split, data_root, looked_for))


def _not_found_text(
    record: BenchmarkRecord, split: str, data_root: str | os.PathLike | None, looked_for: list[str]
) -> str:
    where = f"under {os.fspath(data_root)!r}" if data_root else "in any of the usual data folders"
    prepare = f" and prepare it with `mmseg-plugins prepare {record.name} --root DIR`" if record.prepared_from else ""
    lines = "\n".join(dict.fromkeys(looked_for))
    return (
        f"{record.name} (split {split}) was not found {where}. Looked for:\n{lines}\n"
        f"Set data_root to the folder above one of these (or ${ROOT_VARIABLES[0]}), or get the data from "
        f"{record.release}{prepare}."
    )
