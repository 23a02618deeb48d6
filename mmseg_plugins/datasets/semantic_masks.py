"""Packs a label map as one mask per class, for models that learn from masks (MAFT+'s semantic training)."""

from typing import Any

import numpy as np
import torch
from mmengine.structures import InstanceData
from mmseg.datasets.transforms import PackSegInputs
from mmseg.registry import TRANSFORMS


@TRANSFORMS.register_module()
class PackClassMasks(PackSegInputs):
    """Pack an image with one binary mask for every class that its label map shows.

    Adds ``gt_instances`` to the data sample: ``labels`` (n,) int64, rising, and ``masks`` (n, H, W) bool. Ignored
    pixels are in no mask; an image of ignored pixels alone has none (n = 0), which is legal. Masks are those of the
    transformed label map, before the data preprocessor pads the batch.

    Args:
        ignore_index: value of pixels without a class.
        keep_label_map: also keep ``gt_sem_seg``, which training does not read.
        meta_keys: sample entries to keep as metainfo.
    """

    def __init__(
        self,
        *,
        ignore_index: int = 255,
        keep_label_map: bool = False,
        meta_keys: tuple[str, ...] = (
            "img_path", "seg_map_path", "ori_shape", "img_shape", "pad_shape", "scale_factor", "flip",
            "flip_direction", "reduce_zero_label",
        ),
    ) -> None:  # fmt: skip
        super().__init__(meta_keys=meta_keys)
        self.ignore_index, self.keep_label_map = ignore_index, keep_label_map

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Pack one sample.

        Raises:
            KeyError: if no label map was loaded.
        """
        if "gt_seg_map" not in results:
            raise KeyError("PackClassMasks needs gt_seg_map: put LoadLabelMap (or LoadAnnotations) in front of it.")
        packed = super().transform(results)
        sample = packed["data_samples"]
        sample.gt_instances = masks_of_label_map(results["gt_seg_map"], self.ignore_index)
        if not self.keep_label_map:
            del sample.gt_sem_seg
        return packed


def masks_of_label_map(labels: np.ndarray, ignore_index: int = 255) -> InstanceData:
    """Split a label map into one mask per class.

    Args:
        labels: (H, W) integers.
        ignore_index: value of pixels without a class.

    Returns:
        ``labels`` (n,) int64 rising, ``masks`` (n, H, W) bool.
    """
    classes = np.unique(labels)
    classes = classes[classes != ignore_index].astype(np.int64)
    masks = labels[None] == classes[:, None, None].astype(labels.dtype)
    return InstanceData(labels=torch.from_numpy(classes), masks=torch.from_numpy(masks))
