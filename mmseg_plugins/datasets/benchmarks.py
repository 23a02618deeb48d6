"""The table of benchmarks: where their files lie and how their labels are encoded."""

import difflib

from mmseg_plugins.datasets.records import BenchmarkRecord, LabelEncoding, Layout, SplitFiles

ADE_FOLDERS = ("ade/ADEChallengeData2016", "ADEChallengeData2016", "")
ADE_FULL_FOLDERS = ("ADE20K_2021_17_01", "ade/ADE20K_2021_17_01", "")
VOC_FOLDERS = ("VOCdevkit/VOC2012", "VOC2012", "")
CONTEXT_FOLDERS = ("VOCdevkit/VOC2010", "VOC2010", "")
STUFF_FOLDERS = ("coco_stuff164k", "")
STUFF10K_FOLDERS = ("coco_stuff10k", "")
COCO_FOLDERS = ("coco", "")
CITYSCAPES_FOLDERS = ("cityscapes", "")

REDUCED = LabelEncoding(rule="reduce_zero")
AS_STORED = LabelEncoding()
WIDE = LabelEncoding(bits=16, ignore_index=65535)

ADE_RELEASE = "ADEChallengeData2016.zip of the MIT Scene Parsing Benchmark, http://sceneparsing.csail.mit.edu"
ADE_FULL_RELEASE = "the full ADE20K release ADE20K_2021_17_01 (registration), https://ade20k.csail.mit.edu"
VOC_RELEASE = "VOCtrainval_11-May-2012.tar, http://host.robots.ox.ac.uk/pascal/VOC/voc2012/"
CONTEXT_RELEASE = (
    "VOCtrainval_03-May-2010.tar, http://host.robots.ox.ac.uk/pascal/VOC/voc2010/, and the PASCAL-Context annotations, "
    "https://cs.stanford.edu/~roozbeh/pascal-context/"
)
STUFF_RELEASE = "train2017.zip, val2017.zip and stuffthingmaps_trainval2017.zip, https://github.com/nightrome/cocostuff"
STUFF10K_RELEASE = "cocostuff-10k-v1.1.zip, https://github.com/nightrome/cocostuff10k"
COCO_RELEASE = "val2017.zip and panoptic_annotations_trainval2017.zip, https://cocodataset.org/#download"
COCO_INSTANCE_RELEASE = "train2017.zip, val2017.zip and annotations_trainval2017.zip, https://cocodataset.org/#download"
CITYSCAPES_RELEASE = (
    "leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip (registration), https://www.cityscapes-dataset.com"
)


def _ade_splits(labels: str) -> dict[str, SplitFiles]:
    return {
        "train": SplitFiles("images/training", f"{labels}/training"),
        "val": SplitFiles("images/validation", f"{labels}/validation"),
        "test": SplitFiles("images/testing"),
    }


def _voc_splits(labels: str = "SegmentationClass") -> dict[str, SplitFiles]:
    lists = "ImageSets/Segmentation"
    return {
        "train": SplitFiles("JPEGImages", labels, stems=f"{lists}/train.txt"),
        "aug": SplitFiles("JPEGImages", "SegmentationClassAug", stems=f"{lists}/aug.txt"),
        "val": SplitFiles("JPEGImages", labels, stems=f"{lists}/val.txt"),
    }


def _context_splits(labels: str, suffix: str = ".png") -> dict[str, SplitFiles]:
    lists = "ImageSets/SegmentationContext"
    return {
        split: SplitFiles("JPEGImages", labels, label_suffix=suffix, stems=f"{lists}/{split}.txt")
        for split in ("train", "val")
    }


def _prepared_splits(images: str, labels: str, suffix: str = ".png") -> dict[str, SplitFiles]:
    return {
        "train": SplitFiles(f"{images}/training", f"{labels}/training", label_suffix=suffix),
        "val": SplitFiles(f"{images}/validation", f"{labels}/validation", label_suffix=suffix),
    }


def _stuff_splits(suffix: str) -> dict[str, SplitFiles]:
    return {
        "train": SplitFiles("images/train2017", "annotations/train2017", label_suffix=suffix),
        "val": SplitFiles("images/val2017", "annotations/val2017", label_suffix=suffix),
    }


def _coco_panoptic_splits(labels: str) -> dict[str, SplitFiles]:
    splits = {
        split: SplitFiles(
            f"{split}2017", f"{labels}panoptic_{split}2017", annotations=f"annotations/panoptic_{split}2017.json"
        )
        for split in ("train", "val")
    }
    splits["test"] = SplitFiles("test2017")
    return splits


COCO_INSTANCE_SPLITS = {
    split: SplitFiles(f"{split}2017", annotations=f"annotations/instances_{split}2017.json")
    for split in ("train", "val")
}


def _ade_segment_splits(kind: str) -> dict[str, SplitFiles]:
    return {
        split: SplitFiles(
            f"images/{folder}",
            f"ade20k_panoptic_{split}" if kind == "panoptic" else "",
            annotations=f"ade20k_{kind}_{split}.json",
        )
        for split, folder in (("train", "training"), ("val", "validation"))
    }


CITYSCAPES_SPLITS = {
    split: SplitFiles(
        f"leftImg8bit/{split}",
        "" if split == "test" else f"gtFine/{split}",
        image_suffix="_leftImg8bit.png",
        label_suffix="_gtFine_labelTrainIds.png",
    )
    for split in ("train", "val", "test")
}

STUFF10K_SPLITS = {
    split: SplitFiles(f"images/{folder}", f"annotations/{folder}", label_suffix="_labelTrainIds.png")
    for split, folder in (("train", "train2014"), ("val", "test2014"))
}

_VOC_COUNTS = {"train": (1464,), "aug": (9118,), "val": (1449,)}
_CONTEXT_COUNTS = {"train": (4996, 4998), "val": (5104, 5105)}
_COCO_COUNTS = {"train": (118287,), "val": (5000,), "test": (40670,)}
_ADE_COUNTS = {"train": (20210,), "val": (2000,), "test": (2000, 3352)}

RECORDS: dict[str, BenchmarkRecord] = {
    record.name: record
    for record in (
        BenchmarkRecord(
            "ade20k_150",
            "ADE20K SceneParse150",
            "semantic",
            "ade20k_150",
            (
                Layout("mmseg", ADE_FOLDERS, _ade_splits("annotations"), REDUCED),
                Layout("detectron2", ADE_FOLDERS[::-1], _ade_splits("annotations_detectron2"), AS_STORED),
            ),
            _ADE_COUNTS,
            ADE_RELEASE,
        ),
        BenchmarkRecord(
            "ade20k_847",
            "ADE20K full, 847 classes",
            "semantic",
            "ade20k_847",
            (
                Layout(
                    "detectron2",
                    ADE_FULL_FOLDERS,
                    _prepared_splits("images_detectron2", "annotations_detectron2", ".tif"),
                    WIDE,
                ),
            ),
            {"train": (25574,), "val": (2000,)},
            ADE_FULL_RELEASE,
            "ADE20K_2021_17_01/images/ADE/**/*.jpg with their *_seg.png",
        ),
        BenchmarkRecord(
            "voc20",
            "PASCAL VOC 2012 without background",
            "semantic",
            "voc20",
            (
                Layout("mmseg", VOC_FOLDERS, _voc_splits(), REDUCED),
                Layout("detectron2", ("pascal_voc_d2", ""), _prepared_splits("images", "annotations_pascal20")),
            ),
            _VOC_COUNTS,
            VOC_RELEASE,
        ),
        BenchmarkRecord(
            "voc20b",
            "PASCAL VOC 2012 with background as the last class",
            "semantic",
            "voc20",
            (
                Layout("mmseg", VOC_FOLDERS, _voc_splits(), LabelEncoding(rule="background_last")),
                Layout(
                    "detectron2",
                    ("pascal_voc_d2", ""),
                    _prepared_splits("images", "annotations_pascal21"),
                    LabelEncoding(rule="background_last"),
                ),
            ),
            _VOC_COUNTS,
            VOC_RELEASE,
            extra_classes=("background",),
        ),
        BenchmarkRecord(
            "voc21",
            "PASCAL VOC 2012 with background",
            "semantic",
            "voc21",
            (
                Layout("mmseg", VOC_FOLDERS, _voc_splits(), AS_STORED),
                Layout("detectron2", ("pascal_voc_d2", ""), _prepared_splits("images", "annotations_pascal21")),
            ),
            _VOC_COUNTS,
            VOC_RELEASE,
        ),
        BenchmarkRecord(
            "context59",
            "PASCAL Context, 59 classes",
            "semantic",
            "context59",
            (
                Layout("mmseg", CONTEXT_FOLDERS, _context_splits("SegmentationClassContext"), REDUCED),
                Layout("detectron2", ("pascal_ctx_d2", ""), _prepared_splits("images", "annotations_ctx59")),
            ),
            _CONTEXT_COUNTS,
            CONTEXT_RELEASE,
            "VOC2010/JPEGImages and VOC2010/trainval_merged.json",
        ),
        BenchmarkRecord(
            "context60",
            "PASCAL Context, 59 classes and background",
            "semantic",
            "context60",
            (
                Layout("mmseg", CONTEXT_FOLDERS, _context_splits("SegmentationClassContext"), AS_STORED),
                Layout(
                    "detectron2",
                    ("pascal_ctx_d2", ""),
                    _prepared_splits("images", "annotations_ctx59"),
                    LabelEncoding(rule="add_background"),
                ),
            ),
            _CONTEXT_COUNTS,
            CONTEXT_RELEASE,
            "VOC2010/JPEGImages and VOC2010/trainval_merged.json",
        ),
        BenchmarkRecord(
            "context459",
            "PASCAL Context, all 459 classes",
            "semantic",
            "context459",
            (
                Layout("mmseg", CONTEXT_FOLDERS, _context_splits("SegmentationClassContext459", ".tif"), WIDE),
                Layout(
                    "detectron2",
                    ("pascal_ctx_d2", ""),
                    _prepared_splits("images", "annotations_ctx459", ".tif"),
                    WIDE,
                ),
            ),
            _CONTEXT_COUNTS,
            CONTEXT_RELEASE,
            "VOC2010/JPEGImages, VOC2010/trainval/*.mat and the image lists of the 59-class preparation",
        ),
        BenchmarkRecord(
            "coco_stuff164k",
            "COCO-Stuff 164k, 171 classes",
            "semantic",
            "coco_stuff_171",
            (
                Layout("mmseg", STUFF_FOLDERS, _stuff_splits("_labelTrainIds.png")),
                Layout(
                    "detectron2",
                    COCO_FOLDERS,
                    {
                        split: SplitFiles(f"{split}2017", f"stuffthingmaps_detectron2/{split}2017")
                        for split in ("train", "val")
                    },
                ),
            ),
            _COCO_COUNTS,
            STUFF_RELEASE,
            "the stuffthingmaps PNGs (value = official id - 1)",
        ),
        BenchmarkRecord(
            "coco_stuff10k",
            "COCO-Stuff 10k, 171 classes",
            "semantic",
            "coco_stuff_171",
            (Layout("mmseg", STUFF10K_FOLDERS, STUFF10K_SPLITS, REDUCED),),
            {"train": (9000,), "val": (1000,)},
            STUFF10K_RELEASE,
            "images/*.jpg, annotations/*.mat and imageLists/{train,test}.txt",
        ),
        BenchmarkRecord(
            "coco_object",
            "COCO-Object, 80 things and background",
            "semantic",
            "coco_object_81",
            (Layout("mmseg", STUFF_FOLDERS, _stuff_splits("_instanceTrainIds.png")),),
            _COCO_COUNTS,
            STUFF_RELEASE,
            "the stuffthingmaps PNGs (value = official id - 1)",
        ),
        BenchmarkRecord(
            "cityscapes",
            "Cityscapes, 19 classes",
            "semantic",
            "cityscapes_19",
            (
                Layout("mmseg", CITYSCAPES_FOLDERS, CITYSCAPES_SPLITS),
                Layout("detectron2", CITYSCAPES_FOLDERS, CITYSCAPES_SPLITS),
            ),
            {"train": (2975,), "val": (500,), "test": (1525,)},
            CITYSCAPES_RELEASE,
            "gtFine/**/*_gtFine_labelIds.png",
        ),
        BenchmarkRecord(
            "coco_panoptic",
            "COCO panoptic, 80 things and 53 stuff classes",
            "panoptic",
            "coco_panoptic_133",
            (
                Layout("mmseg", COCO_FOLDERS, _coco_panoptic_splits("annotations/")),
                Layout("detectron2", COCO_FOLDERS, _coco_panoptic_splits("")),
            ),
            _COCO_COUNTS,
            COCO_RELEASE,
        ),
        BenchmarkRecord(
            "coco_instance",
            "COCO instances, 80 thing classes",
            "instance",
            "coco_panoptic_133",
            (
                Layout("mmseg", COCO_FOLDERS, COCO_INSTANCE_SPLITS),
                Layout("detectron2", COCO_FOLDERS, COCO_INSTANCE_SPLITS),
            ),
            _COCO_COUNTS,
            COCO_INSTANCE_RELEASE,
        ),
        BenchmarkRecord(
            "ade20k_panoptic",
            "ADE20K panoptic, 100 things and 50 stuff classes",
            "panoptic",
            "ade20k_panoptic_150",
            (
                Layout("mmseg", ADE_FOLDERS, _ade_segment_splits("panoptic")),
                Layout("detectron2", ADE_FOLDERS[::-1], _ade_segment_splits("panoptic")),
            ),
            _ADE_COUNTS,
            f"{ADE_RELEASE}, with annotations_instance.tar of the same page",
            "ADEChallengeData2016/{images,annotations,annotations_instance}",
        ),
        BenchmarkRecord(
            "ade20k_instance",
            "ADE20K instances, 100 thing classes",
            "instance",
            "ade20k_panoptic_150",
            (
                Layout("mmseg", ADE_FOLDERS, _ade_segment_splits("instance")),
                Layout("detectron2", ADE_FOLDERS[::-1], _ade_segment_splits("instance")),
            ),
            _ADE_COUNTS,
            f"{ADE_RELEASE}, with annotations_instance.tar of the same page",
            "ADEChallengeData2016/{images,annotations_instance}",
        ),
    )
}


def get_record(name: str) -> BenchmarkRecord:
    """Look up a benchmark.

    Raises:
        KeyError: for an unknown name, with the known ones and the nearest.
    """
    if name in RECORDS:
        return RECORDS[name]
    near = difflib.get_close_matches(name, RECORDS, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise KeyError(f"unknown benchmark {name!r}. Available: {', '.join(sorted(RECORDS))}.{hint}")
