"""The transform that loads semantic label maps of any depth."""

from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform
from mmseg.registry import TRANSFORMS

from mmseg_plugins.datasets.label_files import decode_labels, read_label_map
from mmseg_plugins.datasets.records import LabelRule


@TRANSFORMS.register_module()
class LoadLabelMap(BaseTransform):
    """Load a semantic label map without narrowing it to 8 bits.

    Takes the place of mmseg's ``LoadAnnotations``, which casts to uint8 and knows only 255 as ignore value. How the
    stored values become class indices comes from the data set (``label_rule``, ``ignore_index``, ``label_map``), so a
    pipeline is the same for all benchmarks. Put it after ``Resize`` in test pipelines, so that the ground truth keeps
    its own size.

    Reads ``seg_map_path``; adds ``gt_seg_map`` (H, W) uint8 or uint16 and lists it in ``seg_fields``. A picture that
    comes from no data set (mmseg's ``inference_model``, which strips its own loader by name) has no such entry and
    passes unchanged.

    Args:
        label_rule: overrules the data set's rule.
        ignore_index: overrules the data set's ignore value.
    """

    def __init__(self, *, label_rule: LabelRule | None = None, ignore_index: int | None = None) -> None:
        self.label_rule = label_rule
        self.ignore_index = ignore_index

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add the label map to ``results``.

        Raises:
            FileNotFoundError, ValueError: naming the file, if it is missing or not a single-channel image.
        """
        if "seg_map_path" not in results:
            return results
        default_rule = "reduce_zero" if results.get("reduce_zero_label") else "as_stored"
        ignore = results.get("ignore_index", 255) if self.ignore_index is None else self.ignore_index
        labels = decode_labels(
            read_label_map(results["seg_map_path"]),
            rule=self.label_rule or results.get("label_rule", default_rule),
            ignore_index=ignore,
            num_classes=results.get("num_classes", 0),
        )
        if results.get("label_map"):
            labels = _rename(labels, results["label_map"], ignore)
        results["gt_seg_map"] = labels
        results.setdefault("seg_fields", []).append("gt_seg_map")
        return results

    def __repr__(self) -> str:
        return f"{type(self).__name__}(label_rule={self.label_rule!r}, ignore_index={self.ignore_index!r})"


def _rename(labels: np.ndarray, label_map: dict[int, int], ignore_index: int) -> np.ndarray:
    """Apply a table old index -> new index; values outside it stay, as in mmseg."""
    table = np.arange(65536, dtype=np.uint16)
    table[list(label_map)] = list(label_map.values())
    table[ignore_index] = ignore_index
    depth = np.result_type(labels.dtype, np.min_scalar_type(ignore_index))
    return table[labels].astype(depth)
