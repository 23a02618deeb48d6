"""How the values of label map files become class indices: one look-up table per encoding, for 8 and 16 bits alike."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmseg_plugins.datasets.benchmarks import RECORDS
from mmseg_plugins.datasets.label_files import LABEL_RULES, decode_labels, read_label_map
from mmseg_plugins.datasets.records import BenchmarkRecord
from mmseg_plugins.evaluation.class_lists import ClassList
from mmseg_plugins.evaluation.rules import ENCODINGS
from mmseg_plugins.vocabulary.benchmarks import find_benchmark, load_benchmark

IGNORED = -1  # an ignored label; as a prediction, a pixel without an answer
UNKNOWN = -2  # a value that the encoding does not have


@dataclass(frozen=True)
class LabelTable:
    """What each stored value means.

    Attributes:
        encoding: a key of `ENCODINGS`.
        ignore_index: stored value of pixels that do not count.
        values: (65536,) int32: class index, `IGNORED` or `UNKNOWN`.
    """

    encoding: str
    ignore_index: int
    values: NDArray[np.int32]

    def decode(self, path: Path) -> NDArray[np.int32]:
        """Read a label map and turn it into class indices, `IGNORED` where it has none.

        Raises:
            FileNotFoundError: if the file is missing.
            ValueError: naming the file, if it is no single-channel image or holds a value that the encoding lacks.
        """
        stored = read_label_map(path)
        decoded = self.values[stored]
        if decoded.size and decoded.min() == UNKNOWN:
            wrong = np.unique(stored[decoded == UNKNOWN])
            raise ValueError(
                f"{path}: values {_listed(wrong)} are neither one of the {self.num_classes} classes nor ignored, "
                f"with encoding {self.encoding!r} and ignore value {self.ignore_index}. "
                "Choose another class list, encoding or ignore value."
            )
        return decoded

    @property
    def num_classes(self) -> int:
        """Number of classes that occur in the table."""
        return int(self.values.max()) + 1

    def refolded(self, table: NDArray[np.integer]) -> "LabelTable":
        """Return a table whose class indices are replaced by ``table[index]``."""
        folded = np.where(self.values < 0, self.values, np.asarray(table, dtype=np.int32)[np.maximum(self.values, 0)])
        return LabelTable(self.encoding, self.ignore_index, folded)


def _listed(values: NDArray) -> str:
    text = ", ".join(map(str, values[:8]))
    return f"{text}, … ({len(values)} different ones)" if len(values) > 8 else text


def build_label_table(encoding: str, classes: ClassList, *, ignore_index: int, prediction: bool = False) -> LabelTable:
    """Make the table of an encoding.

    Args:
        encoding: a key of `ENCODINGS`.
        classes: the classes that are scored.
        ignore_index: stored value of pixels that do not count.
        prediction: the table is for predictions: 255 and 65535 then mean "no answer" where they are no class.

    Raises:
        ValueError: for an unknown encoding, one that the class list cannot have, or too many classes for 16 bits.
    """
    if encoding not in ENCODINGS:
        raise ValueError(f"unknown label encoding {encoding!r}. Available: {', '.join(ENCODINGS)}.")
    if classes.num_classes > 65535:
        raise ValueError(
            f"{classes.num_classes} classes do not fit 16-bit label maps (at most 65535 and an ignore value)."
        )
    values = _RULES.get(encoding, _stored_values)(encoding, classes, ignore_index)
    if prediction:
        unanswered = np.array([255, 65535])
        values[unanswered[values[unanswered] == UNKNOWN]] = IGNORED
    return LabelTable(encoding, ignore_index, values)


def _stored_values(encoding: str, classes: ClassList, ignore_index: int) -> NDArray[np.int32]:
    """Table of the label rules that data sets load with."""
    assert encoding in LABEL_RULES, encoding
    if 0 <= ignore_index < classes.num_classes:
        raise ValueError(
            f"ignore value {ignore_index} is one of the {classes.num_classes} classes. Use 65535 for 16-bit label maps."
        )
    stored = np.arange(65536, dtype=np.uint16)
    decoded = decode_labels(stored, rule=encoding, ignore_index=ignore_index, num_classes=classes.num_classes)
    values = decoded.astype(np.int32)
    is_class = values < classes.num_classes
    return np.where(values == ignore_index, IGNORED, np.where(is_class, values, UNKNOWN)).astype(np.int32)


def _folded_values(encoding: str, classes: ClassList, ignore_index: int) -> NDArray[np.int32]:
    values = np.minimum(np.arange(65536, dtype=np.int32), classes.num_classes - 1)
    values[ignore_index] = IGNORED
    return values


def _id_values(encoding: str, classes: ClassList, ignore_index: int) -> NDArray[np.int32]:
    if not classes.has_ids:
        raise ValueError(f"{classes.source} has no ids of its own; encoding 'label_ids' needs a list with dataset_ids.")
    ids = np.array(classes.category_ids)
    values = np.full(65536, UNKNOWN, dtype=np.int32)
    values[: ids.max() + 1] = IGNORED  # ids of the data set that the benchmark does not evaluate
    values[ignore_index] = IGNORED
    values[ids] = np.arange(len(ids))
    return values


def _stuff_values(encoding: str, classes: ClassList, ignore_index: int) -> NDArray[np.int32]:
    key = {"stuff_raw": "raw_pixel_to_contiguous", "object_raw": "raw_pixel_to_coco_object"}[encoding]
    expected = {"stuff_raw": 171, "object_raw": 81}[encoding]
    if classes.num_classes != expected:
        raise ValueError(
            f"encoding {encoding!r} has {expected} classes but {classes.source} has {classes.num_classes}."
        )
    values = np.full(65536, UNKNOWN, dtype=np.int32)
    for pixel, index in enumerate(load_benchmark("coco_stuff_171")[key]):
        if index is not None:
            values[pixel] = index if index < expected else IGNORED
    return values


_RULES = {
    "fold_last": _folded_values,
    "label_ids": _id_values,
    "stuff_raw": _stuff_values,
    "object_raw": _stuff_values,
}


def record_of(classes: ClassList) -> BenchmarkRecord | None:
    """Return the record of the benchmark that a class list belongs to, or None for a file."""
    key = classes.source.strip().lower().replace("-", "_")
    if key in RECORDS:
        return RECORDS[key]
    class_file = find_benchmark(key)
    return next((record for record in RECORDS.values() if record.class_file == class_file), None)
