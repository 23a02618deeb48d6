"""ShapesWorld sets as mmseg data sets: label maps, panoptic segments and instances."""

import os
from pathlib import Path
from typing import Any, ClassVar

from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS

from mmseg_plugins.datasets.records import BenchmarkRecord, LabelEncoding, Layout, SplitFiles
from mmseg_plugins.datasets.segments import SegmentsDataset
from mmseg_plugins.datasets.semantic import RecordMetainfo
from mmseg_plugins.datasets.shapesworld.class_files import (
    SEEN_NAME,
    benchmark_name,
    class_file,
    seen_class_file,
)
from mmseg_plugins.datasets.shapesworld.world import (
    GENERATOR_VERSION,
    NO_LABEL,
    check_granularity,
    coarsen,
    held_out_classes,
)
from mmseg_plugins.datasets.shapesworld.writer import SPLIT_NAMES, read_manifest

IMAGE_SUFFIX = ".png"
_META_KEYS = ("classes", "palette", "isthing", "seen", "held_out", "dataset_ids")


def shapesworld_metainfo(granularity: int) -> dict[str, Any]:
    """Return classes, colours and flags of a granularity for mmseg's ``METAINFO``."""
    content = class_file(granularity)
    metainfo = {key: content[key] for key in _META_KEYS}
    return {**metainfo, "classes": tuple(content["classes"])}


def canonical_split(split: str) -> str:
    """Return "train", "validation" or "test" for one of these or its short or folder name ("val", "training")."""
    for name, aliases in SPLIT_NAMES.items():
        if split in (name, *aliases):
            return name
    raise ValueError(f"split must be one of {', '.join(SPLIT_NAMES)} (or val), but got {split!r}.")


@DATASETS.register_module()
class ShapesWorldDataset(BaseSegDataset):
    """Images and label maps of a set written by ``mmseg-plugins shapes`` (format ade).

    A set written with the 38 classes serves the coarser granularities as well.

    Args:
        data_root: folder of the set.
        split: "train", "validation" ("val") or "test".
        granularity: 38, 14 or 10 classes.
        seen_only: give the pixels of unseen classes the ignore index. The classes stay the same.
        metainfo: ``dict(classes=[...])`` keeps only these classes, as in mmseg; the others are ignored.
        options: further arguments of ``BaseSegDataset`` (``pipeline``, ``indices``, ``test_mode``, ...).
    """

    METAINFO: ClassVar[dict[str, Any]] = shapesworld_metainfo(38)

    def __init__(
        self,
        *,
        data_root: str | os.PathLike,
        split: str = "validation",
        granularity: int = 38,
        seen_only: bool = False,
        metainfo: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        self.granularity = check_granularity(granularity)
        if seen_only and not held_out_classes(granularity):
            raise ValueError(f"seen_only needs granularity 38; {granularity} classes have no unseen class.")
        self.split, self.seen_only = canonical_split(split), seen_only
        self.stored_granularity = self._check_set(data_root)
        folder = SPLIT_NAMES[self.split][0]
        options.setdefault("data_prefix", {"img_path": f"images/{folder}", "seg_map_path": f"annotations/{folder}"})
        super().__init__(
            data_root=str(data_root),
            img_suffix=IMAGE_SUFFIX,
            reduce_zero_label=True,
            metainfo={**shapesworld_metainfo(granularity), **(metainfo or {})},
            **options,
        )
        self._metainfo.update(split=self.split, img_suffix=IMAGE_SUFFIX, benchmark=benchmark_name(granularity))

    def _check_set(self, data_root: str | os.PathLike) -> int:
        """Return the granularity in which the set is stored, if it can serve."""
        manifest = read_manifest(data_root)
        splits = manifest["splits"]
        if manifest["generator_version"] != GENERATOR_VERSION:
            raise ValueError(
                f"{data_root} was written by generator version {manifest['generator_version']}, this is version "
                f"{GENERATOR_VERSION}. Write it again with `mmseg-plugins shapes --out {data_root} --overwrite`."
            )
        if self.split not in splits or "ade" not in splits[self.split]["formats"]:
            raise FileNotFoundError(
                f"{data_root} has no label maps of the {self.split} split. "
                f"Write them with `mmseg-plugins shapes --out {data_root} --split {self.split} --format ade`."
            )
        stored = splits[self.split]["granularity"]
        if stored not in (38, self.granularity):
            raise ValueError(
                f"{data_root} holds {stored} classes, from which {self.granularity} cannot be made. "
                f"Write another set with `mmseg-plugins shapes --granularity {self.granularity}`."
            )
        return stored

    def get_label_map(self, new_classes: Any = None) -> dict[int, int] | None:
        """Return stored class index -> class index (255 where ignored), or None if nothing changes.

        An instance method where mmseg has a class method, because it depends on the set's and the wanted granularity.
        """
        names = list(shapesworld_metainfo(self.granularity)["classes"])
        kept = list(new_classes) if new_classes is not None else names
        unknown = [name for name in kept if name not in names]
        if unknown:
            raise ValueError(
                f"{unknown[0]!r} is not one of the {len(names)} classes of {benchmark_name(self.granularity)}."
            )
        hidden = held_out_classes(self.granularity) if self.seen_only else ()
        label_map = {}
        for stored in range(self.stored_granularity):
            label = stored if self.stored_granularity == self.granularity else int(coarsen(stored, self.granularity))
            usable = label not in hidden and names[label] in kept
            label_map[stored] = kept.index(names[label]) if usable else NO_LABEL
        return None if all(old == new for old, new in label_map.items()) else label_map

    def _update_palette(self) -> list:
        content = shapesworld_metainfo(self.granularity)
        colour_of = dict(zip(content["classes"], content["palette"], strict=True))
        return [colour_of[name] for name in self._metainfo["classes"]]


def _segments_metainfo(granularity: int, renumber_seen: bool) -> dict[str, Any]:
    if not renumber_seen:
        return shapesworld_metainfo(granularity)
    content = seen_class_file()
    return {**{key: content[key] for key in _META_KEYS}, "classes": tuple(content["classes"])}


def _segments_record(granularity: int, task: str, suffix: str) -> BenchmarkRecord:
    splits = {}
    for name, (folder, short) in SPLIT_NAMES.items():
        stem = f"shapesworld_{task}{suffix}_{short}"
        labels = stem if task == "panoptic" else ""
        files = SplitFiles(
            images=f"images/{folder}", labels=labels, image_suffix=IMAGE_SUFFIX, annotations=f"{stem}.json"
        )
        splits[name] = files
    return BenchmarkRecord(
        name=f"{benchmark_name(granularity)}_{task}",
        title=f"ShapesWorld {task}",
        task=task,
        class_file=benchmark_name(granularity),
        layouts=(Layout("mmseg", ("", "shapesworld"), splits, LabelEncoding(rule="reduce_zero")),),
        counts={},
        release="`mmseg-plugins shapes --format coco`",
    )


class _ShapesWorldSegments(SegmentsDataset):
    """What the panoptic and the instance data set share."""

    def __init__(
        self,
        *,
        data_root: str | os.PathLike,
        split: str = "validation",
        granularity: int = 38,
        seen_only: bool = False,
        renumber_seen: bool = False,
        **options: Any,
    ) -> None:
        if renumber_seen and not seen_only:
            raise ValueError("renumber_seen=True needs seen_only=True: unseen classes have no number.")
        self.RECORD = _segments_record(granularity, self.TASK, "_seen" if seen_only else "")
        self.granularity, self.seen_only = check_granularity(granularity), seen_only
        metainfo = {**_segments_metainfo(granularity, renumber_seen), **(options.pop("metainfo", None) or {})}
        super().__init__(data_root=str(Path(data_root)), split=canonical_split(split), metainfo=metainfo, **options)
        benchmark = SEEN_NAME if renumber_seen else benchmark_name(granularity)
        self._metainfo.update(img_suffix=IMAGE_SUFFIX, benchmark=benchmark)


@DATASETS.register_module()
class ShapesWorldPanopticDataset(_ShapesWorldSegments):
    """Images and panoptic segments of a set written with format coco; samples as in ``SegmentsDataset``.

    Args:
        data_root: folder of the set.
        split: "train", "validation" ("val") or "test".
        granularity: that of the set: 38, 14 or 10 classes.
        seen_only: read the ground truth in which only the seen classes are annotated (``--seen-only``).
        renumber_seen: with ``seen_only``, count the seen classes alone, in the order of the class list
            ``shapesworld_38_seen``: labels of a model that trains on that vocabulary.
        options: further arguments of ``SegmentsDataset``.
    """

    TASK = "panoptic"
    RECORD: ClassVar[BenchmarkRecord | None] = _segments_record(38, "panoptic", "")
    METAINFO: ClassVar[Any] = RecordMetainfo()


@DATASETS.register_module()
class ShapesWorldInstanceDataset(_ShapesWorldSegments):
    """Images and instances of a set written with format coco; arguments as ``ShapesWorldPanopticDataset``."""

    TASK = "instance"
    RECORD: ClassVar[BenchmarkRecord | None] = _segments_record(38, "instance", "")
    METAINFO: ClassVar[Any] = RecordMetainfo()
