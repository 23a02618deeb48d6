"""Which pictures and videos a command line means, and where their results go."""

import glob
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm")
VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v")
_OWN_RESULTS = (".labels.png", ".segments.png")


@dataclass(frozen=True)
class Source:
    """One picture or video.

    Args:
        path: the file.
        name: of its results, without suffix, relative to the output folder.
    """

    path: Path
    name: str

    @property
    def is_video(self) -> bool:
        """Whether the suffix is a video's."""
        return self.path.suffix.lower() in VIDEO_SUFFIXES


def find_sources(places: Sequence[str], *, recursive: bool = False, leave_out: Path | None = None) -> list[Source]:
    """Find the files that places stand for.

    Args:
        places: files (of any suffix), folders (their pictures, by suffix), or patterns with ``*``, ``?``, ``**``.
        recursive: look into the folders' folders as well.
        leave_out: a folder whose files are never meant, the output's.

    Returns:
        The files, each once, in the order of the places and by name within one.

    Raises:
        FileNotFoundError: if a place does not exist, or nothing is found there.
    """
    files: dict[Path, Path] = {}  # file: the folder that its result's name is relative to
    for place in places:
        found = _expand(place, recursive)
        kept = [(path, root) for path, root in found if not _is_below(path, leave_out)]
        if not kept:
            raise FileNotFoundError(_nothing_found(place, recursive))
        files |= {path: root for path, root in kept if path not in files}
    return _name(files)


def _expand(place: str, recursive: bool) -> list[tuple[Path, Path]]:
    path = Path(place).expanduser()
    if path.is_dir():
        inside = path.rglob("*") if recursive else path.iterdir()
        return [(file, path) for file in sorted(inside) if _is_picture(file)]
    if path.exists():
        return [(path, path.parent)]
    if "://" in place:
        raise FileNotFoundError(f"{place} is a web address: download the picture first, and give its path.")
    if glob.has_magic(place):
        found = sorted(Path(match) for match in glob.glob(str(path), recursive=True))
        return [(file, file.parent) for file in found if file.is_file() and not file.name.endswith(_OWN_RESULTS)]
    raise FileNotFoundError(f"{place} does not exist (looked in {Path.cwd()}).")


def _is_picture(file: Path) -> bool:
    is_hidden_or_ours = file.name.startswith(".") or file.name.endswith(_OWN_RESULTS)
    return file.is_file() and not is_hidden_or_ours and file.suffix.lower() in PICTURE_SUFFIXES


def _is_below(path: Path, folder: Path | None) -> bool:
    return folder is not None and path.resolve().is_relative_to(folder.resolve())


def _nothing_found(place: str, recursive: bool) -> str:
    if glob.has_magic(place) and not Path(place).exists():
        return f"no file fits the pattern {place!r}. Quote it, so that the shell leaves it alone."
    hint = "" if recursive else " Pass --recursive to look into its folders."
    return f"no pictures in {place} (looked for {', '.join(PICTURE_SUFFIXES)}).{hint}"


def _name(files: dict[Path, Path]) -> list[Source]:
    """Name results after the files; files that differ in suffix only keep it in the name."""
    stems = {path: path.relative_to(root).with_suffix("").as_posix() for path, root in files.items()}
    counts = Counter(stems.values())
    return [
        Source(path, stem if counts[stem] == 1 else f"{stem}_{path.suffix.lstrip('.').lower()}")
        for path, stem in stems.items()
    ]


def is_file(out: Path) -> bool:
    """Tell whether ``--out`` names one picture or video; else it is a folder, whatever stands behind a dot."""
    return out.suffix.lower() in PICTURE_SUFFIXES + VIDEO_SUFFIXES and not out.is_dir()


def place_results(sources: Iterable[Source], out: Path) -> dict[Source, Path]:
    """Say where each source's overlay goes.

    Args:
        sources: what is segmented.
        out: a file, for a single source, if its suffix is a picture's or video's; else a folder.

    Returns:
        The overlay's path for each source.

    Raises:
        ValueError: if a result would replace its own source, two would share a name, or one file is to take several.
    """
    sources = list(sources)
    suffix = out.suffix.lower()
    if is_file(out):
        if len(sources) > 1:
            raise ValueError(f"--out {out} is one file, but there are {len(sources)} inputs. Give a folder.")
        if sources[0].is_video != (suffix in VIDEO_SUFFIXES):
            raise ValueError(f"--out {out} does not fit {sources[0].path}: pictures give pictures, videos give videos.")
        places = {sources[0]: out}
    else:
        places = {source: out / f"{source.name}{'.mp4' if source.is_video else '.png'}" for source in sources}
    for source, place in places.items():
        if place.exists() and source.path.exists() and place.samefile(source.path):
            raise ValueError(f"the result would replace its own input {source.path}. Choose another --out.")
    shared = [place for place, count in Counter(places.values()).items() if count > 1]
    if shared:
        raise ValueError(f"several inputs would be written to {shared[0]}. Run them with different --out folders.")
    return places
