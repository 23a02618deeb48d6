"""From a picture to a model's input, through the test pipeline of its config."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform
from mmengine.config import Config
from mmseg.registry import TRANSFORMS
from numpy.typing import NDArray

# Steps of a test pipeline that read files; the picture is here already, and there is no ground truth.
_READERS = ("LoadImageFromFile", "LoadImageFromNDArray", "LoadAnnotations", "LoadLabelMap", "LoadPanoptic")
_DEFAULT_PIPELINE = [{"type": "PackSegInputs"}]


class PicturePipeline:
    """The steps of a config's ``test_pipeline`` on a picture in memory.

    Args:
        steps: the pipeline's config.
        longest_side: shrink larger pictures to this many pixels first; None: never.
    """

    def __init__(self, steps: Sequence[Any], *, longest_side: int | None = None) -> None:
        self._steps = [_build(step) for step in steps if not _reads_files(step)]
        self._longest_side = longest_side

    @classmethod
    def from_config(cls, config: Config, *, longest_side: int | None = None) -> "PicturePipeline":
        """Take ``test_pipeline`` from a config, or a plain one where there is none."""
        return cls(config.get("test_pipeline", _DEFAULT_PIPELINE), longest_side=longest_side)

    def __call__(self, image: NDArray[np.uint8], name: str = "") -> dict[str, Any]:
        """Prepare one picture.

        Args:
            image: (H, W, 3) uint8 RGB.
            name: goes into the sample's ``img_path``.

        Returns:
            ``inputs`` (3, h, w) BGR tensor and ``data_samples``, as mmseg's pipelines give them.
        """
        size = image.shape[:2]
        results = {
            "img": np.ascontiguousarray(image[:, :, ::-1]),
            "img_path": name,
            "img_shape": size,
            "ori_shape": size,
        }
        if self._longest_side is not None and max(size) > self._longest_side:
            resize = _build({"type": "Resize", "scale": (self._longest_side,) * 2, "keep_ratio": True})
            results = _resize(resize, results)
        for step in self._steps:
            results = _resize(step, results) if type(step).__name__ == "Resize" else step(results)
        return results


def _build(step: Any) -> BaseTransform:
    return TRANSFORMS.build(step) if isinstance(step, dict) else step


def _reads_files(step: Any) -> bool:
    kind = step["type"] if isinstance(step, dict) else type(step)
    name = kind if isinstance(kind, str) else kind.__name__
    return name.rpartition(".")[2].startswith(_READERS)


def _resize(step: BaseTransform, results: dict[str, Any]) -> dict[str, Any]:
    """Resize, keeping at least one pixel: a keep-ratio resize of 1 x 5000 pixels would leave none."""
    if not getattr(step, "keep_ratio", False) or not step.scale:
        return step(results)
    height, width = results["img"].shape[:2]
    factor = min(max(step.scale) / max(height, width), min(step.scale) / min(height, width))
    if int(min(height, width) * factor + 0.5) >= 1:
        return step(results)
    scale = tuple(max(1, int(side * factor + 0.5)) for side in (width, height))
    return _build({"type": "Resize", "scale": scale, "keep_ratio": False})(results)
