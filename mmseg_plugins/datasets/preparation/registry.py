"""Which benchmarks can be prepared, and how."""

from collections.abc import Callable
from dataclasses import dataclass

from mmseg_plugins.datasets.benchmarks import RECORDS
from mmseg_plugins.datasets.layouts import locate_split
from mmseg_plugins.datasets.preparation import ade20k_full, ade20k_segments, cityscapes, coco_stuff, context, voc_aug
from mmseg_plugins.datasets.preparation.jobs import PrepareOptions, Report


@dataclass(frozen=True)
class Preparation:
    """One converter.

    Attributes:
        run: does it.
        reads: what it needs from the raw release.
        layouts: directory layouts that it can write, the default first.
        benchmark: name of the record that the result belongs to.
        splits: splits that it can convert.
    """

    run: Callable[[PrepareOptions], Report]
    reads: str
    layouts: tuple[str, ...]
    benchmark: str
    splits: tuple[str, ...] = ("train", "val")


_CONTEXT = "VOC2010/JPEGImages, VOC2010/trainval_merged.json"
_STUFF = "stuffthingmaps_trainval2017 (12-digit PNGs)"

PREPARATIONS: dict[str, Preparation] = {
    "ade20k_847": Preparation(
        ade20k_full.prepare, "ADE20K_2021_17_01/images/ADE/**/*.jpg and *_seg.png", ("detectron2",), "ade20k_847"
    ),
    "ade20k_panoptic": Preparation(
        ade20k_segments.prepare_panoptic,
        "ADEChallengeData2016/{images,annotations,annotations_instance}",
        ("mmseg", "detectron2"),
        "ade20k_panoptic",
    ),
    "ade20k_instance": Preparation(
        ade20k_segments.prepare_instance,
        "ADEChallengeData2016/{images,annotations_instance}",
        ("mmseg", "detectron2"),
        "ade20k_instance",
    ),
    "context59": Preparation(context.prepare_59, _CONTEXT, ("mmseg", "detectron2"), "context59"),
    "context60": Preparation(context.prepare_59, _CONTEXT, ("mmseg", "detectron2"), "context60"),
    "context459": Preparation(
        context.prepare_459, "VOC2010/JPEGImages, VOC2010/trainval/*.mat", ("mmseg", "detectron2"), "context459"
    ),
    "coco_stuff164k": Preparation(coco_stuff.prepare_stuff, _STUFF, ("mmseg", "detectron2"), "coco_stuff164k"),
    "coco_object": Preparation(coco_stuff.prepare_object, _STUFF, ("mmseg",), "coco_object"),
    "coco_stuff10k": Preparation(
        coco_stuff.prepare_stuff10k,
        "cocostuff-10k-v1.1: images, annotations/*.mat, imageLists",
        ("mmseg",),
        "coco_stuff10k",
    ),
    "cityscapes": Preparation(cityscapes.prepare, "gtFine/**/*_gtFine_labelIds.png", ("mmseg",), "cityscapes"),
    "voc_aug": Preparation(
        voc_aug.prepare, "VOCdevkit/VOC2012 and VOCdevkit/VOCaug/dataset/cls/*.mat", ("mmseg",), "voc21", ("aug",)
    ),
}


def prepare(name: str, options: PrepareOptions) -> Report:
    """Run one converter; the report says too whether the benchmark is complete afterwards.

    Raises:
        KeyError: for a benchmark that needs no preparation or does not exist.
        ValueError: for a layout or split that the converter does not write.
    """
    if name not in PREPARATIONS:
        known = ", ".join(sorted(PREPARATIONS))
        if name in RECORDS:
            raise KeyError(
                f"{name} needs no preparation: its release is used as it is ({RECORDS[name].release}). "
                f"`mmseg-plugins prepare {name} --check --root DIR` looks whether it is complete."
            )
        raise KeyError(f"unknown preparation {name!r}. Available: {known}.")
    chosen = PREPARATIONS[name]
    if options.layout not in chosen.layouts:
        raise ValueError(
            f"{name} is written in these layouts only: {', '.join(chosen.layouts)}; not {options.layout!r}."
        )
    unknown = [split for split in options.splits if split not in chosen.splits]
    if unknown:
        raise ValueError(f"{name} has no split {unknown[0]!r} to prepare; expected: {', '.join(chosen.splits)}.")
    report = chosen.run(options)
    report.notes += _what_is_left(chosen, options, report)
    return report


def _what_is_left(chosen: Preparation, options: PrepareOptions, report: Report) -> list[str]:
    record = RECORDS[chosen.benchmark]
    notes = []
    for split, count in report.counts.items():
        expected = record.counts.get(split, ())
        if expected and count not in expected:
            wanted = " or ".join(map(str, expected))
            notes.append(f"{split}: the release has {wanted} images, {count} were found here.")
        try:
            locate_split(record, options.out, split=split, layout=options.layout)
        except FileNotFoundError as error:
            notes.append(f"{split} is not complete yet. {error}")
    return notes
