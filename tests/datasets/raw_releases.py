"""Tiny raw releases in the documented formats, written by the tests."""

import json

import numpy as np
from PIL import Image
from scipy.io import savemat

from mmseg_plugins.evaluation.rle import encode_mask
from mmseg_plugins.vocabulary.benchmarks import load_benchmark


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array)).save(path)


def photograph(path, height, width, seed=0):
    rng = np.random.default_rng(seed)
    save(path, rng.integers(0, 255, (height, width, 3), dtype=np.uint8))


def ade_full(root, names=("ADE_train_00000001", "ADE_frame_7", "ADE_val_00000003"), size=(40, 60)):
    """Each image holds the raw ids of class 0, class 846 and an id of no class, in vertical stripes."""
    ids = load_benchmark("ade20k_847")["dataset_ids"]
    unknown = next(raw for raw in range(1, 3000) if raw not in ids)
    folder = root / "ADE20K_2021_17_01" / "images" / "ADE" / "training" / "urban" / "street"
    raw = np.repeat([ids[0], ids[846], unknown], -(-size[1] // 3))[: size[1]]
    raw = np.broadcast_to(raw, size)
    colours = np.stack([raw // 256 * 10 + 3, raw % 256, np.full(size, 9)], -1).astype(np.uint8)
    for name in names:
        photograph(folder / f"{name}.jpg", *size)
        save(folder / f"{name}_seg.png", colours)
    return folder


def context(root, size=(20, 30), phases=("train", "val", "val")):
    """Two overlapping annotations per image: class 0 left of column 20, class 58 from column 10 on, painted later."""
    folder = root / "VOCdevkit" / "VOC2010"
    ids = load_benchmark("context59")["raw459_ids_of_59"]
    left, right = np.zeros(size, np.uint8), np.zeros(size, np.uint8)
    left[:, :20], right[5:, 10:] = 1, 1
    images, annotations = [], []
    for number, phase in enumerate(phases):
        stem = f"2008_{number:06d}"
        photograph(folder / "JPEGImages" / f"{stem}.jpg", *size)
        raw = np.zeros(size, np.uint16)
        raw[:, :20], raw[5:, 10:] = ids[0], 459
        (folder / "trainval").mkdir(exist_ok=True)
        savemat(folder / "trainval" / f"{stem}.mat", {"LabelMap": raw})
        key = int(stem.replace("_", ""))
        images.append(
            {"image_id": key, "file_name": f"{stem}.jpg", "width": size[1], "height": size[0], "phase": phase}
        )
        for category, mask in ((ids[0], left), (ids[58], right)):
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": key,
                    "category_id": category,
                    "area": int(mask.sum()),
                    "bbox": [0, 0, 1, 1],
                    "iscrowd": 0,
                    "segmentation": dict(encode_mask(mask)),
                }
            )
    categories = [{"category_id": key, "name": str(key)} for key in ids]
    content = {"info": {}, "images": images, "annos_segmentation": annotations, "categories": categories}
    (folder / "trainval_merged.json").write_text(json.dumps(content))
    return folder


def stuff_maps(root, splits=("train2017", "val2017"), folder="coco_stuff164k/annotations"):
    """A map with every raw value that the release can hold."""
    entries = load_benchmark("coco_stuff_171")["raw_pixel_to_coco_object"]
    values = np.array([value for value, entry in enumerate(entries) if entry is not None], dtype=np.uint8)
    for split in splits:
        save(root / folder / split / "000000000139.png", np.resize(values, (14, 20)))
    return root / folder


def stuff10k(root, size=(13, 15)):
    folder = root / "coco_stuff10k"
    lists = {"train": ["COCO_train2014_000000000001"], "test": ["COCO_train2014_000000000002"]}
    for split, stems in lists.items():
        (folder / "imageLists").mkdir(parents=True, exist_ok=True)
        (folder / "imageLists" / f"{split}.txt").write_text("\n".join(stems) + "\n")
        for stem in stems:
            photograph(folder / "images" / f"{stem}.jpg", *size)
            (folder / "annotations").mkdir(exist_ok=True)
            savemat(folder / "annotations" / f"{stem}.mat", {"S": np.resize(np.arange(183), size).astype(np.uint8)})
    return folder


def ade(root, size=(24, 32), split="validation", stems=("ADE_val_00000001", "ADE_val_00000002")):
    """Wall above, an unlabelled band, floor below; two beds over the floor and one window over the wall."""
    folder = root / "ade" / "ADEChallengeData2016"
    semantic = np.zeros(size, np.uint8)
    semantic[:8], semantic[12:] = 1, 4  # wall, floor
    instance = np.zeros((*size, 3), np.uint8)
    semantic[16:20, 2:8], instance[16:20, 2:8] = 8, (1, 1, 0)  # bed, class 7
    instance[16:20, 10:14] = (1, 2, 0)  # a bed that the semantic map calls floor
    instance[2:4, 20:24] = (2, 1, 0)  # windowpane, class 8
    for number, stem in enumerate(stems):
        photograph(folder / "images" / split / f"{stem}.jpg", *size, seed=number)
        save(folder / "annotations" / split / f"{stem}.png", semantic)
        save(folder / "annotations_instance" / split / f"{stem}.png", instance)
    return folder


def voc_with_sbd(root, size=(12, 16)):
    voc, sbd = root / "VOCdevkit" / "VOC2012", root / "VOCdevkit" / "VOCaug" / "dataset"
    lists = {"train": ["2007_000001"], "val": ["2007_000002"]}
    for split, stems in lists.items():
        (voc / "ImageSets/Segmentation").mkdir(parents=True, exist_ok=True)
        (voc / "ImageSets/Segmentation" / f"{split}.txt").write_text("\n".join(stems))
    labels = np.resize(np.array([0, 1, 20, 255], np.uint8), size)
    for stem in ("2007_000001", "2007_000002", "2008_000003"):
        photograph(voc / "JPEGImages" / f"{stem}.jpg", *size)
        save(voc / "SegmentationClass" / f"{stem}.png", labels)
        (sbd / "cls").mkdir(parents=True, exist_ok=True)
        savemat(sbd / "cls" / f"{stem}.mat", {"GTcls": {"Segmentation": labels, "Boundaries": np.zeros(3)}})
    return voc


def cityscapes(root, size=(16, 24), splits=("train", "val"), city="aachen"):
    folder = root / "cityscapes"
    for split in splits:
        stem = f"{city}_000000_000019"
        photograph(folder / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png", *size)
        save(
            folder / "gtFine" / split / city / f"{stem}_gtFine_labelIds.png",
            np.resize(np.arange(34, dtype=np.uint8), size),
        )
    return folder
