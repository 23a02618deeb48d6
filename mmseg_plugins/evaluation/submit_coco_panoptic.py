"""Check COCO panoptic results: a JSON and a folder of PNGs that agree segment by segment."""

from collections import Counter

import numpy as np

from mmseg_plugins.datasets.segment_files import LARGEST_ID, rgb_to_id
from mmseg_plugins.evaluation.submit_fields import INTEGER, LIST, TEXT, CheckContext
from mmseg_plugins.evaluation.submit_images import SubmissionImage
from mmseg_plugins.vocabulary.benchmarks import load_benchmark

ANNOTATION = {"image_id": INTEGER, "file_name": TEXT, "segments_info": LIST}
SEGMENT = {"id": INTEGER, "category_id": INTEGER}


def check_panoptic(context: CheckContext, content: object) -> None:
    """Check annotations and PNGs: ids, categories, sizes, and that both sides hold the same segments."""
    annotations = content.get("annotations") if isinstance(content, dict) else None
    if not isinstance(annotations, list):
        context.problem(f"{context.stem}.json must be an object with a list 'annotations'.")
        return
    benchmark = load_benchmark("coco_panoptic_133")
    is_thing = dict(zip(benchmark["dataset_ids"], benchmark["isthing"], strict=True))
    seen: set[int] = set()
    used: set[str] = set()
    counts: Counter[str] = Counter(segments=0)
    for number, entry in enumerate(annotations):
        if not context.has_fields(entry, ANNOTATION, f"annotation {number}"):
            continue
        image_id = entry["image_id"]
        where = f"image {image_id}"
        if image_id in seen:
            context.problem(f"{where} is annotated twice.")
            continue
        seen.add(image_id)
        used.add(f"{context.stem}/{entry['file_name']}")
        if not context.knows_image(image_id, where):
            continue
        image = context.by_id.get(image_id)
        if image is not None and entry["file_name"] != f"{image.stem}.png":
            context.problem(f"{where}: file_name must be {image.stem}.png, got {entry['file_name']!r}.")
        ids = _check_segments(context, entry["segments_info"], is_thing, where, counts)
        _check_png(context, entry["file_name"], ids, image, where)
    for name in sorted({name for name in context.archive.names if name.endswith(".png")} - used):
        context.problem(f"{name} belongs to no annotation.")
    if counts["repeated"]:
        context.report.notes.append(
            f"{counts['repeated']} times an image has several segments of one stuff category; "
            "all but one of them count as wrong."
        )
    context.report.counts.update(images=len(seen), segments=counts["segments"])
    context.note_images_without_entry(seen)


def _check_segments(
    context: CheckContext, segments: list, is_thing: dict[int, int], where: str, counts: Counter
) -> set[int]:
    """Check the entries of one image; return their ids."""
    ids: set[int] = set()
    stuff: Counter[int] = Counter()
    for segment in segments:
        if not context.has_fields(segment, SEGMENT, f"{where}: a segment"):
            continue
        key, category = segment["id"], segment["category_id"]
        if not 0 < key <= LARGEST_ID:
            context.problem(f"{where}: segment id {key} must be 1..{LARGEST_ID}; 0 is void.")
        if key in ids:
            context.problem(f"{where}: segment id {key} is listed twice.")
        if category not in is_thing:
            context.problem(f"{where}: segment {key} has the category id {category}, none of the 133.")
        elif not is_thing[category]:
            stuff[category] += 1
        ids.add(key)
    counts["segments"] += len(ids)
    counts["repeated"] += sum(count > 1 for count in stuff.values())
    return ids


def _check_png(context: CheckContext, file_name: str, ids: set[int], image: SubmissionImage | None, where: str) -> None:
    name = f"{context.stem}/{file_name}"
    if name not in context.archive.names:
        context.problem(f"{where}: {name} is not in the archive.")
        return
    colours = context.archive.read_image(name, "RGB", "8 bits, three channels, id = R + 256 G + 65536 B")
    if colours is None:
        return
    if image is not None and colours.shape[:2] != image.size:
        found, wanted = (f"{width} x {height}" for height, width in (colours.shape[:2], image.size))
        context.problem(f"{name} is {found}, but the image is {wanted} (width x height).")
        return
    present = set(np.unique(rgb_to_id(colours)).tolist()) - {0}
    if present - ids:
        context.problem(f"{name} has segment ids that the JSON does not list: {sorted(present - ids)[:5]}.")
    if ids - present:
        context.problem(f"{where}: the JSON lists segment ids that {name} does not have: {sorted(ids - present)[:5]}.")
