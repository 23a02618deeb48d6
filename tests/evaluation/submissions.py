"""Tiny predictions in every saved format, and archives to corrupt; for the submission tests."""

import io
import json
import zipfile

import numpy as np
from PIL import Image

from mmseg_plugins.evaluation.saving import PredictionSaver
from mmseg_plugins.vocabulary.benchmarks import load_benchmark

SIZE = (24, 32)


def meta(benchmark, **extra):
    content = load_benchmark(benchmark)
    return {"classes": tuple(content["classes"]), "dataset_ids": content.get("dataset_ids"), **extra}


def save_label_maps(folder, benchmark, maps, suffix=".jpg", **extra):
    """Save label maps as a test run does; maps: stem -> (H, W)."""
    saver = PredictionSaver(folder, dataset_meta=meta(benchmark, **extra))
    for stem, labels in maps.items():
        saver.save({"img_path": f"x/{stem}{suffix}", "ori_shape": labels.shape, "pred_sem_seg": {"data": labels[None]}})
    saver.finish(len(maps))
    return folder


def random_labels(num_classes, seed=0, size=SIZE):
    return np.random.default_rng(seed).integers(0, num_classes, size)


def coco_images(folder, stems=("000000000139", "000000000285"), size=SIZE):
    """Write an image list as COCO's."""
    entries = [{"id": int(stem), "file_name": f"{stem}.jpg", "height": size[0], "width": size[1]} for stem in stems]
    path = folder / "image_info.json"
    path.write_text(json.dumps({"images": entries}))
    return path


def panoptic_sample(stem, segments=((1, 0), (2, 100)), size=SIZE):
    """Void above; below, one stripe per segment: (id, class index)."""
    ids = np.zeros(size, np.int64)
    for number, (key, _) in enumerate(segments):
        ids[4 + 4 * number : 8 + 4 * number] = key
    info = [{"id": key, "category_id": label} for key, label in segments]
    prediction = {"data": ids[None], "segments_info": info}
    return {"img_path": f"x/{stem}.jpg", "ori_shape": size, "pred_panoptic_seg": prediction}


def instance_sample(stem, count=3, size=SIZE):
    masks = np.zeros((count, *size), bool)
    for number in range(count):
        masks[number, : number % size[0] + 1] = True
    found = {"masks": masks, "labels": np.arange(count) % 80, "scores": np.linspace(1, 0.1, count)}
    return {"img_path": f"x/{stem}.jpg", "ori_shape": size, "pred_instances": found}


def read_archive(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_archive(path, entries):
    """Write entries: name -> bytes, or a list of pairs where a name occurs twice."""
    pairs = entries.items() if isinstance(entries, dict) else entries
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in pairs:
            archive.writestr(name, content)


def png(array, mode=None):
    buffer = io.BytesIO()
    image = Image.fromarray(np.asarray(array))
    (image if mode is None else image.convert(mode)).save(buffer, "PNG")
    return buffer.getvalue()


def pixels(data):
    return np.asarray(Image.open(io.BytesIO(data)))
