"""The end of every export: an archive gets its name only after it has passed the check."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from mmseg_plugins.evaluation.saving import write_json
from mmseg_plugins.evaluation.submit_archive import ArchiveWriter, CheckReport


def finish_archive(
    out: str | os.PathLike, write: Callable[[ArchiveWriter], None], check: Callable[[Path], CheckReport]
) -> CheckReport:
    """Write an archive in a temporary folder, check it there, then move it to its place with its check report.

    Args:
        out: final path; ``<out>.check.json`` is written beside it.
        write: fills the archive.
        check: checks the finished one.

    Returns:
        The report.

    Raises:
        ValueError: if the check finds problems; nothing is left behind then.
    """
    target = Path(out)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.stem}-", dir=target.parent) as folder:
        path = Path(folder) / target.name
        with ArchiveWriter(path) as archive:
            write(archive)
        report = check(path)
        report.archive = str(target)
        if not report.is_valid:
            raise ValueError(f"nothing was written, because the archive would not be accepted. {report.to_text()}")
        os.replace(path, target)
    write_json(f"{target}.check.json", report.to_dict(), indent=1)
    return report
