"""Small data sets of label maps and panoptic results on disk, for the tests of scoring."""

import json

import numpy as np
from PIL import Image

from mmseg_plugins.datasets.segment_files import id_to_rgb


def label_maps(num_classes, count=3, shape=(32, 48), seed=0):
    """Label maps that together hold every class, in patches of 2 x 2 pixels."""
    generator = np.random.default_rng(seed)
    small = (shape[0] // 2, shape[1] // 2)
    order = np.resize(generator.permutation(num_classes), count * small[0] * small[1]).reshape(count, *small)
    return [np.kron(plane, np.ones((2, 2), np.int64)) for plane in order]


def write_maps(folder, maps, suffix=".png", dtype=None, stem="image_{}"):
    """Write maps as 8 or 16 bits and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, labels in enumerate(maps):
        depth = dtype or (np.uint8 if labels.max() < 256 else np.uint16)
        paths.append(folder / f"{stem.format(number)}{suffix}")
        Image.fromarray(labels.astype(depth)).save(paths[-1])
    return paths


def write_class_file(path, num_classes):
    """Write a text file of class names."""
    path.write_text("".join(f"class {index}\n" for index in range(num_classes)))
    return str(path)


CATEGORIES = [
    {"id": 0, "name": "wall", "isthing": 0},
    {"id": 5, "name": "cat", "isthing": 1},
    {"id": 9, "name": "dog", "isthing": 1},
]


def panoptic_example(image_id, seed):
    """Segment ids and segments_info of one image, ids spread over the three colour channels."""
    generator = np.random.default_rng(seed)
    ids = np.full((30, 40), 70001, np.int64)
    ids[:3] = 0
    ids[5:15, 5:20] = 300
    ids[12:28, 22:38] = 2_000_000 + int(generator.integers(1000))
    segments = [
        {"id": int(value), "category_id": category, "iscrowd": 0, "area": int((ids == value).sum())}
        for value, category in zip((70001, 300, ids[20, 30]), (0, 5, 9), strict=True)
    ]
    return ids, {"image_id": image_id, "file_name": f"{image_id}.png", "segments_info": segments}


def write_panoptic(path, examples, **further):
    """Write a panoptic JSON and the PNGs beside it."""
    folder = path.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    for ids, entry in examples:
        Image.fromarray(id_to_rgb(ids)).save(folder / entry["file_name"])
    path.write_text(json.dumps({"annotations": [entry for _, entry in examples], **further}))
    return path
