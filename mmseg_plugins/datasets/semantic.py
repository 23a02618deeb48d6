"""The semantic benchmarks as mmseg data sets, one thin class per record."""

import copy
import os
from collections.abc import Sequence
from typing import Any, ClassVar

from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS

from mmseg_plugins.datasets.benchmarks import RECORDS, get_record
from mmseg_plugins.datasets.label_files import LABEL_RULES
from mmseg_plugins.datasets.layouts import locate_split
from mmseg_plugins.datasets.records import BenchmarkRecord, LabelEncoding, LabelRule, SplitFiles
from mmseg_plugins.evaluation.saving import without_saved
from mmseg_plugins.vocabulary.benchmarks import load_benchmark

# Class names of the registered data sets; none of them exists in mmseg, mmdet or mmpretrain.
SEMANTIC_CLASSES = {
    "ade20k_150": "ADE20K150Benchmark",
    "ade20k_847": "ADE20K847Benchmark",
    "voc20": "VOC20Benchmark",
    "voc20b": "VOC20BackgroundBenchmark",
    "voc21": "VOC21Benchmark",
    "context59": "Context59Benchmark",
    "context60": "Context60Benchmark",
    "context459": "Context459Benchmark",
    "coco_stuff164k": "COCOStuff164kBenchmark",
    "coco_stuff10k": "COCOStuff10kBenchmark",
    "coco_object": "COCOObjectBenchmark",
    "cityscapes": "CityscapesBenchmark",
}


class DirectoryNames:
    """Which files exist, asked once per folder: far quicker than once per file on network storage."""

    def __init__(self) -> None:
        self._names: dict[str, set[str]] = {}

    def __contains__(self, path: str) -> bool:
        folder, name = os.path.split(path)
        if folder not in self._names:
            self._names[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        return name in self._names[folder]


class RecordMetainfo:
    """Class attribute ``METAINFO`` that reads the class file when it is first asked for, not at import."""

    def __get__(self, instance: object, owner: type) -> dict[str, Any]:
        """Return ``classes`` and ``palette`` (and ``isthing``, ``dataset_ids`` where the class file has them)."""
        record: BenchmarkRecord | None = owner.__dict__.get("RECORD") or getattr(owner, "RECORD", None)
        return {} if record is None else _metainfo(record)


def _metainfo(record: BenchmarkRecord) -> dict[str, Any]:
    content = load_benchmark(record.class_file)
    metainfo: dict[str, Any] = {"classes": tuple(content["classes"]) + record.extra_classes, "benchmark": record.name}
    if "palette" in content:
        metainfo["palette"] = [list(colour) for colour in content["palette"]] + [
            [0, 0, 0] for _ in record.extra_classes
        ]
    for key in ("isthing", "dataset_ids"):
        if key in content and record.task != "semantic":
            metainfo[key] = list(content[key])
    return metainfo


class BenchmarkDataset(BaseSegDataset):
    """A semantic benchmark, found in mmseg's or detectron2's directory layout.

    Args:
        data_root: folder to search for either layout; None searches ``$MMSEG_PLUGINS_DATA``,
            ``$DETECTRON2_DATASETS``, ``./data`` and ``./datasets``.
        split: ``train``, ``val``, … as in the benchmark's record.
        layout: ``auto``, ``mmseg`` or ``detectron2``.
        data_prefix: ``dict(img_path=..., seg_map_path=...)`` relative to ``data_root``, for data kept in folders of
            its own; then nothing is searched and ``label_rule`` should say how the labels are stored.
        ann_file: file with one stem per line, relative to ``data_root``; used with ``data_prefix``.
        img_suffix: overrules the record's image suffix.
        seg_map_suffix: overrules the record's label suffix.
        label_rule: overrules how stored values become class indices, see `mmseg_plugins.datasets.records.LabelRule`.
        reduce_zero_label: mmseg's name for the rules ``reduce_zero`` (True) and ``as_stored`` (False).
        ignore_index: overrules the ignore value.
        skip_saved: folder of saved predictions (``tools/test.py --out``); images that have one are left out, so that an
            interrupted run can go on. Score the whole folder afterwards.
        metainfo: ``dict(classes=[...])`` keeps only these classes, as in mmseg; stray blanks in names do not matter.
        options: further arguments of `mmseg.datasets.BaseSegDataset` (``pipeline``, ``indices``, ``test_mode``, …).
    """

    RECORD: ClassVar[BenchmarkRecord | None] = None
    METAINFO: ClassVar[Any] = RecordMetainfo()

    def __init__(
        self,
        *,
        data_root: str | None = None,
        split: str = "val",
        layout: str = "auto",
        data_prefix: dict[str, str] | None = None,
        ann_file: str = "",
        img_suffix: str | None = None,
        seg_map_suffix: str | None = None,
        label_rule: LabelRule | None = None,
        reduce_zero_label: bool | None = None,
        ignore_index: int | None = None,
        skip_saved: str | None = None,
        metainfo: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        if label_rule is not None and label_rule not in LABEL_RULES:
            raise ValueError(f"unknown label_rule {label_rule!r}, expected one of: {', '.join(LABEL_RULES)}.")
        if label_rule is None and reduce_zero_label is not None:
            label_rule = "reduce_zero" if reduce_zero_label else "as_stored"
        self.split = split
        self.layout = layout
        self.skip_saved = skip_saved
        self.label_rule = label_rule
        self._given_rule = label_rule
        self._given_ignore = ignore_index
        self._given_suffixes = (img_suffix, seg_map_suffix)
        encoding = self._record_encoding()
        self.num_classes = 0
        super().__init__(
            ann_file=ann_file,
            img_suffix=img_suffix or "",
            seg_map_suffix=seg_map_suffix or "",
            metainfo=self._canonical_metainfo(metainfo),
            data_root=data_root,
            data_prefix=dict(data_prefix or {}),
            ignore_index=encoding.ignore_index if ignore_index is None else ignore_index,
            reduce_zero_label=(label_rule or encoding.rule) == "reduce_zero",
            **options,
        )

    @classmethod
    def _record_encoding(cls) -> LabelEncoding:
        return cls.RECORD.layouts[0].encoding if cls.RECORD else LabelEncoding()

    @classmethod
    def _canonical_metainfo(cls, metainfo: dict[str, Any] | None) -> dict[str, Any] | None:
        """Replace each class name by the benchmark's own spelling, which may carry stray blanks."""
        known = {name.strip(): name for name in cls.METAINFO.get("classes", ())}
        if not metainfo or isinstance(metainfo.get("classes", ""), str) or not known:
            return metainfo
        names = [known.get(name.strip(), name) for name in metainfo["classes"]]
        return {**copy.deepcopy(dict(metainfo)), "classes": tuple(names)}

    @classmethod
    def get_label_map(cls, new_classes: Sequence[str] | None = None) -> dict[int, int] | None:
        """Old index -> new index for a subset of the classes; the classes left out get the record's ignore value."""
        old_classes = cls.METAINFO.get("classes")
        if new_classes is None or old_classes is None or list(new_classes) == list(old_classes):
            return None
        unknown = sorted(set(new_classes) - set(old_classes))
        if unknown:
            raise ValueError(
                f"{cls.__name__} has no classes named {', '.join(unknown)}. metainfo['classes'] selects from the "
                "benchmark's classes; words of your own belong into the model's vocabulary."
            )
        index = {name: position for position, name in enumerate(new_classes)}
        ignore = cls._record_encoding().ignore_index
        return {position: index.get(name, ignore) for position, name in enumerate(old_classes)}

    def _update_palette(self) -> list:
        if self.label_map is None:
            return super()._update_palette()
        colour_of = dict(zip(self.METAINFO["classes"], self.METAINFO.get("palette", []), strict=False))
        self._metainfo["palette"] = [colour_of[name] for name in self._metainfo["classes"] if name in colour_of]
        return super()._update_palette()

    def _join_prefix(self) -> None:
        if self.data_prefix:
            super()._join_prefix()

    def load_data_list(self) -> list[dict[str, Any]]:
        """List images and label maps of the split.

        Raises:
            FileNotFoundError: if no layout is found, or label maps of listed images are missing.
        """
        rule, ignore = self._resolve_files()
        self.label_rule = self._given_rule or rule
        if self._given_ignore is None:
            self._change_ignore_index(ignore)
        self.reduce_zero_label = self.label_rule == "reduce_zero"
        self._metainfo.update(
            reduce_zero_label=self.reduce_zero_label,
            ignore_index=self.ignore_index,
            split=self.split,
            img_suffix=self.img_suffix,
        )
        self.num_classes = len(self.METAINFO.get("classes") or self._metainfo.get("classes") or ())
        entries = super().load_data_list()
        for entry in entries:
            entry.update(label_rule=self.label_rule, ignore_index=self.ignore_index, num_classes=self.num_classes)
        self._check_entries(entries)
        return entries if self.skip_saved is None else without_saved(entries, self.skip_saved, self.img_suffix)

    def _change_ignore_index(self, ignore: int) -> None:
        if self.label_map:
            old = self._record_encoding().ignore_index
            self.label_map = {key: ignore if value == old else value for key, value in self.label_map.items()}
            self._metainfo["label_map"] = self.label_map
        self.ignore_index = ignore

    def _resolve_files(self) -> tuple[LabelRule, int]:
        """Set the base class's paths; return the encoding of the label maps found there."""
        image_suffix, label_suffix = self._given_suffixes
        if self.data_prefix:
            encoding = self._record_encoding()
            files = self.RECORD.layouts[0].splits.get(self.split) if self.RECORD else None
            files = files or SplitFiles("")
        else:
            located = locate_split(self.RECORD, self.data_root, split=self.split, layout=self.layout)
            encoding, files = located.encoding, located.files
            self.layout = located.layout
            self.data_prefix = {"img_path": located.path(files.images)}
            if files.labels:
                self.data_prefix["seg_map_path"] = located.path(files.labels)
            self.ann_file = located.path(files.stems)
        self.img_suffix = image_suffix or files.image_suffix
        self.seg_map_suffix = label_suffix or files.label_suffix
        return encoding.rule, encoding.ignore_index

    def _check_entries(self, entries: list[dict[str, Any]]) -> None:
        if not entries:
            raise FileNotFoundError(
                f"{type(self).__name__}: no image ending in {self.img_suffix!r} under {self.data_prefix['img_path']!r}."
            )
        if self.backend_args:  # remote storage: existence is found out when reading
            return
        names = DirectoryNames()
        for key, what in (("img_path", "image"), ("seg_map_path", "label map")):
            missing = [entry[key] for entry in entries if key in entry and entry[key] not in names]
            if missing:
                raise FileNotFoundError(
                    f"{type(self).__name__} ({self.split}): {len(missing)} of {len(entries)} {what}s are missing, "
                    f"the first is {missing[0]}. Run `mmseg-plugins prepare {self._check_name()} --check --root DIR`."
                )

    def _check_name(self) -> str:
        return self.RECORD.name if self.RECORD else "NAME"


def _define(name: str, class_name: str) -> type[BenchmarkDataset]:
    record = get_record(name)
    doc = f"{record.title}. Arguments as in `BenchmarkDataset`."
    namespace = {"RECORD": record, "__doc__": doc, "__module__": __name__, "METAINFO": RecordMetainfo()}
    return DATASETS.register_module()(type(class_name, (BenchmarkDataset,), namespace))


globals().update({class_name: _define(name, class_name) for name, class_name in SEMANTIC_CLASSES.items()})
assert set(SEMANTIC_CLASSES) == {name for name, record in RECORDS.items() if record.task == "semantic"}
