"""The panoptic and instance benchmarks as mmseg data sets: COCO-style JSON, one thin class per record."""

import os
from typing import Any, ClassVar

from mmengine.dataset import BaseDataset
from mmseg.registry import DATASETS

from mmseg_plugins.datasets.benchmarks import RECORDS, get_record
from mmseg_plugins.datasets.folder import IMAGE_SUFFIXES
from mmseg_plugins.datasets.layouts import LocatedSplit, locate_split
from mmseg_plugins.datasets.records import BenchmarkRecord
from mmseg_plugins.datasets.segment_entries import read_instance_entries, read_json_object, read_panoptic_entries
from mmseg_plugins.datasets.semantic import DirectoryNames, RecordMetainfo
from mmseg_plugins.evaluation.saving import without_saved

# Class names of the registered data sets; none of them exists in mmseg, mmdet or mmpretrain.
SEGMENT_CLASSES = {
    "coco_panoptic": "COCOPanopticBenchmark",
    "coco_instance": "COCOInstanceBenchmark",
    "ade20k_panoptic": "ADE20KPanopticBenchmark",
    "ade20k_instance": "ADE20KInstanceBenchmark",
}


class SegmentsDataset(BaseDataset):
    """A panoptic or instance benchmark, found in either directory layout.

    Each sample has ``img_path``, ``img_id`` (the JSON's), ``height``, ``width`` and, for panoptic benchmarks,
    ``pan_seg_map_path`` and ``segments_info`` (``id``, ``label``: class index, ``is_crowd``, ``area``: the JSON's), for
    instance benchmarks ``instances`` (``label``, ``segmentation``: polygons or RLE, ``is_crowd``, ``id``, ``area``).

    Args:
        data_root: folder to search; None searches the usual places, see `BenchmarkDataset`.
        split: ``train`` or ``val``, for COCO also ``test`` (images only).
        layout: ``auto``, ``mmseg`` or ``detectron2``.
        data_prefix: ``dict(img_path=..., pan_seg_map_path=...)`` relative to ``data_root``, for data kept elsewhere.
        ann_file: the JSON, with ``data_prefix``.
        skip_saved: folder of saved predictions; images that have one are left out, see `BenchmarkDataset`.
        filter_empty: leave out images without a non-crowd annotation; the published recipes do so when training on
            instances, not for panoptic data.
        options: further arguments of `mmengine.dataset.BaseDataset`.
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
        filter_empty: bool = False,
        skip_saved: str | None = None,
        **options: Any,
    ) -> None:
        self.split = split
        self.layout = layout
        self.filter_empty = filter_empty
        self.skip_saved = skip_saved
        self._given_prefix = bool(data_prefix)
        self.img_suffix = ""  # data kept elsewhere: each image's own extension
        super().__init__(
            ann_file=ann_file, data_root=data_root or "", data_prefix=dict(data_prefix or {"img_path": ""}), **options
        )

    def _join_prefix(self) -> None:
        if self._given_prefix:
            super()._join_prefix()

    def load_data_list(self) -> list[dict[str, Any]]:
        """Read the JSON and list the images with their segments or instances.

        Raises:
            FileNotFoundError: if no layout is found or images of the JSON are missing.
            ValueError: if the JSON lacks keys or names unknown categories or images.
        """
        if not self._given_prefix:
            self._use_located(locate_split(self.RECORD, self.data_root or None, split=self.split, layout=self.layout))
        self._metainfo.update(split=self.split, img_suffix=self.img_suffix)
        entries = self._read_annotations() if self.ann_file else self._list_folder()
        return entries if self.skip_saved is None else without_saved(entries, self.skip_saved, self.img_suffix)

    def _read_annotations(self) -> list[dict[str, Any]]:
        content = read_json_object(self.ann_file, ("images", "annotations"))
        label_of = {category: index for index, category in enumerate(self._metainfo["dataset_ids"])}
        read = read_panoptic_entries if self.RECORD.task == "panoptic" else read_instance_entries
        entries = read(content, label_of, self.ann_file)
        for entry in entries:
            entry["img_path"] = os.path.join(self.data_prefix["img_path"], entry.pop("file_name"))
            if "pan_seg_file" in entry:
                folder = self.data_prefix["pan_seg_map_path"]
                entry["pan_seg_map_path"] = os.path.join(folder, entry.pop("pan_seg_file"))
        self._check_images(entries)
        return entries

    def filter_data(self) -> list[dict[str, Any]]:
        """Leave out images without a non-crowd annotation where ``filter_empty`` says so."""
        if not self.filter_empty:
            return self.data_list
        key = "segments_info" if self.RECORD.task == "panoptic" else "instances"
        return [entry for entry in self.data_list if any(not item["is_crowd"] for item in entry.get(key, ()))]

    def _use_located(self, located: LocatedSplit) -> None:
        self.layout = located.layout
        self.ann_file = located.path(located.files.annotations)
        self.img_suffix = located.files.image_suffix
        self.data_prefix = {"img_path": located.path(located.files.images)}
        if located.files.labels:
            self.data_prefix["pan_seg_map_path"] = located.path(located.files.labels)

    def _list_folder(self) -> list[dict[str, Any]]:
        folder = self.data_prefix["img_path"]
        names = sorted(name for name in os.listdir(folder) if name.lower().endswith(self.img_suffix or IMAGE_SUFFIXES))
        return [{"img_path": os.path.join(folder, name), "img_id": None} for name in names]

    def _check_images(self, entries: list[dict[str, Any]]) -> None:
        names = DirectoryNames()
        missing = [entry["img_path"] for entry in entries if entry["img_path"] not in names]
        if missing or not entries:
            raise FileNotFoundError(
                f"{type(self).__name__} ({self.split}): {len(missing)} of the {len(entries)} images that "
                f"{self.ann_file} lists are missing, the first is {missing[0] if missing else 'none listed'}."
            )


def _define(name: str, class_name: str) -> type[SegmentsDataset]:
    record = get_record(name)
    doc = f"{record.title}. Arguments as in `SegmentsDataset`."
    namespace = {"RECORD": record, "__doc__": doc, "__module__": __name__, "METAINFO": RecordMetainfo()}
    return DATASETS.register_module()(type(class_name, (SegmentsDataset,), namespace))


globals().update({class_name: _define(name, class_name) for name, class_name in SEGMENT_CLASSES.items()})
assert set(SEGMENT_CLASSES) == {name for name, record in RECORDS.items() if record.task != "semantic"}
