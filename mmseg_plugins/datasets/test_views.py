"""Views of a test image at several scales, as fractions of the test scale."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmcv.transforms import TestTimeAug
from mmseg.registry import TRANSFORMS

_RATIOS = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
_LAST_STEPS = ({"type": "LoadLabelMap"}, {"type": "PackSegInputs"})


@TRANSFORMS.register_module()
class MultiScaleFlip(TestTimeAug):
    """Test-time augmentation by ratios *of the test scale*, each with and without a horizontal flip.

    This is what multi-scale figures are published with. ``Resize(scale_factor=ratio)`` in a ``TestTimeAug`` is
    something else: it scales the original image, whatever its size.

    Args:
        scale: (width, height) of the test pipeline's ``Resize``, in pixels; ``tools/test.py --tta`` fills it in.
        ratios: of the scale; products are rounded down.
        flip: whether each scale is also flipped.
        transforms: configs of the steps behind resize and flip; None: ``LoadLabelMap``, ``PackSegInputs``.
        resize: further options of ``Resize``, such as its backend; None: ``keep_ratio=True``.

    Raises:
        ValueError: if there is no ratio, or one is not positive.
    """

    def __init__(
        self,
        *,
        scale: tuple[int, int],
        ratios: Sequence[float] = _RATIOS,
        flip: bool = True,
        transforms: Sequence[Mapping[str, Any]] | None = None,
        resize: Mapping[str, Any] | None = None,
    ) -> None:
        if not ratios or min(ratios) <= 0:
            raise ValueError(f"expected ratios above 0, at least one, but got {list(ratios)}.")
        options = {"keep_ratio": True} if resize is None else dict(resize)
        resizes = [
            {**options, "type": "Resize", "scale": (int(scale[0] * ratio), int(scale[1] * ratio))} for ratio in ratios
        ]
        flips = [{"type": "RandomFlip", "prob": probability} for probability in ((0.0, 1.0) if flip else (0.0,))]
        last = _LAST_STEPS if transforms is None else transforms
        super().__init__(transforms=[resizes, flips, *[[dict(step)] for step in last]])
