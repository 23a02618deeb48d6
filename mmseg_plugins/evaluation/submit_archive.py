"""Zip archives for benchmark servers: written whole or not at all, and read without trusting what they say."""

import io
import json
import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

SHOWN_PROBLEMS = 20
_FIXED_TIME = (2020, 1, 1, 0, 0, 0)  # equal content gives an equal archive


@dataclass
class CheckReport:
    """What a check found.

    Attributes:
        kind: the benchmark's submission kind.
        archive: the file that was checked.
        problems: what the server would reject or count wrongly; empty means valid.
        notes: what is worth knowing but allowed.
        counts: what was counted (images, segments, …).
    """

    kind: str
    archive: str
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def is_valid(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """Form for JSON."""
        return {
            "kind": self.kind,
            "archive": self.archive,
            "valid": self.is_valid,
            "counts": self.counts,
            "problems": self.problems,
            "notes": self.notes,
        }

    def to_text(self) -> str:
        """Lines for people; of many problems the first ones."""
        counts = ", ".join(f"{number} {what}" for what, number in self.counts.items())
        state = "valid" if self.is_valid else f"not valid, {len(self.problems)} problem(s)"
        lines = [f"{self.archive}: {state} as {self.kind} submission ({counts or 'nothing counted'})"]
        lines += [f"  {problem}" for problem in self.problems[:SHOWN_PROBLEMS]]
        if len(self.problems) > SHOWN_PROBLEMS:
            lines.append(f"  … and {len(self.problems) - SHOWN_PROBLEMS} more")
        return "\n".join(lines + [f"  note: {note}" for note in self.notes])


class ArchiveWriter:
    """Write a zip archive under a temporary name; it gets its own name when everything went well.

    Args:
        path: final name.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        self._temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")

    def __enter__(self) -> "ArchiveWriter":
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._zip = zipfile.ZipFile(self._temporary, "w")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._zip.close()
        if kind is None:
            os.replace(self._temporary, self.path)
        else:
            self._temporary.unlink(missing_ok=True)

    def add_image(self, name: str, values: NDArray[np.uint8]) -> None:
        """Add a PNG: (H, W) grey or (H, W, 3) RGB."""
        buffer = io.BytesIO()
        Image.fromarray(values).save(buffer, "PNG")
        self._add(name, buffer.getvalue(), zipfile.ZIP_STORED)

    def add_json(self, name: str, content: object) -> None:
        """Add a JSON file, compressed."""
        self._add(name, json.dumps(content, separators=(",", ":")).encode("utf-8"), zipfile.ZIP_DEFLATED)

    def _add(self, name: str, content: bytes, method: int) -> None:
        entry = zipfile.ZipInfo(name, _FIXED_TIME)
        entry.compress_type = method
        entry.external_attr = 0o644 << 16
        self._zip.writestr(entry, content)


class ArchiveReader:
    """Read a submission archive entry by entry, without unpacking it.

    Args:
        path: the archive.
        report: takes what is wrong with the archive as such.

    Raises:
        FileNotFoundError: if there is no such file.
    """

    def __init__(self, path: str | os.PathLike, report: CheckReport) -> None:
        self.path = Path(path)
        self.report = report
        self.names: list[str] = []
        self._zip: zipfile.ZipFile | None = None
        if not self.path.is_file():
            found = "is a folder" if self.path.is_dir() else "does not exist"
            raise FileNotFoundError(f"archive {self.path} {found}. Expected the .zip file that is handed in.")
        try:
            self._zip = zipfile.ZipFile(self.path)
        except (zipfile.BadZipFile, OSError, EOFError) as error:
            report.problems.append(f"{self.path.name} is not a zip archive that can be unpacked: {error}.")
            return
        self._list_names()

    @property
    def is_open(self) -> bool:
        """Whether the file could be read as a zip archive."""
        return self._zip is not None

    def _list_names(self) -> None:
        seen: set[str] = set()
        for entry in self._zip.infolist():
            name = entry.filename
            if entry.is_dir():
                continue
            if name.startswith("/") or ".." in name.split("/") or "\\" in name:
                self.report.problems.append(f"{name}: names must be relative and stay inside the archive.")
            elif entry.flag_bits & 1:
                self.report.problems.append(f"{name} is encrypted.")
            elif name in seen:
                self.report.problems.append(f"{name} is in the archive twice.")
            else:
                seen.add(name)
                self.names.append(name)

    def read(self, name: str) -> bytes | None:
        """Content of an entry; None, and a problem noted, where it is damaged."""
        try:
            return self._zip.read(name)
        except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, ValueError) as error:
            self.report.problems.append(f"{name} cannot be unpacked: {error}.")
        except Exception as error:  # zlib.error and its like have no common base
            self.report.problems.append(f"{name} cannot be unpacked: {error}.")
        return None

    def read_json(self, name: str) -> Any:
        """Content of a JSON entry; None, and a problem noted, where it is none."""
        data = self.read(name)
        if data is None:
            return None
        try:
            return json.loads(data)
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            self.report.problems.append(f"{name} is not valid JSON: {error}.")
            return None

    def read_image(self, name: str, mode: str, what: str) -> NDArray[np.uint8] | None:
        """Pixels of a PNG entry of the given PIL mode; None, and a problem noted, where it is something else.

        Args:
            name: the entry.
            mode: ``L`` or ``RGB``.
            what: how to call that mode in the message.
        """
        data = self.read(name)
        if data is None:
            return None
        try:
            with Image.open(io.BytesIO(data)) as image:
                if image.format != "PNG":
                    self.report.problems.append(f"{name} is a {image.format} file, expected PNG.")
                    return None
                if image.mode != mode:
                    self.report.problems.append(f"{name} has PIL mode {image.mode}, expected {mode} ({what}).")
                    return None
                return np.asarray(image)
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
            self.report.problems.append(f"{name} cannot be read as a PNG: {error}.")
            return None

    def pngs(self) -> Iterator[str]:
        """Names of PNG entries; everything else is noted as a problem."""
        for name in self.names:
            if name.lower().endswith(".png") and not name.startswith("__MACOSX/"):
                yield name
            else:
                self.report.problems.append(f"{name} does not belong into the archive; expected PNG files only.")

    def close(self) -> None:
        """Close the file."""
        if self._zip is not None:
            self._zip.close()

    def __enter__(self) -> "ArchiveReader":
        return self

    def __exit__(self, *details: object) -> None:
        self.close()
