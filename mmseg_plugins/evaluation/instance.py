"""Instance average precision: COCO's evaluator, on masks or on the minimum of mask and boundary IoU.

The figures are pycocotools' own (the ``coco`` extra); what is added here are checks of the input, the boundary variant
as published with Boundary IoU, and silence on stdout.
"""

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mmseg_plugins.evaluation.boundary import DILATION_RATIO, boundary_pixels, boundary_width
from mmseg_plugins.evaluation.rle import decode_mask, rle_area, rle_size

# pycocotools' twelve figures, in its order.
FIGURES = (
    "AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large",
    "AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large",
)  # fmt: skip
UNDEFINED = -1.0  # pycocotools' value where the ground truth has nothing in the range


@dataclass(frozen=True)
class InstanceSummary:
    """Figures of a whole data set.

    Attributes:
        figures: `FIGURES` -> fraction, -1 where the ground truth has nothing in the range.
        per_category: category id -> AP, -1 where the category does not occur.
        boundary: whether they were computed on min(mask IoU, boundary IoU).
        num_images: images in the ground truth.
        num_results: detections given.
    """

    figures: dict[str, float]
    per_category: dict[int, float]
    boundary: bool
    num_images: int
    num_results: int


def evaluate_instances(
    ground_truth: dict[str, Any],
    results: Sequence[dict[str, Any]],
    *,
    boundary: bool = False,
    dilation_ratio: float = DILATION_RATIO,
) -> InstanceSummary:
    """Compute COCO's average precision and recall of instance masks.

    Args:
        ground_truth: content of a COCO instance JSON: ``images`` (``id``, ``height``, ``width``), ``annotations``
            (``image_id``, ``category_id``, ``segmentation``, ``area``, ``iscrowd``) and ``categories``.
        results: content of a COCO results JSON: ``image_id``, ``category_id``, ``segmentation`` (RLE) and ``score``.
            At most 100 per image count, the best ones.
        boundary: match on min(mask IoU, boundary IoU).
        dilation_ratio: width of the boundary band as a share of the image diagonal.

    Raises:
        ImportError: if pycocotools is missing, with the remedy.
        ValueError: naming the entry with an unknown image or category, a mask of another size than its image, a missing
            score, or an annotation id that occurs twice.
    """
    evaluator_type = _evaluator_type()
    annotations, detections = _checked(ground_truth, results)
    with contextlib.redirect_stdout(io.StringIO()):
        labelled, detected = _as_coco(ground_truth, annotations), _as_coco(ground_truth, detections)
        evaluator = evaluator_type(labelled, detected, dilation_ratio if boundary else None)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    precision = evaluator.eval["precision"][:, :, :, 0, -1]  # (thresholds, recalls, categories), all areas, 100 a image
    return InstanceSummary(
        figures=dict(zip(FIGURES, map(float, evaluator.stats), strict=True)),
        per_category={
            int(category): _defined_mean(precision[:, :, index])
            for index, category in enumerate(evaluator.params.catIds)
        },
        boundary=boundary,
        num_images=len(ground_truth["images"]),
        num_results=len(detections),
    )


def _defined_mean(values: NDArray) -> float:
    defined = values[values > UNDEFINED]
    return float(defined.mean()) if defined.size else UNDEFINED


def mask_boundary(mask: NDArray, *, dilation_ratio: float = DILATION_RATIO) -> NDArray[np.uint8]:
    """Return the boundary band of one binary mask.

    Only the mask's box is looked at; the band's width still follows the size of the whole image.

    Args:
        mask: (H, W), nonzero is inside.
        dilation_ratio: share of the image diagonal that the band is wide.

    Returns:
        (H, W) uint8 of 0 and 1.
    """
    band = np.zeros(mask.shape, dtype=np.uint8)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if rows.size:
        box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
        inside = torch.from_numpy(mask[box] != 0)
        band[box] = (boundary_pixels(inside, width=boundary_width(*mask.shape, dilation_ratio)) & inside).numpy()
    return band


def require_pycocotools() -> Any:
    """Return the module ``pycocotools``.

    Raises:
        ImportError: if it is not installed, with the remedy.
    """
    try:
        import pycocotools.coco
        import pycocotools.cocoeval
        import pycocotools.mask
    except ImportError as error:
        raise ImportError(
            "instance AP is computed by pycocotools, which is not installed. "
            "Install it: pip install 'mmseg_plugins[coco]'."
        ) from error
    return pycocotools


def _evaluator_type() -> type:
    pycocotools = require_pycocotools()

    class Evaluator(pycocotools.cocoeval.COCOeval):
        """pycocotools' evaluator; with a dilation ratio, ordinary objects are matched on min(mask, boundary IoU)."""

        def __init__(self, ground_truth: object, results: object, dilation_ratio: float | None) -> None:
            super().__init__(ground_truth, results, "segm")
            self._dilation_ratio = dilation_ratio

        def computeIoU(self, imgId: Any, catId: int) -> Any:  # noqa: N802 (pycocotools' name)
            iou = super().computeIoU(imgId, catId)
            if self._dilation_ratio is None or not len(iou):
                return iou
            labelled = self._gts[imgId, catId]
            detected = self._dts[imgId, catId]
            best_first = np.argsort([-entry["score"] for entry in detected], kind="mergesort")
            detected = [detected[index] for index in best_first[: self.params.maxDets[-1]]]
            crowd = np.array([bool(entry["iscrowd"]) for entry in labelled])
            of_boundary = pycocotools.mask.iou(
                self._boundaries(detected), self._boundaries(labelled), crowd.astype(np.uint8).tolist()
            )
            # Crowd regions only absorb detections: the published evaluator keeps their mask IoU.
            return np.where(crowd, iou, np.minimum(iou, of_boundary))

        def _boundaries(self, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
            for entry in entries:
                if "boundary" not in entry:
                    band = mask_boundary(decode_mask(entry["segmentation"]), dilation_ratio=self._dilation_ratio)
                    entry["boundary"] = pycocotools.mask.encode(np.asfortranarray(band))
            return [entry["boundary"] for entry in entries]

    return Evaluator


def _as_coco(ground_truth: dict[str, Any], annotations: list[dict[str, Any]]) -> Any:
    coco = require_pycocotools().coco.COCO()
    coco.dataset = {
        "images": ground_truth["images"],
        "categories": ground_truth["categories"],
        "annotations": annotations,
    }
    coco.createIndex()
    return coco


def _checked(
    ground_truth: dict[str, Any], results: Sequence[dict[str, Any]]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return copies of annotations and results with the fields that the evaluator needs.

    Ids are numbered anew from 1: the evaluator takes an object of id 0 for unmatched.
    """
    sizes = {image["id"]: (image["height"], image["width"]) for image in ground_truth["images"]}
    categories = {category["id"] for category in ground_truth["categories"]}
    given = [annotation["id"] for annotation in ground_truth["annotations"] if "id" in annotation]
    if len(set(given)) < len(given):
        raise ValueError("annotation ids of the ground truth are not distinct.")
    annotations = []
    for number, annotation in enumerate(ground_truth["annotations"], 1):
        _check_references(annotation, f"annotation {annotation.get('id', number)}", sizes, categories)
        annotations.append({"iscrowd": 0, **annotation, "id": number})
    detections = []
    for number, result in enumerate(results, 1):
        name = f"result {number - 1}"
        _check_references(result, name, sizes, categories)
        segmentation = _checked_mask(result, name, sizes[result["image_id"]])
        try:
            area = float(rle_area(segmentation))
        except ValueError as error:  # pycocotools would read beyond a damaged mask without noticing
            raise ValueError(f"{name}: {error}") from error
        detections.append({**result, "segmentation": segmentation, "id": number, "iscrowd": 0, "area": area})
    return annotations, detections


def _check_references(entry: dict[str, Any], name: str, sizes: dict, categories: set) -> None:
    missing = {"image_id", "category_id", "segmentation"} - set(entry)
    if missing:
        raise ValueError(f"{name} has no {', '.join(sorted(missing))}.")
    if entry["image_id"] not in sizes:
        raise ValueError(f"{name} belongs to image {entry['image_id']!r}, which the ground truth does not list.")
    if entry["category_id"] not in categories:
        raise ValueError(f"{name} has category_id {entry['category_id']!r}, which the ground truth does not list.")


def _checked_mask(result: dict[str, Any], name: str, size: tuple[int, int]) -> dict[str, Any]:
    segmentation = result["segmentation"]
    if not isinstance(segmentation, dict) or not isinstance(segmentation.get("counts"), (str, bytes)):
        raise ValueError(f"{name}: segmentation must be compressed RLE {{'size': [h, w], 'counts': text}}.")
    if "score" not in result:
        raise ValueError(f"{name} has no score.")
    if rle_size(segmentation) != tuple(size):
        raise ValueError(f"{name} has a mask of {rle_size(segmentation)} but its image is {tuple(size)} (h, w).")
    return segmentation
