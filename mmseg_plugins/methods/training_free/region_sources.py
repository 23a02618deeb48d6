"""Where region maps come from: masks of Segment Anything or of annotations, files, colours, or any function.

A source is called with an image and its data sample and returns an (h, w) int64 map at any size, in which the smallest
number stands for what is in no region.
"""

import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from mmseg.registry import MODELS, TASK_UTILS
from mmseg.structures import SegDataSample
from torch import Tensor

from mmseg_plugins.masks.proposals import ProposalRequest, ProposalSource

_REST = 0


class RegionSource(Protocol):
    """Makes the region map of an image."""

    def __call__(self, image_3HW: Tensor, sample: SegDataSample) -> Tensor:
        """Return the region map.

        Args:
            image_3HW: RGB on the 0..255 scale, the network's input without padding.
            sample: with the image's path and sizes in its metainfo.

        Returns:
            (h, w) int64 at any size; the smallest number stands for what is in no region.
        """


def describe_source(source: RegionSource | None) -> str:
    """Return what a source is printed as with results: what it says of itself, else its name."""
    kind = type(source)
    return getattr(source, "__name__", kind.__name__ if kind.__repr__ is object.__repr__ else repr(source))


@TASK_UTILS.register_module()
class MaskRegions:
    """Regions from a source of masks: Segment Anything's automatic masks, or the annotated ones.

    Masks are numbered from 1. Where several hold a pixel it belongs to the smallest of them, so that parts lie in front
    of the whole; a pixel in no mask is in no region.

    Args:
        proposals: a source of masks in mmseg's MODELS, ``dict(type='SamProposals', model='vit_h')`` or
            ``dict(type='OracleProposals', annotation='classes')``, or one that is built. Its rules ``overlaps`` and
            ``unclaimed`` are ``smallest`` and ``none`` unless they are given; with ``overlaps='keep'`` the first mask
            lies in front.

    Raises:
        ValueError: if it is no source of masks from images alone.
    """

    def __init__(self, proposals: Mapping[str, Any] | ProposalSource) -> None:
        if isinstance(proposals, Mapping):
            proposals = MODELS.build({"overlaps": "smallest", "unclaimed": "none", **proposals})
        if not isinstance(proposals, ProposalSource) or proposals.needs_stages:
            raise ValueError(
                f"regions need masks from images alone, but proposals of {type(proposals).__name__} come otherwise. "
                "Use dict(type='SamProposals', model='vit_h') or dict(type='OracleProposals', annotation='classes')."
            )
        self.proposals = proposals

    def __repr__(self) -> str:
        return f"{type(self.proposals).__name__}({self.proposals.extra_repr()})"

    def __call__(self, image_3HW: Tensor, sample: SegDataSample) -> Tensor:
        """Return the map of an image at the resolution of the masks: the image's, or that of annotations."""
        size = (image_3HW.shape[1], image_3HW.shape[2])
        request = ProposalRequest(
            images=image_3HW[None],
            image_sizes=[size],
            stages=None,
            text=None,
            data_samples=[sample],
            mean=(0.0, 0.0, 0.0),
            std=(1.0, 1.0, 1.0),
        )
        inside_QHW = self.proposals.propose(request)[0].mask_logits > 0
        regions = torch.full(inside_QHW.shape[1:], _REST, dtype=torch.int64, device=inside_QHW.device)
        for index in reversed(range(len(inside_QHW))):
            regions[inside_QHW[index]] = _REST + 1 + index
        return regions


@TASK_UTILS.register_module()
class FolderRegions:
    """Region maps made beforehand, a file for each image under its stem.

    Args:
        folder: where the files are: ``.npz`` (their first array), ``.npy``, or ``.png`` of 8 or 16 bits.
    """

    def __init__(self, folder: str | os.PathLike) -> None:
        self.folder = Path(folder)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.folder})"

    def __call__(self, image_3HW: Tensor, sample: SegDataSample) -> Tensor:
        """Read the map of ``img_path``.

        Raises:
            FileNotFoundError: if there is none; the message says what was looked for.
            ValueError: if a file is damaged or holds no map.
        """
        stem = Path(sample.metainfo.get("img_path", "unknown")).stem
        for suffix, read in _READERS.items():
            path = self.folder / f"{stem}{suffix}"
            if path.is_file():
                return torch.from_numpy(_read_map(path, read).astype(np.int64))
        raise FileNotFoundError(f"no region map {stem} ({', '.join(_READERS)}) in {self.folder}. Make it beforehand.")


def _read_map(path: Path, read: Callable[[Path], np.ndarray | None]) -> np.ndarray:
    try:
        content = read(path)
    except (ValueError, EOFError, OSError, IndexError, zipfile.BadZipFile) as error:
        raise ValueError(f"region map {path} cannot be read ({error}). Make it again.") from error
    if content is None or content.ndim != 2 or content.dtype.kind not in "bui":
        found = "nothing that can be read" if content is None else f"{content.dtype} of shape {content.shape}"
        raise ValueError(f"{path} holds no region map: expected one integer for each pixel, got {found}.")
    return content


def _read_npz(path: Path) -> np.ndarray:
    with np.load(path, allow_pickle=False) as content:
        return content[content.files[0]]


_READERS: dict[str, Callable[[Path], np.ndarray]] = {
    ".npz": _read_npz,
    ".npy": lambda path: np.load(path, allow_pickle=False),
    ".png": lambda path: cv2.imread(str(path), cv2.IMREAD_UNCHANGED),
}


@TASK_UTILS.register_module()
class ColourRegions:
    """Connected areas of one colour, for want of a mask generator: no published method's, for generated scenes.

    Args:
        spatial_radius: of the mean-shift filter that evens out texture, in pixels.
        colour_radius: of the same filter, on the 0..255 scale.
        step: colours are rounded to multiples of this before areas are told apart.
        least_share: smaller areas, as shares of the image, are in no region.
    """

    def __init__(
        self, spatial_radius: float = 6, colour_radius: float = 40, step: int = 24, least_share: float = 0.01
    ) -> None:
        self.spatial_radius, self.colour_radius = spatial_radius, colour_radius
        self.step, self.least_share = step, least_share

    def __repr__(self) -> str:
        radii = f"radii {self.spatial_radius} and {self.colour_radius}"
        return f"{type(self).__name__}({radii}, step {self.step}, least_share {self.least_share})"

    def __call__(self, image_3HW: Tensor, sample: SegDataSample) -> Tensor:
        """Return the (H, W) map of an image."""
        pixels = image_3HW.permute(1, 2, 0).clamp(0, 255).byte().cpu().numpy()
        smooth = cv2.pyrMeanShiftFiltering(np.ascontiguousarray(pixels), self.spatial_radius, self.colour_radius)
        levels = (smooth.astype(np.int64) + self.step // 2) // self.step
        codes = (levels * np.array([1, 1000, 1000000])).sum(axis=2)
        regions, count = np.full(codes.shape, _REST, dtype=np.int64), _REST
        for code in np.unique(codes):
            _, areas = cv2.connectedComponents((codes == code).astype(np.uint8), connectivity=4)
            for area in range(1, int(areas.max()) + 1):
                inside = areas == area
                if inside.sum() >= self.least_share * codes.size:
                    count += 1
                    regions[inside] = count
        return torch.from_numpy(regions)
