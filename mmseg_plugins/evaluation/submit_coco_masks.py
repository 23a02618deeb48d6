"""Check COCO results that are lists of masks: detections and stuff."""

from collections import Counter, defaultdict
from typing import Any

import numpy as np

from mmseg_plugins.evaluation.submit_fields import INTEGER, NUMBER, OBJECT, CheckContext
from mmseg_plugins.vocabulary.benchmarks import load_benchmark

STUFF_OTHER = 183
FIRST_STUFF = 92
MAX_DETECTIONS = 100
DETECTION = {"image_id": INTEGER, "category_id": INTEGER, "segmentation": OBJECT, "score": NUMBER}
STUFF = {"image_id": INTEGER, "category_id": INTEGER, "segmentation": OBJECT}


def check_detections(context: CheckContext, content: object) -> None:
    """Check a list of detections: official thing ids, masks of the image's size, finite scores."""
    if not isinstance(content, list):
        context.problem(f"{context.stem}.json must be a list of detections, got {type(content).__name__}.")
        return
    categories = set(thing_ids())
    per_image: Counter[int] = Counter()
    for number, entry in enumerate(content):
        where = f"detection {number}"
        if not (context.has_fields(entry, DETECTION, where) and context.knows_image(entry["image_id"], where)):
            continue
        if entry["category_id"] not in categories:
            context.problem(f"{where}: category id {entry['category_id']} is none of COCO's 80 (1..90 with gaps).")
        context.decode(entry, where)
        per_image[entry["image_id"]] += 1
    crowded = sum(count > MAX_DETECTIONS for count in per_image.values())
    if crowded:
        context.report.notes.append(f"{crowded} images have more than {MAX_DETECTIONS} detections; the best are used.")
    context.report.counts.update(detections=len(content), images=len(per_image))


def check_stuff(context: CheckContext, content: object) -> None:
    """Check a list of stuff masks: ids 92..183, one mask per category and image, no overlap."""
    if not isinstance(content, list):
        context.problem(f"{context.stem}.json must be a list of masks, got {type(content).__name__}.")
        return
    of_image: dict[int, list[tuple[str, dict[str, Any]]]] = defaultdict(list)
    for number, entry in enumerate(content):
        where = f"mask {number}"
        if context.has_fields(entry, STUFF, where) and context.knows_image(entry["image_id"], where):
            of_image[entry["image_id"]].append((where, entry))
    categories = {*stuff_ids(), STUFF_OTHER}
    unanswered = sum(not _check_stuff_image(context, entries, categories) for entries in of_image.values())
    if unanswered:
        context.report.notes.append(f"{unanswered} images have pixels without a mask, which count as unlabelled.")
    context.report.counts.update(masks=len(content), images=len(of_image))
    context.note_images_without_entry(set(of_image))


def _check_stuff_image(context: CheckContext, entries: list[tuple[str, dict[str, Any]]], categories: set[int]) -> bool:
    """Check the masks of one image; tell whether they cover it."""
    covered: np.ndarray | None = None
    seen: set[int] = set()
    for where, entry in entries:
        category = entry["category_id"]
        if "score" in entry:
            context.problem(f"{where} has a 'score', which stuff results do not have.")
        if category not in categories:
            context.problem(f"{where}: category id {category} is none of 92..183 (things go into 183, other).")
        if category in seen:
            context.problem(f"{where}: image {entry['image_id']} has a second mask of category {category}.")
        seen.add(category)
        mask = context.decode(entry, where)
        if mask is None:
            continue
        if covered is None:
            covered = np.zeros_like(mask)
        if covered.shape != mask.shape:
            context.problem(f"{where}: its size differs from that of the image's other masks.")
            continue
        overlap = int((covered & mask).sum())
        if overlap:
            context.problem(f"{where}: overlaps other masks of image {entry['image_id']} in {overlap} pixels.")
        covered |= mask
    return covered is not None and bool(covered.all())


def thing_ids() -> list[int]:
    """COCO's 80 official thing ids, 1..90 with gaps, in class order."""
    content = load_benchmark("coco_panoptic_133")
    return [key for key, thing in zip(content["dataset_ids"], content["isthing"], strict=True) if thing]


def stuff_ids() -> list[int]:
    """COCO-Stuff's 91 official stuff ids, 92..182, in class order."""
    return [key for key in load_benchmark("coco_stuff_171")["dataset_ids"] if key >= FIRST_STUFF]
