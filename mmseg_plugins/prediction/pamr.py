"""PAMR, pixel-adaptive refinement of class maps by the colours of the image.

Araslanov, Roth: "Single-Stage Semantic Segmentation from Image Labels", CVPR 2020, section 4.3; the settings used here
are those of NACLIP and its descendants. Every pixel takes the average of its neighbours, weighted by how much they look
like it, several times over. The weights depend on the image alone, so class maps go through it in any portions.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# C class maps, P neighbours of a pixel (8 for each dilation), H W image

_AROUND = tuple((row, column) for row in (-1, 0, 1) for column in (-1, 0, 1))
_NEIGHBOURS = tuple(offset for offset in _AROUND if offset != (0, 0))
_SCALE = 0.1  # share of the standard deviation that one unit of colour difference is measured in
_EPS = 1e-8


@dataclass(frozen=True)
class PAMR:
    """The settings of a refinement.

    Args:
        steps: how often every pixel is averaged; 0 is off.
        dilations: distances, in pixels, of the eight neighbours taken at each of them.

    Raises:
        ValueError: if steps are negative, or a dilation is below 1 or missing.
    """

    steps: int = 10
    dilations: tuple[int, ...] = (8, 16)

    def __post_init__(self) -> None:
        object.__setattr__(self, "dilations", tuple(self.dilations))  # configuration files hand over lists
        if self.steps < 0 or not self.dilations or min(self.dilations) < 1:
            raise ValueError(
                f"PAMR needs steps of 0 or more and at least one dilation of 1 or more, but got steps {self.steps}, "
                f"dilations {self.dilations}."
            )

    def guide(self, image: Tensor, size: tuple[int, int] | None = None) -> "GuidedRefinement":
        """Look at an image.

        Args:
            image: (3, h, w) normalised; resized bilinearly (align_corners False) to ``size``.
            size: (H, W) of the maps to refine; None: the image's own.

        Returns:
            The refinement of class maps of this image.

        Raises:
            ValueError: if the image is not (3, h, w).
        """
        if image.ndim != 3 or image.shape[0] != 3:
            raise ValueError(f"expected image to be (3, h, w), but got {tuple(image.shape)}.")
        image = image.float()
        if size is not None and tuple(image.shape[1:]) != tuple(size):
            image = _resize_guide(image, tuple(size))
        return GuidedRefinement(pamr_affinity(image, self.dilations), self.steps, self.dilations)


@dataclass(frozen=True)
class GuidedRefinement:
    """PAMR with the weights of one image.

    Args:
        affinity: (P, H, W) weights, float32.
        steps: how often to average.
        dilations: those of the weights.
    """

    affinity: Tensor
    steps: int
    dilations: tuple[int, ...]

    def __call__(self, maps: Tensor) -> Tensor:
        """Refine class maps, each for itself.

        Args:
            maps: (C, h, w), any float type; of another size than the image they are first resized (bilinear,
                align_corners True).

        Returns:
            (C, H, W) float32.
        """
        maps = resize_maps(maps, tuple(self.affinity.shape[1:]))
        for _ in range(self.steps):
            maps = average_neighbours(maps, self.affinity, self.dilations)
        return maps


def _resize_guide(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize an image so that the number of CPU threads does not show in the weights.

    On several threads torch takes another kernel, which rounds differently. Where the image is of one colour the
    deviation is nothing but rounding, and with it the weights: one thread gives the published results everywhere.
    """
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        return F.interpolate(image[None], size, mode="bilinear", align_corners=False)[0]
    finally:
        torch.set_num_threads(threads)


def resize_maps(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bring class maps (C, h, w) to the image's size as PAMR does: bilinear, corners aligned; float32."""
    if tuple(maps.shape[1:]) == size:
        return maps.float()
    return F.interpolate(maps[None].float(), size, mode="bilinear", align_corners=True)[0]


def local_deviation(image: Tensor, dilations: Sequence[int]) -> Tensor:
    """Standard deviation of each channel over the 3 x 3 windows of all dilations.

    Args:
        image: (3, H, W).
        dilations: distances in pixels.

    Returns:
        (3, H, W), unbiased over 9 values for each dilation; the pixel itself counts once for each.
    """
    count = len(_AROUND) * len(dilations)
    # Of differences to the pixel itself, which are exact where all is nearly of one colour: there the deviation is as
    # small as rounding errors, and all weights hang on it.
    mean = sum(value - image for value in _shifted(image, dilations, _AROUND)) / count
    squares = sum((value - image - mean).square() for value in _shifted(image, dilations, _AROUND))
    return (squares / (count - 1)).sqrt()


def pamr_affinity(image: Tensor, dilations: Sequence[int]) -> Tensor:
    """Weights of every pixel's neighbours.

    Args:
        image: (3, H, W) float.
        dilations: distances in pixels.

    Returns:
        (P, H, W), sums of 1 over P; dilation by dilation, within one the eight neighbours row by row. Beyond the
        border the nearest pixel stands for the neighbour.
    """
    spread = _EPS + _SCALE * local_deviation(image, dilations)
    scores = [-((image - value).abs() / spread).mean(0) for value in _shifted(image, dilations, _NEIGHBOURS)]
    return torch.stack(scores).softmax(0)


def average_neighbours(maps: Tensor, affinity: Tensor, dilations: Sequence[int]) -> Tensor:
    """One step: every pixel becomes the weighted average of its neighbours.

    Args:
        maps: (C, H, W) float32.
        affinity: (P, H, W).
        dilations: those of the weights.

    Returns:
        (C, H, W).
    """
    total = torch.zeros_like(maps)
    for weights, value in zip(affinity, _shifted(maps, dilations, _NEIGHBOURS), strict=True):
        total.addcmul_(value, weights)
    return total


def _shifted(maps: Tensor, dilations: Sequence[int], offsets: Sequence[tuple[int, int]]) -> Iterator[Tensor]:
    """The maps as seen from each neighbour, views of one copy with a repeated border."""
    margin, (height, width) = max(dilations), maps.shape[-2:]
    padded = F.pad(maps[None], (margin, margin, margin, margin), mode="replicate")[0]
    for dilation in dilations:
        for row, column in offsets:
            top, left = margin + row * dilation, margin + column * dilation
            yield padded[:, top : top + height, left : left + width]
