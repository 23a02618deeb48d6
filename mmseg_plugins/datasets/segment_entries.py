"""Panoptic and instance JSON of the COCO form, as lists of images with their segments."""

import os
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from mmseg_plugins.evaluation.panoptic_files import read_json


def read_json_object(path: str | os.PathLike, keys: tuple[str, ...]) -> dict[str, Any]:
    """Read a JSON object that must have certain keys.

    Raises:
        FileNotFoundError, ValueError: naming the file and what is wrong with it.
    """
    content = read_json(path)
    missing = [key for key in keys if not isinstance(content, dict) or key not in content]
    if missing:
        have = sorted(content) if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"{os.fspath(path)} lacks {', '.join(missing)}; it holds {have}.")
    return content


def _describe_images(content: Mapping[str, Any]) -> dict[int | str, dict[str, Any]]:
    return {
        image["id"]: {
            "img_id": image["id"],
            "file_name": image["file_name"],
            "height": image["height"],
            "width": image["width"],
        }
        for image in content["images"]
    }


def _label(category: int, label_of: Mapping[int, int], path: str) -> int:
    if category not in label_of:
        raise ValueError(f"{path} uses the category id {category}, which the benchmark does not have.")
    return label_of[category]


def read_panoptic_entries(content: Mapping[str, Any], label_of: Mapping[int, int], path: str) -> list[dict[str, Any]]:
    """List the images of a panoptic JSON with their segments.

    Args:
        content: ``images`` and ``annotations`` of the JSON.
        label_of: class index of each category id; id 0 is a category like any other.
        path: the JSON's name, for messages.

    Raises:
        ValueError: for an unknown category, or an annotation of an image that the JSON does not list.
    """
    images = _describe_images(content)
    entries = []
    for annotation in content["annotations"]:
        if annotation["image_id"] not in images:
            raise ValueError(f"{path} annotates the image id {annotation['image_id']!r}, which it does not list.")
        segments = [
            {
                "id": segment["id"],
                "label": _label(segment["category_id"], label_of, path),
                "is_crowd": bool(segment.get("iscrowd", 0)),
                "area": segment.get("area"),
            }
            for segment in annotation["segments_info"]
        ]
        entry = images[annotation["image_id"]]
        entries.append({**entry, "pan_seg_file": annotation["file_name"], "segments_info": segments})
    return entries


def read_instance_entries(content: Mapping[str, Any], label_of: Mapping[int, int], path: str) -> list[dict[str, Any]]:
    """List the images of an instance JSON with their instances; images without one stay in.

    Raises:
        ValueError: for an unknown category, or an annotation of an image that the JSON does not list.
    """
    images = _describe_images(content)
    of_image: dict[int | str, list[dict[str, Any]]] = defaultdict(list)
    for annotation in content["annotations"]:
        if annotation["image_id"] not in images:
            raise ValueError(f"{path} annotates the image id {annotation['image_id']!r}, which it does not list.")
        of_image[annotation["image_id"]].append(
            {
                "id": annotation["id"],
                "label": _label(annotation["category_id"], label_of, path),
                "segmentation": annotation["segmentation"],
                "is_crowd": bool(annotation.get("iscrowd", 0)),
                "area": annotation.get("area"),
            }
        )
    return [{**image, "instances": of_image.get(key, [])} for key, image in images.items()]
