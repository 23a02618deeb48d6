"""Records of published weights, and fetching them on first use."""

import json
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from mmseg_plugins.towers.config import CLIP_MEAN, CLIP_STD
from mmseg_plugins.towers.download import download, fetch_url, file_sha256, home_folder, is_offline

__all__ = [
    "WeightsRecord",
    "cached_path",
    "fetch_url",
    "find_file",
    "find_record",
    "is_file_name",
    "list_named_records",
    "list_records",
    "resolve",
]

_logger = logging.getLogger(__name__)

_OPEN_CLIP_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_FILE_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")  # no record's name or tag ends like that
_ASSET_SCHEME = "asset://"
_HUB_TIMEOUT_S = 10
_SHA256 = re.compile(r"[0-9a-f]{64}")
# What open_clip's table does not say: the licence that the publishers put on all of their weights.
_LICENCES = {"openai": "MIT", "laion": "MIT"}


@dataclass(frozen=True, kw_only=True)
class WeightsRecord:
    """Where a file of weights comes from and what is known about it.

    Attributes:
        name: how it is asked for: ``MODEL/TAG`` for open_clip's, a name of its own otherwise.
        model: open_clip model that it fills, None if it fills none.
        tag: open_clip's tag, None for other files.
        repo: repository on the Hugging Face hub, None where it is not there.
        files: names to look for in that repository, best first.
        url: direct address, None where there is none.
        page: page for people; None: the repository's.
        licence: licence of the weights, None where it is not known here: see the page.
        sha256: expected checksum, None where it is not known here; the hub's own is checked in any case.
        size: bytes, None where it is not known here.
        mean, std: RGB statistics on the 0..255 scale that the weights were trained with.
        quick_gelu: whether the weights need QuickGELU, None: as the model's configuration says.
        text_options: fields of the model's text tower that these weights change (Long-CLIP's positions).
        vision_options: fields of the model's image tower that these weights change (CLIP-MoE's experts).
        what: what it is, in a few words.
    """

    name: str
    model: str | None = None
    tag: str | None = None
    repo: str | None = None
    files: tuple[str, ...] = ()
    url: str | None = None
    page: str | None = None
    licence: str | None = None
    sha256: str | None = None
    size: int | None = None
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    quick_gelu: bool | None = None
    text_options: Mapping[str, Any] = field(default_factory=dict)
    vision_options: Mapping[str, Any] = field(default_factory=dict)
    what: str = ""

    @property
    def file_names(self) -> tuple[str, ...]:
        """Names of the file, best first."""
        return self.files or ((self.url or self.name).rpartition("/")[2],)

    @property
    def folder(self) -> Path:
        """Where a file that was fetched by hand is looked for."""
        return home_folder() / "weights" / self.name.replace("/", "--")

    @property
    def source_page(self) -> str:
        """Page to fetch the file from by hand."""
        if self.page:
            return self.page
        if self.repo:
            from huggingface_hub import constants

            return f"{constants.ENDPOINT}/{self.repo}"
        return self.url or "unknown"


def list_records() -> list[WeightsRecord]:
    """Return all records: the files described in ``assets/weights``, then open_clip's table."""
    return [*list_named_records(), *_open_clip_records()]


def find_record(name: str) -> WeightsRecord:
    """Return the record of this name.

    Args:
        name: ``MODEL/TAG`` of open_clip, or the name of another file.

    Raises:
        KeyError: if there is none; the message shows what is nearest.
    """
    for record in list_named_records():
        if record.name == name:
            return record
    known = {record.name: record for record in _open_clip_records()}
    if name in known:
        return known[name]
    model, _, tag = name.partition("/")
    tags = [record.tag for record in known.values() if record.model == model]
    if tags:
        raise KeyError(f"Model {model!r} has no weights {tag!r}. Its tags: {', '.join(tags)}.")
    names = [*known, *(record.name for record in list_named_records())]
    close = get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f" Did you mean {', '.join(map(repr, close))}?" if close else ""
    raise KeyError(f"No weights named {name!r}.{hint} 'mmseg-plugins models' lists all.")


def cached_path(record: WeightsRecord) -> Path | None:
    """Return the file of a record if it is on this machine, None otherwise; nothing is fetched."""
    for name in record.file_names:
        if (record.folder / name).is_file():
            return record.folder / name
    if record.repo is None:
        return None
    from huggingface_hub import try_to_load_from_cache

    for name in record.file_names:
        found = try_to_load_from_cache(record.repo, name)
        if isinstance(found, str):
            return Path(found)
    return None


def resolve(record: WeightsRecord | str) -> Path:
    """Return the file of a record, fetched on first use.

    Looked for in the project's cache folder, then in the hub's cache; fetched through ``huggingface_hub``, which obeys
    HF_ENDPOINT, HF_HOME, HF_TOKEN and HF_HUB_OFFLINE, or from its address, with progress and resume. The
    checksum of the record or of the hub is checked.

    Args:
        record: the record, or its name.

    Raises:
        KeyError: if there is no such record.
        FileNotFoundError: if the file is not there and cannot be fetched; the message says what to fetch and where to
            put it.
        ValueError: if the checksum differs.
    """
    record = find_record(record) if isinstance(record, str) else record
    path = cached_path(record)
    if path is None:
        path = _fetch(record)
    _verify(path, record)
    return path


def is_file_name(name: str | Path) -> bool:
    """Tell whether a file is meant and not a record: it exists, or ends like a file of weights."""
    path = Path(name).expanduser()
    return path.is_file() or path.suffix in _FILE_SUFFIXES


def find_file(name: str | Path) -> Path:
    """Return a file of weights.

    Args:
        name: its path; ``asset://NAME`` of one that comes with the package; or its record's name, fetched on first use.

    Raises:
        KeyError: if there is no such record.
        FileNotFoundError: if a record's file is not there and cannot be fetched. A path is returned as it is: who reads
            it says that it is missing.
        ValueError: if the checksum of a record's file differs.
    """
    if str(name).startswith(_ASSET_SCHEME):
        from mmseg_plugins.towers.files import asset_path  # needs torch, which listing records does not

        return asset_path(str(name).removeprefix(_ASSET_SCHEME))
    return Path(name).expanduser() if is_file_name(name) else resolve(str(name))


def _fetch(record: WeightsRecord) -> Path:
    if is_offline():
        raise FileNotFoundError(_by_hand(record, "downloads are switched off"))
    try:
        if record.repo is not None:
            return _fetch_from_hub(record)
        if record.url is not None:
            return download(record.url, record.folder / record.file_names[0], sha256=record.sha256)
    except OSError as error:
        raise FileNotFoundError(_by_hand(record, str(error).strip().splitlines()[0])) from error
    raise FileNotFoundError(_by_hand(record, "it has no address to fetch it from"))


def _by_hand(record: WeightsRecord, reason: str) -> str:
    return (
        f"Weights {record.name!r} are not on this machine and could not be fetched ({reason}). Fetch "
        f"{' or '.join(record.file_names)} from {record.source_page} and put it into {record.folder}/"
    )


def _fetch_from_hub(record: WeightsRecord) -> Path:
    from huggingface_hub import hf_hub_download

    _logger.info("fetching %s from %s", record.name, record.source_page)
    for name in record.file_names:
        if not _is_on_hub(record, name):
            continue
        try:
            return Path(hf_hub_download(record.repo, name, library_name="mmseg_plugins"))
        except Exception as error:  # whatever a hub may answer: the reader needs the remedy, not the class
            raise OSError(f"{type(error).__name__}: {error}") from error
    raise OSError(f"{record.source_page} has none of {', '.join(record.file_names)}")


def _is_on_hub(record: WeightsRecord, name: str) -> bool:
    """Ask once: hf_hub_download itself goes on asking for half a minute where there is no network."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

    try:
        get_hf_file_metadata(hf_hub_url(record.repo, name), timeout=_HUB_TIMEOUT_S)
    except EntryNotFoundError:
        return False
    except HfHubHTTPError as error:
        raise OSError(f"{type(error).__name__}: {error}") from error
    except Exception as error:  # the HTTP library's own errors, which differ between versions of the hub's client
        raise OSError(f"no connection to {record.source_page}") from error
    return True


def _verify(path: Path, record: WeightsRecord) -> None:
    """Compare the checksum with the record's or the hub's; once per file, remembered by size and time."""
    expected = record.sha256 or _hub_sha256(path)
    if expected is None:
        return
    state = path.stat()
    marker = home_folder() / "verified" / f"{expected}-{state.st_size}-{state.st_mtime_ns}"
    if marker.is_file():
        return
    found = file_sha256(path)
    if not found.startswith(expected):
        raise ValueError(
            f"{path} has sha256 {found}, expected {expected}: it is damaged or another file. Delete it"
            f"{f' (and {path.resolve()})' if path.is_symlink() else ''}, and run the command again to fetch it anew."
        )
    try:
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()
    except OSError:  # a read-only home costs a check each time, nothing else
        _logger.debug("could not write %s", marker)


def _hub_sha256(path: Path) -> str | None:
    """The hub's cache names a large file after its sha256."""
    name = path.resolve().name
    return name if path.is_symlink() and _SHA256.fullmatch(name) else None


@cache
def list_named_records() -> tuple[WeightsRecord, ...]:
    """Return the records of files that open_clip's table does not have, from ``assets/weights``."""
    import mmseg_plugins.assets

    folder = Path(mmseg_plugins.assets.__file__).parent / "weights"
    records = []
    for path in sorted(folder.glob("*.json")):
        records += [_from_plain(entry, path) for entry in json.loads(path.read_text(encoding="utf-8"))]
    return tuple(records)


def _from_plain(entry: dict[str, Any], path: Path) -> WeightsRecord:
    unknown = entry.keys() - {item.name for item in fields(WeightsRecord)}
    if unknown:
        raise ValueError(f"{path}: record {entry.get('name')!r} has unknown fields {', '.join(sorted(unknown))}.")
    lists = {key: tuple(value) for key, value in entry.items() if isinstance(value, list)}
    return WeightsRecord(**{**entry, **lists})


@cache
def _open_clip_records() -> tuple[WeightsRecord, ...]:
    return tuple(_iterate_open_clip())


def _iterate_open_clip() -> Iterator[WeightsRecord]:
    from open_clip.pretrained import get_pretrained_cfg, list_pretrained

    for model, tag in list_pretrained():
        entry = get_pretrained_cfg(model, tag)
        owner, _, rest = entry.get("hf_hub", "").partition("/")
        repo, _, file = rest.partition("/")
        yield WeightsRecord(
            name=f"{model}/{tag}",
            model=model,
            tag=tag,
            repo=f"{owner}/{repo}" if owner else None,
            files=_candidates(file) if owner else (),
            url=entry.get("url") or None,
            licence=_LICENCES.get("openai" if tag == "openai" else owner),
            mean=tuple(255 * value for value in entry["mean"]),
            std=tuple(255 * value for value in entry["std"]),
            quick_gelu=True if entry.get("quick_gelu") else None,
            what=f"CLIP {model}, trained as {tag}",
        )


def _candidates(file: str) -> tuple[str, ...]:
    if not file:
        return _OPEN_CLIP_FILES
    stem, dot, suffix = file.rpartition(".")
    return (f"{stem}.safetensors", file) if dot and suffix in ("bin", "pth", "pt") else (file,)
