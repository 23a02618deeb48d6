"""Fetching files: to a temporary name, resumed where it broke off, checked, then renamed."""

import hashlib
import logging
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_logger = logging.getLogger(__name__)

_CHUNK = 1 << 20
_TIMEOUT_S = 30
_ATTEMPTS = 3
_OFFLINE_VARIABLES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
_HOME_VARIABLE = "MMSEG_PLUGINS_HOME"


def home_folder() -> Path:
    """Return where downloads and caches live: MMSEG_PLUGINS_HOME, or ``mmseg_plugins`` in the user's cache folder."""
    if os.environ.get(_HOME_VARIABLE):
        return Path(os.environ[_HOME_VARIABLE]).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "mmseg_plugins"


def is_offline() -> bool:
    """Tell whether the environment forbids downloads (HF_HUB_OFFLINE, TRANSFORMERS_OFFLINE)."""
    return any(os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE") for name in _OFFLINE_VARIABLES)


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file in hexadecimal, read piece by piece."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def download(url: str, target: Path, *, sha256: str | None = None, progress: bool = True) -> Path:
    """Fetch a URL to a file, whole or not at all.

    What has come so far stays beside the target as ``NAME.part`` and is continued by the next call, unless the file
    has changed at its source meanwhile.

    Args:
        url: http or https.
        target: where the file goes; its folder is made.
        sha256: expected checksum, or its first characters; None: only the length is checked.
        progress: whether to show a bar on stderr.

    Returns:
        ``target``.

    Raises:
        OSError: if the source cannot be reached or breaks off repeatedly.
        ValueError: if what came is not the expected file; nothing is kept.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    with _only_one(part.with_name(part.name + ".lock")):
        if target.is_file():  # another process was faster
            return target
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                _fetch_rest(url, part, progress)
                break
            except urllib.error.HTTPError as error:
                raise OSError(f"{url} answers {error.code} {error.reason}.") from error
            except (urllib.error.URLError, ConnectionError, TimeoutError, _BrokenOffError) as error:
                if attempt == _ATTEMPTS:
                    raise OSError(f"Fetching {url} failed: {error}. Run the same command again to continue.") from error
                time.sleep(0.5 * attempt)
        _check(part, url, sha256)
        os.replace(part, target)
        _tag_path(part).unlink(missing_ok=True)
    return target


class _BrokenOffError(Exception):
    """The connection ended before the file did."""


@contextmanager
def _only_one(lock: Path) -> Iterator[None]:
    from filelock import FileLock

    with FileLock(lock):
        yield


def _tag_path(part: Path) -> Path:
    return part.with_name(part.name + ".etag")


def _fetch_rest(url: str, part: Path, progress: bool) -> None:
    have = part.stat().st_size if part.is_file() else 0
    headers = {"User-Agent": "mmseg_plugins"}
    tag_path = _tag_path(part)
    if have and tag_path.is_file():
        # If-Range makes the server send the whole file where it is no longer the one that was begun.
        headers |= {"Range": f"bytes={have}-", "If-Range": tag_path.read_text(encoding="utf-8")}
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT_S) as response:
        is_rest = response.status == 206
        tag = response.headers.get("ETag") or response.headers.get("Last-Modified")
        if tag and not is_rest:
            tag_path.write_text(tag, encoding="utf-8")
        length = response.headers.get("Content-Length")
        total = None if length is None else int(length) + (have if is_rest else 0)
        _copy(response, part, have if is_rest else 0, total, progress)


def _copy(response: Any, part: Path, start: int, total: int | None, progress: bool) -> None:
    from tqdm import tqdm

    bar = tqdm(
        total=total,
        initial=start,
        unit="B",
        unit_scale=True,
        desc=part.name.removesuffix(".part"),
        file=sys.stderr,
        disable=not progress,
    )
    with part.open("ab" if start else "wb") as stream, bar:
        while chunk := response.read(_CHUNK):
            stream.write(chunk)
            bar.update(len(chunk))
    size = part.stat().st_size
    if total is not None and size < total:
        raise _BrokenOffError(f"the connection ended after {size} of {total} bytes")


def _check(part: Path, url: str, sha256: str | None) -> None:
    if sha256 is None:
        return
    found = file_sha256(part)
    if not found.startswith(sha256.lower()):
        part.unlink()
        _tag_path(part).unlink(missing_ok=True)
        raise ValueError(
            f"What came from {url} has sha256 {found}, expected {sha256}. It was not kept; fetch it again."
        )


def fetch_url(url: str, *, folder: str | Path | None = None, sha256: str | None = None) -> Path:
    """Return the local copy of a URL's file, fetched on first use.

    Args:
        url: http or https.
        folder: where copies live; None: the project's cache folder.
        sha256: expected checksum, or its first characters.

    Raises:
        FileNotFoundError: if it is not there and downloads are switched off.
        OSError: if it cannot be fetched.
        ValueError: if the checksum differs.
    """
    name = url.partition("?")[0].rstrip("/").rpartition("/")[2] or "download"
    # The URL's hash keeps apart files of the same name from different places.
    root = Path(folder) if folder else home_folder() / "weights" / hashlib.sha256(url.encode()).hexdigest()[:12]
    target = root / name
    if target.is_file():
        return target
    if is_offline():
        raise FileNotFoundError(
            f"Downloads are switched off ({' or '.join(_OFFLINE_VARIABLES)}) and {name} is not cached. Fetch {url} "
            f"elsewhere and put it at {target}."
        )
    return download(url, target, sha256=sha256)
