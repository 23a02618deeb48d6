"""Transforms that load panoptic and instance ground truth, and the one that packs it."""

from typing import Any

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmengine.structures import InstanceData, PixelData
from mmseg.datasets.transforms import PackSegInputs
from mmseg.registry import TRANSFORMS

from mmseg_plugins.datasets.segment_files import read_segment_ids
from mmseg_plugins.evaluation.rle import decode_mask


@TRANSFORMS.register_module()
class LoadPanopticSegments(BaseTransform):
    """Load a panoptic PNG.

    Reads ``pan_seg_map_path`` and ``segments_info``; adds ``gt_panoptic_map`` (H, W) int32 segment ids with 0 for void
    and lists it in ``seg_fields``, so that geometric transforms carry it along (nearest neighbour). Images without
    ground truth pass unchanged.

    Args:
        with_semantic: also add ``gt_seg_map`` (H, W), the class index of each pixel's segment, crowd segments
            included, and the ignore value elsewhere.
        ignore_index: value of pixels without a class.
    """

    def __init__(self, *, with_semantic: bool = False, ignore_index: int = 255) -> None:
        self.with_semantic = with_semantic
        self.ignore_index = ignore_index

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add the maps.

        Raises:
            FileNotFoundError, ValueError: if the PNG is missing or unreadable, or holds ids that the JSON does not
                list.
        """
        if "pan_seg_map_path" not in results:
            return results
        ids = read_segment_ids(results["pan_seg_map_path"])
        check_segment_ids(ids, results["segments_info"], results["pan_seg_map_path"])
        results["gt_panoptic_map"] = ids
        fields = results.setdefault("seg_fields", [])
        fields.append("gt_panoptic_map")
        if self.with_semantic:
            results["gt_seg_map"] = semantic_from_segments(ids, results["segments_info"], self.ignore_index)
            fields.append("gt_seg_map")
        return results


def check_segment_ids(ids: np.ndarray, segments_info: list[dict[str, Any]], path: str) -> None:
    """Require that every id of a panoptic map stands in its JSON entry.

    The reverse is not asked: ADE20K's stuff segments may be covered by instances altogether and are listed still.

    Raises:
        ValueError: naming the file and the ids without an entry.
    """
    present = set(np.unique(ids).tolist()) - {0}
    listed = {segment["id"] for segment in segments_info}
    if present - listed:
        raise ValueError(f"{path} has segment ids that its JSON does not list: {sorted(present - listed)[:5]}.")


def semantic_from_segments(ids: np.ndarray, segments_info: list[dict[str, Any]], ignore_index: int = 255) -> np.ndarray:
    """Class index of each pixel's segment; crowd segments count like any other.

    Args:
        ids: (H, W) segment ids, 0 void.
        segments_info: ``id`` and ``label`` of the segments.
        ignore_index: value of void pixels.

    Returns:
        (H, W) uint8 or uint16.
    """
    depth = np.min_scalar_type(max([ignore_index, *(segment["label"] for segment in segments_info)]))
    labels = np.full(ids.shape, ignore_index, dtype=depth)
    for segment in segments_info:
        labels[ids == segment["id"]] = segment["label"]
    return labels


@TRANSFORMS.register_module()
class LoadInstanceMasks(BaseTransform):
    """Load instance masks from the polygons or RLE of the annotations.

    Reads ``instances``, ``height``, ``width``; adds ``gt_masks`` (N, H, W) bool, ``gt_labels`` (N,) int64 class indices
    and ``gt_is_crowd`` (N,) bool. Put it before geometric transforms only if these know masks. Images without ground
    truth pass unchanged.

    Args:
        with_crowd: keep crowd annotations (evaluation needs them, training does not).
    """

    def __init__(self, *, with_crowd: bool = True) -> None:
        self.with_crowd = with_crowd

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add the masks.

        Raises:
            ValueError: if an annotation's mask has another size than the image.
        """
        if "instances" not in results:
            return results
        size = (results["height"], results["width"])
        kept = [item for item in results["instances"] if self.with_crowd or not item["is_crowd"]]
        masks = [decode_segmentation(item["segmentation"], size, f"annotation {item['id']}") for item in kept]
        results["gt_masks"] = np.stack(masks) if masks else np.zeros((0, *size), dtype=bool)
        results["gt_labels"] = np.array([item["label"] for item in kept], dtype=np.int64)
        results["gt_is_crowd"] = np.array([item["is_crowd"] for item in kept], dtype=bool)
        return results


def decode_segmentation(segmentation: Any, size: tuple[int, int], where: str) -> np.ndarray:
    """Turn polygons, compressed or uncompressed RLE into a mask.

    Args:
        segmentation: list of polygons [x0, y0, x1, y1, …] in pixels, or an RLE object.
        size: (H, W) of the image.
        where: what it belongs to, for messages.

    Returns:
        (H, W) bool.

    Raises:
        ValueError: if an RLE is damaged or has another size.
        ImportError: if polygons are given and pycocotools is missing.
    """
    try:
        encoded = _fill_polygons(segmentation, size) if isinstance(segmentation, list) else segmentation
        mask = decode_mask(encoded).astype(bool)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    if mask.shape != size:
        raise ValueError(f"{where}: its mask is {mask.shape}, but the image is {size} (H, W).")
    return mask


def _fill_polygons(polygons: list[list[float]], size: tuple[int, int]) -> dict[str, Any]:
    """One RLE of all polygons, rasterised as the COCO evaluator does."""
    try:
        from pycocotools import mask
    except ImportError as error:
        raise ImportError(
            "polygon annotations need pycocotools. Install it with: pip install 'mmseg_plugins[coco]'"
        ) from error
    if not polygons:
        return {"size": list(size), "counts": [size[0] * size[1]]}
    return mask.merge(mask.frPyObjects(polygons, *size))


@TRANSFORMS.register_module()
class PackSegments(PackSegInputs):
    """Pack image, panoptic map and instances; a semantic map and meta data are packed as mmseg does.

    Adds to the data sample: ``gt_panoptic_seg`` (``data`` (1, H, W) int64 segment ids, ``segments_info`` as metainfo)
    and ``gt_instances`` (``labels`` (N,) int64, ``masks`` (N, H, W) bool). From a panoptic map the instances are its
    non-crowd segments, things and stuff alike, in the JSON's order.

    Args:
        keep_empty: keep segments that a crop has left without a pixel, as all-zero masks.
        with_instances: False leaves out the masks (evaluation of panoptic maps does not need them).
        meta_keys: sample entries to keep as metainfo.
    """

    def __init__(
        self,
        *,
        keep_empty: bool = False,
        with_instances: bool = True,
        meta_keys: tuple[str, ...] = (
            "img_path", "img_id", "ori_shape", "img_shape", "pad_shape", "scale_factor", "flip", "flip_direction",
        ),
    ) -> None:  # fmt: skip
        super().__init__(meta_keys=meta_keys)
        self.keep_empty = keep_empty
        self.with_instances = with_instances

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Pack one sample."""
        packed = super().transform(results)
        sample = packed["data_samples"]
        if "gt_panoptic_map" in results:
            ids = torch.from_numpy(np.ascontiguousarray(results["gt_panoptic_map"])).long()
            sample.gt_panoptic_seg = PixelData(data=ids[None], metainfo={"segments_info": results["segments_info"]})
        if self.with_instances:
            instances = self._pack_instances(results)
            if instances is not None:
                sample.gt_instances = instances
        return packed

    def _pack_instances(self, results: dict[str, Any]) -> InstanceData | None:
        if "gt_masks" in results:
            masks = torch.from_numpy(np.ascontiguousarray(results["gt_masks"]))
            labels = torch.from_numpy(results["gt_labels"])
            crowd = torch.from_numpy(results["gt_is_crowd"])
        elif "gt_panoptic_map" in results:
            segments = [segment for segment in results["segments_info"] if not segment["is_crowd"]]
            ids = torch.tensor([segment["id"] for segment in segments], dtype=torch.long)
            labels = torch.tensor([segment["label"] for segment in segments], dtype=torch.long)
            crowd = torch.zeros(len(segments), dtype=torch.bool)
            plane = torch.from_numpy(np.ascontiguousarray(results["gt_panoptic_map"])).long()
            masks = plane[None] == ids[:, None, None]
        else:
            return None
        keep = masks.flatten(1).any(1) | self.keep_empty
        return InstanceData(labels=labels[keep], masks=masks[keep], is_crowd=crowd[keep])
