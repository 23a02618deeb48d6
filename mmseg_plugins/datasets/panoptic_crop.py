"""Large-scale jitter, crop and padding of image and segment map in one step."""

from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform
from mmseg.registry import TRANSFORMS
from numpy.typing import NDArray
from PIL import Image

_PADDING = {"gt_panoptic_map": 0}  # void; semantic maps take the ignore value


@TRANSFORMS.register_module()
class LargeScaleJitterCrop(BaseTransform):
    """Resize by a random factor and cut or fill to a fixed size, as FC-CLIP and Mask2Former train on panoptic data.

    With s ~ U(``scale_range``) the image is scaled by min(h s / H, w s / W), the sides rounded, so that it fits into s
    times the crop: images bilinearly by PIL (antialiased when shrinking), maps by the nearest pixel. Where a side is
    then too long, the window starts at round(u (L - l)) with one u ~ U(0, 1) for both axes; where it is too short, the
    image is filled at the right and the bottom, before normalisation, and no padding pixel belongs to a segment.

    Reads and changes ``img`` and every map of ``seg_fields``; sets ``img_shape``, ``pad_shape``, ``scale_factor``.
    Numbers come from NumPy's global generator, which mmengine seeds per worker.

    Args:
        size: (h, w) of the result.
        scale_range: bounds of s; (1, 1) takes no jitter.
        pad_value: of the image.
        ignore_index: padding of semantic maps; segment maps get 0, void.

    Raises:
        ValueError: if a size or bound is not positive.
    """

    def __init__(
        self,
        *,
        size: tuple[int, int] = (1024, 1024),
        scale_range: tuple[float, float] = (0.1, 2.0),
        pad_value: int = 128,
        ignore_index: int = 255,
    ) -> None:
        if min(size) < 1 or not 0 < scale_range[0] <= scale_range[1]:
            raise ValueError(
                f"expected a size of at least one pixel and 0 < smallest <= largest scale, "
                f"but got {tuple(size)} and {tuple(scale_range)}."
            )
        self.size, self.scale_range = tuple(size), tuple(scale_range)
        self.pad_value, self.ignore_index = pad_value, ignore_index

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Jitter, crop and pad one sample.

        Raises:
            ValueError: if a map has another size than the image, or the sample has instance masks.
        """
        if "gt_masks" in results:
            raise ValueError(
                "LargeScaleJitterCrop carries maps, not instance masks (gt_masks), and neither does RandomFlip. "
                "Train on panoptic ground truth (LoadPanopticSegments)."
            )
        height, width = results["img"].shape[:2]
        scale, place = np.random.uniform(*self.scale_range), np.random.random()
        new_size = self.scaled_size((height, width), scale)
        window = [_window(length, wanted, place) for length, wanted in zip(new_size, self.size, strict=True)]
        results["img"] = self._fit(resize_image(results["img"], new_size), window, self.pad_value)
        for field in results.get("seg_fields", ()):
            if results[field].shape != (height, width):
                raise ValueError(
                    f"{field} of {results.get('img_path', 'an image')} is {results[field].shape}, but the image is "
                    f"{(height, width)} (H, W). Resize both or neither in front of this transform."
                )
            padding = _PADDING.get(field, self.ignore_index)
            results[field] = self._fit(resize_map(results[field], new_size), window, padding)
        results["img_shape"] = results["pad_shape"] = self.size
        results["scale_factor"] = (new_size[1] / width, new_size[0] / height)
        return results

    def scaled_size(self, size: tuple[int, int], scale: float) -> tuple[int, int]:
        """Return (height, width) of an image scaled to fit into ``scale`` times the crop, at least one pixel each."""
        factor = min(wanted * scale / length for wanted, length in zip(self.size, size, strict=True))
        return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))

    def _fit(self, array: NDArray, window: list[slice], padding: int) -> NDArray:
        cut = array[window[0], window[1]]
        missing = [(0, wanted - have) for wanted, have in zip(self.size, cut.shape[:2], strict=True)]
        missing += [(0, 0)] * (array.ndim - 2)
        return np.pad(cut, missing, constant_values=padding) if any(after for _, after in missing) else cut.copy()


def _window(length: int, wanted: int, place: float) -> slice:
    start = round(place * (length - wanted)) if length > wanted else 0
    return slice(start, start + wanted)


def resize_image(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize (H, W, 3) uint8 to (h, w) bilinearly with PIL, whose filter widens when shrinking."""
    if image.shape[:2] == tuple(size):
        return image
    return np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR))


def resize_map(labels: NDArray, size: tuple[int, int]) -> NDArray:
    """Resize an (H, W) integer map to (h, w); every pixel takes the value at its centre."""
    if labels.shape == tuple(size):
        return labels
    rows, columns = (_nearest(have, wanted) for have, wanted in zip(labels.shape, size, strict=True))
    return labels[rows[:, None], columns[None, :]]


def _nearest(have: int, wanted: int) -> NDArray[np.int64]:
    return ((2 * np.arange(wanted) + 1) * have // (2 * wanted)).clip(max=have - 1)
