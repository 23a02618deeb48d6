"""Data samples as mmseg's evaluator hands them to metrics."""

import numpy as np
import torch

from tests.evaluation.test_panoptic import CATEGORIES, scene

NUM_CLASSES = 7
META = {
    "classes": tuple(f"class {index}" for index in range(NUM_CLASSES)),
    "isthing": [1, 0, 1, 0, 1, 0, 1],
    "dataset_ids": list(range(10, 10 + NUM_CLASSES)),
}


def semantic_sample(number, num_classes=NUM_CLASSES, ignore_index=255, shape=(19, 23)):
    """One image with labels, ignored pixels and a prediction that is mostly right; class K - 1 is never labelled."""
    generator = torch.Generator().manual_seed(number)
    coarse = torch.randint(0, num_classes - 1, (shape[0] // 4 + 1, shape[1] // 4 + 1), generator=generator)
    label = coarse.repeat_interleave(4, 0).repeat_interleave(4, 1)[: shape[0], : shape[1]].contiguous()
    prediction = label.clone()
    wrong = torch.rand(shape, generator=generator) < 0.3
    prediction[wrong] = torch.randint(0, num_classes, (int(wrong.sum()),), generator=generator)
    label[: number % 3 + 1] = ignore_index
    return {
        "img_path": f"image_{number}.jpg",
        "img_id": number,
        "ori_shape": shape,
        "pred_sem_seg": {"data": prediction[None]},
        "gt_sem_seg": {"data": label[None]},
    }


def panoptic_sample(number):
    """One image with segments; the ground truth has crowds and void."""
    prediction, predicted, label, labelled = scene(number)
    truth = [
        {"id": e["id"], "label": e["category_id"], "is_crowd": bool(e["iscrowd"]), "area": e["area"]} for e in labelled
    ]
    return {
        "img_path": f"image_{number}.jpg",
        "img_id": number,
        "ori_shape": label.shape,
        "pred_panoptic_seg": {"data": torch.from_numpy(prediction)[None], "segments_info": predicted},
        "gt_panoptic_seg": {"data": torch.from_numpy(label)[None], "segments_info": truth},
    }


def instance_sample(number, shape=(60, 80)):
    """One image with rectangular objects, found with a shift, and one spurious detection."""
    generator = np.random.default_rng(number)
    masks = np.zeros((4, *shape), bool)
    for mask in masks:
        y, x = generator.integers(0, 30, 2)
        mask[y : y + generator.integers(8, 30), x : x + generator.integers(8, 40)] = True
    found = np.stack([np.roll(mask, 1, axis) for axis, mask in zip((0, 1, 1, 0), masks, strict=True)])
    return {
        "img_path": f"image_{number}.jpg",
        "img_id": number,
        "ori_shape": shape,
        "pred_instances": {
            "masks": torch.from_numpy(found),
            "labels": torch.tensor([0, 1, 2, 3]),
            "scores": torch.from_numpy(generator.random(4)),
        },
        "gt_instances": {
            "masks": torch.from_numpy(masks[:3]),
            "labels": torch.tensor([0, 1, 2]),
            "is_crowd": torch.tensor([False, False, number % 2 == 0]),
        },
    }


SAMPLE_CATEGORIES = CATEGORIES
