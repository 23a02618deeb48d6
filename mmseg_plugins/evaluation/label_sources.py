"""Finding the label maps of a benchmark and the predictions that belong to them."""

import contextlib
import os
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmseg_plugins.datasets.records import BenchmarkRecord
from mmseg_plugins.evaluation.class_lists import ClassList
from mmseg_plugins.evaluation.label_tables import record_of
from mmseg_plugins.vocabulary.benchmarks import find_benchmark, load_benchmark

SUFFIXES = (".png", ".tif", ".tiff")
# Suffixes of raw label maps and what their values are; these names leave no doubt.
_RAW_SUFFIXES = {"_gtFine_labelIds.png": "label_ids", "_labelIds.png": "label_ids"}
# Label maps of these class lists come both raw and converted, and a plain name does not tell which.
_AMBIGUOUS = {"coco_stuff_171": ("stuff_raw", "as_stored"), "coco_object_81": ("object_raw", "as_stored")}


@dataclass(frozen=True)
class LabelFiles:
    """Label maps of a benchmark.

    Attributes:
        paths: key of the image (file name without the suffix) -> label map, in the order of their names.
        suffix: what follows the key.
    """

    paths: dict[str, Path]
    suffix: str


@contextlib.contextmanager
def opened(path: str | os.PathLike) -> Iterator[Path]:
    """Give a folder or file as it is, and a zip archive as a temporary folder with its content.

    Raises:
        FileNotFoundError: if there is nothing at the path.
        ValueError: if a ``.zip`` is no readable archive.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist.")
    if path.suffix.lower() != ".zip":
        yield path
        return
    with tempfile.TemporaryDirectory(prefix=f"{path.stem}-") as folder:
        try:
            with zipfile.ZipFile(path) as archive:
                archive.extractall(folder)
        except (zipfile.BadZipFile, OSError, EOFError) as error:
            raise ValueError(f"{path} is not a readable zip archive: {error}") from error
        yield Path(folder)


def find_labels(path: Path, classes: ClassList, suffix: str | None = None) -> LabelFiles:
    """Find the label maps below a folder, through all levels.

    Args:
        path: folder, or one label map.
        classes: tells which suffixes the benchmark uses.
        suffix: what follows the image's name in the names of the label maps; None tries the benchmark's suffixes, then
            ``.png``, ``.tif`` and ``.tiff``.

    Raises:
        FileNotFoundError: if there is no label map.
        ValueError: if two label maps have one key.
    """
    if path.is_file():
        return LabelFiles({path.stem: path}, path.suffix)
    names = sorted(file for file in path.rglob("*") if file.is_file() and not file.name.startswith("."))
    candidates = [suffix] if suffix else _suffixes_of(classes)
    for candidate in candidates:
        found = [file for file in names if file.name.endswith(candidate)]
        if found:
            return LabelFiles(_by_key(found, candidate), candidate)
    raise FileNotFoundError(f"no label maps in {path}: no file ends in {', '.join(candidates)}.")


def _suffixes_of(classes: ClassList) -> list[str]:
    record = record_of(classes)
    own = [files.label_suffix for layout in record.layouts for files in layout.splits.values()] if record else []
    own = [suffix for suffix in dict.fromkeys(own) if suffix not in SUFFIXES]
    return [*own, *(_RAW_SUFFIXES if own else ()), *SUFFIXES]


def _by_key(files: Sequence[Path], suffix: str) -> dict[str, Path]:
    paths: dict[str, Path] = {}
    for file in files:
        key = file.name.removesuffix(suffix)
        if key in paths:
            raise ValueError(f"{file} and {paths[key]} have one name; files are matched by name, so it must be unique.")
        paths[key] = file
    return paths


def default_encoding(labels: LabelFiles, folder: Path, classes: ClassList) -> str:
    """Choose how the label maps are encoded, from the benchmark's record, the suffix and the folder.

    Raises:
        ValueError: if both readings are possible, with both named.
    """
    record = record_of(classes)
    if labels.suffix in _RAW_SUFFIXES:
        return _RAW_SUFFIXES[labels.suffix]
    if record is None:
        return _declared_encoding(classes)
    for layout in record.layouts:
        folders = {
            files.labels for files in layout.splits.values() if files.labels and files.label_suffix == labels.suffix
        }
        if any(folder.resolve().as_posix().endswith(f"/{name}") for name in folders):
            return layout.encoding.rule
    if labels.suffix in SUFFIXES and record.class_file in _AMBIGUOUS and record.name != "coco_stuff10k":
        raw, converted = _AMBIGUOUS[record.class_file]
        raise ValueError(
            f"label maps in {folder} may be raw stuffthingmaps or converted ones. Say which: --gt-encoding {raw} or "
            f"--gt-encoding {converted}."
        )
    return record.layouts[0].encoding.rule


def _declared_encoding(classes: ClassList) -> str:
    """Read off what the class file of a benchmark without a record (ShapesWorld) says about its label maps."""
    name = find_benchmark(classes.source)
    declared = "" if name is None else str(load_benchmark(name).get("label_encoding", ""))
    return "reduce_zero" if "reduce_zero_label=True" in declared else "as_stored"


def default_prediction_encoding(folder: Path, label_encoding: str) -> str:
    """Choose how predictions are encoded: as our own exports where their manifest is there, else like the labels."""
    if any((place / "manifest.json").is_file() for place in (folder, folder.parent)):
        return "as_stored"
    return {"background_last": "fold_last", "add_background": "as_stored"}.get(label_encoding, label_encoding)


def default_ignore(classes: ClassList) -> int:
    """Return the benchmark's ignore value, or for other lists the one that fits: 255, or 65535 from 256 classes on."""
    record: BenchmarkRecord | None = record_of(classes)
    if record is not None and record.task == "semantic":
        return record.ignore_index
    return 255 if classes.num_classes <= 255 else 65535


@dataclass(frozen=True)
class PredictionFiles:
    """Predictions matched with the label maps.

    Attributes:
        paths: key of the image -> prediction; images without one are left out.
        missing: keys of images without a prediction.
        extra: predictions that belong to no label map.
    """

    paths: dict[str, Path]
    missing: list[str]
    extra: list[Path]


def match_predictions(folder: Path, keys: Sequence[str], label_suffix: str) -> PredictionFiles:
    """Find the prediction of each image, through all levels below a folder.

    A prediction is named like the image, or like its label map, or begins with the image's name and an underscore (as
    Cityscapes' server takes them).

    Args:
        folder: folder of predictions, or one prediction.
        keys: the images.
        label_suffix: what follows the key in the names of the label maps.

    Raises:
        ValueError: if two predictions have one name, or several belong to one image.
    """
    if folder.is_file():
        files = {folder.stem: folder}
        return PredictionFiles({keys[0]: folder}, list(keys[1:]), []) if len(keys) == 1 else _match(files, keys, "")
    found: dict[str, Path] = {}
    for file in sorted(folder.rglob("*")):
        if file.suffix.lower() in SUFFIXES and file.is_file() and not file.name.startswith("."):
            if file.stem in found:
                raise ValueError(f"{file} and {found[file.stem]} have one name; predictions are matched by name.")
            found[file.stem] = file
    if not found:
        raise FileNotFoundError(f"no predictions in {folder}: no file ends in {', '.join(SUFFIXES)}.")
    return _match(found, keys, Path(label_suffix).stem if label_suffix not in SUFFIXES else "")


def _match(found: dict[str, Path], keys: Sequence[str], ending: str) -> PredictionFiles:
    paths: dict[str, Path] = {}
    prefixed = (
        _by_prefix(found, set(keys)) if any(key not in found and key + ending not in found for key in keys) else {}
    )
    for key in keys:
        named = [found[name] for name in dict.fromkeys((key, key + ending)) if name in found] or prefixed.get(key, [])
        if len(named) > 1:
            raise ValueError(f"several predictions belong to image {key}: {', '.join(map(str, named))}.")
        if named:
            paths[key] = named[0]
    used = set(paths.values())
    extra = [file for file in found.values() if file not in used]
    return PredictionFiles(paths, [key for key in keys if key not in paths], extra)


def _by_prefix(found: dict[str, Path], keys: set[str]) -> dict[str, list[Path]]:
    """Group predictions by the image whose name they begin with, up to an underscore."""
    groups: dict[str, list[Path]] = {}
    for stem, file in found.items():
        parts = stem.split("_")
        for end in range(len(parts) - 1, 0, -1):
            if "_".join(parts[:end]) in keys:
                groups.setdefault("_".join(parts[:end]), []).append(file)
                break
    return groups
