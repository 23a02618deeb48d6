"""Asking a model for segments, and reading them from its prediction."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from mmseg.structures import SegDataSample
from numpy.typing import NDArray
from torch import Tensor, nn

from mmseg_plugins.api.draw import Colour
from mmseg_plugins.api.segments import list_segments
from mmseg_plugins.prediction.components import panoptic_from_label_map
from mmseg_plugins.segmentors.mask_options import MaskOutputs


@dataclass(frozen=True)
class FoundSegments:
    """Segments of one picture.

    Attributes:
        ids: (H, W) segment ids, 0 unassigned.
        segments_info: as :class:`mmseg_plugins.prediction.segments_panoptic.PanopticMap` has them.
        is_thing: K flags.
        source: ``masks``, or ``label map`` for connected parts.
    """

    ids: NDArray[np.int64]
    segments_info: Sequence[dict[str, Any]]
    is_thing: tuple[bool, ...]
    source: str

    def fields(self, class_names: Sequence[str], palette: Sequence[Colour]) -> dict[str, Any]:
        """Return what a result holds of them."""
        segments = list_segments(self.ids, self.segments_info, class_names, palette)
        return {"segment_ids": self.ids.astype(np.int32), "segments": segments, "is_thing": self.is_thing}


def _outputs(model: nn.Module) -> MaskOutputs | None:
    outputs = getattr(model, "outputs", None)
    return outputs if isinstance(outputs, MaskOutputs) else None


def wants_panoptic(model: nn.Module) -> bool:
    """Tell whether a model's own config asks for panoptic output."""
    outputs = _outputs(model)
    return outputs is not None and outputs.panoptic


@contextmanager
def asked_for(model: nn.Module, panoptic: bool) -> Iterator[None]:
    """Ask a model of masks for a label map, and for segments or not; other models stay as they are."""
    outputs = _outputs(model)
    if outputs is None:
        yield
        return
    model.outputs = replace(outputs, semantic=True, panoptic=panoptic, instance=False)
    try:
        yield
    finally:
        model.outputs = outputs


def find_segments(model: nn.Module, sample: SegDataSample, labels: Tensor, num_classes: int) -> FoundSegments:
    """Read the segments of a prediction, or make them of its label map.

    Args:
        model: that predicted.
        sample: its prediction.
        labels: (H, W) label map.
        num_classes: number of the model's classes.
    """
    found = sample.get("pred_panoptic_seg")
    if found is not None:
        return FoundSegments(found.data[0].cpu().numpy(), found.segments_info, tuple(model.is_thing), "masks")
    vocabulary = getattr(model, "vocabulary", None)
    flags = getattr(vocabulary, "is_thing", None) or (True,) * num_classes
    background = None if vocabulary is None else vocabulary.background.index
    if background is not None:
        labels = labels.masked_fill(labels == background, num_classes)  # no class, so in no segment
    parts = panoptic_from_label_map(labels, is_thing=flags)
    return FoundSegments(parts.ids.numpy(), parts.segments_info, tuple(map(bool, flags)), "label map")
