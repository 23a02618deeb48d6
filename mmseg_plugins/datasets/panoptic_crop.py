"""Large-scale jitter, crop and padding of image, segment map and instance masks in one step."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform
from mmseg.registry import TRANSFORMS
from numpy.typing import NDArray
from PIL import Image

_PADDING = {"gt_panoptic_map": 0, "gt_masks": 0}  # void, outside; semantic maps take the ignore value
_EVERYTHING = (slice(None), slice(None))


@TRANSFORMS.register_module()
class LargeScaleJitterCrop(BaseTransform):
    """Resize by a random factor and cut or fill to a fixed size, as FC-CLIP and Mask2Former train on segments.

    With s ~ U(``scale_range``) the image is scaled by min(h s / H, w s / W), the sides rounded, so that it fits into s
    times the crop: images bilinearly by PIL (antialiased when shrinking), maps and masks by the nearest pixel. Where a
    side is then too long, the window starts at round(u (L - l)) with one u ~ U(0, 1) for both axes; where it is too
    short, the image is filled at the right and the bottom, before normalisation, and no padding pixel belongs to a
    segment.

    Reads and changes ``img``, every map of ``seg_fields`` and the instance masks ``gt_masks``; sets ``img_shape``,
    ``pad_shape``, ``scale_factor`` and, with ``flip_prob``, ``flip`` and ``flip_direction``. Numbers come from NumPy's
    global generator, which mmengine seeds per worker.

    Args:
        size: (h, w) of the result.
        scale_range: bounds of s; (1, 1) takes no jitter.
        pad_value: of the image.
        ignore_index: padding of semantic maps; segment maps get 0, void.
        flip_prob: how often everything is mirrored left to right first. For instance masks, which mmseg's
            ``RandomFlip`` leaves as they are.

    Raises:
        ValueError: if a size or bound is not positive, or ``flip_prob`` is no probability.
    """

    def __init__(
        self,
        *,
        size: tuple[int, int] = (1024, 1024),
        scale_range: tuple[float, float] = (0.1, 2.0),
        pad_value: int = 128,
        ignore_index: int = 255,
        flip_prob: float = 0.0,
    ) -> None:
        if min(size) < 1 or not 0 < scale_range[0] <= scale_range[1]:
            raise ValueError(
                f"expected a size of at least one pixel and 0 < smallest <= largest scale, "
                f"but got {tuple(size)} and {tuple(scale_range)}."
            )
        if not 0 <= flip_prob <= 1:
            raise ValueError(f"expected flip_prob to be a probability, 0 to 1, but got {flip_prob}.")
        self.size, self.scale_range = tuple(size), tuple(scale_range)
        self.pad_value, self.ignore_index, self.flip_prob = pad_value, ignore_index, flip_prob

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Jitter, crop and pad one sample.

        Raises:
            ValueError: if a map or mask has another size than the image, or another transform has flipped the image
                but not its instance masks.
        """
        planes = [*results.get("seg_fields", ()), *(("gt_masks",) if "gt_masks" in results else ())]
        self._check(results, planes)
        if self.flip_prob:
            self._flip(results, planes)
        height, width = results["img"].shape[:2]
        scale, place = np.random.uniform(*self.scale_range), np.random.random()
        new_size = self.scaled_size((height, width), scale)
        window = tuple(_window(length, wanted, place) for length, wanted in zip(new_size, self.size, strict=True))
        results["img"] = self._fill(resize_image(results["img"], new_size)[window], self.pad_value, axis=0)
        for field in planes:
            padding = _PADDING.get(field, self.ignore_index)
            results[field] = self._fill(resize_map(results[field], new_size, window), padding, axis=-2)
        results["img_shape"] = results["pad_shape"] = self.size
        results["scale_factor"] = (new_size[1] / width, new_size[0] / height)
        return results

    def _check(self, results: dict[str, Any], planes: Sequence[str]) -> None:
        size = results["img"].shape[:2]
        where = results.get("img_path", "an image")
        for field in planes:
            if results[field].shape[-2:] != size:
                raise ValueError(
                    f"{field} of {where} is {results[field].shape[-2:]}, but the image is {size} (H, W). Resize both "
                    "or neither in front of this transform."
                )
        if "gt_masks" in planes and results.get("flip"):
            raise ValueError(
                f"the image of {where} was flipped, but RandomFlip leaves instance masks (gt_masks) as they are. Take "
                "it out of the pipeline and set flip_prob here."
            )

    def _flip(self, results: dict[str, Any], planes: Sequence[str]) -> None:
        results["flip"] = bool(np.random.random() < self.flip_prob)
        results["flip_direction"] = "horizontal" if results["flip"] else None
        if results["flip"]:
            results["img"] = np.ascontiguousarray(results["img"][:, ::-1])
            for field in planes:
                results[field] = results[field][..., ::-1]

    def scaled_size(self, size: tuple[int, int], scale: float) -> tuple[int, int]:
        """Return (height, width) of an image scaled to fit into ``scale`` times the crop, at least one pixel each."""
        factor = min(wanted * scale / length for wanted, length in zip(self.size, size, strict=True))
        return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))

    def _fill(self, array: NDArray, padding: int, *, axis: int) -> NDArray:
        """Append what is missing at the bottom (``axis`` is the rows') and at the right."""
        missing = np.zeros((array.ndim, 2), dtype=np.int64)
        missing[[axis, axis + 1], 1] = [self.size[0] - array.shape[axis], self.size[1] - array.shape[axis + 1]]
        return np.pad(array, missing, constant_values=padding) if missing.any() else array.copy()


def _window(length: int, wanted: int, place: float) -> slice:
    start = round(place * (length - wanted)) if length > wanted else 0
    return slice(start, start + wanted)


def resize_image(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize (H, W, 3) uint8 to (h, w) bilinearly with PIL, whose filter widens when shrinking."""
    if image.shape[:2] == tuple(size):
        return image
    return np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR))


def resize_map(labels: NDArray, size: tuple[int, int], window: tuple[slice, slice] = _EVERYTHING) -> NDArray:
    """Resize (..., H, W) integer maps to (h, w); every pixel takes the value at its centre.

    Args:
        labels: maps or masks.
        size: (h, w).
        window: rows and columns of the result to make; the rest is never there.
    """
    if labels.shape[-2:] == tuple(size):
        return labels[(..., *window)]
    rows, columns = (
        _nearest(have, wanted)[part] for have, wanted, part in zip(labels.shape[-2:], size, window, strict=True)
    )
    return labels[..., rows[:, None], columns[None, :]]


def _nearest(have: int, wanted: int) -> NDArray[np.int64]:
    return ((2 * np.arange(wanted) + 1) * have // (2 * wanted)).clip(max=have - 1)
