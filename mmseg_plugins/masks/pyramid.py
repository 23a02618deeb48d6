"""Maps of four strides from the one grid of a plain vision transformer, for decoders that expect a pyramid."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmseg.registry import MODELS
from torch import Tensor, nn

# B batch, W trunk width, C channels of a level, h w grid of patches, H W image

STRIDES = (4, 8, 16, 32)


@MODELS.register_module()
class SimplePyramid(nn.Module):
    """Resize a transformer's last map to strides 4, 8, 16 and 32, and refine each with a convolution.

    A simple feature pyramid in the sense of ViTDet (Li et al., ECCV 2022), with bilinear resizing, so that any patch
    side works. Optionally a shallow convolution of the image joins the two fine levels, whose detail patches have lost.

    Args:
        in_channels: W.
        channels: C of the four levels.
        detail_channels: channels of the image convolution; 0: none.
    """

    def __init__(
        self, *, in_channels: int, channels: Sequence[int] = (256, 256, 256, 256), detail_channels: int = 0
    ) -> None:
        super().__init__()
        if len(channels) != len(STRIDES):
            raise ValueError(f"Expected channels of {len(STRIDES)} levels, but got {tuple(channels)}.")
        self.channels = tuple(channels)
        self.levels = nn.ModuleList(_level(in_channels, count) for count in channels)
        self.detail = _Detail(detail_channels, channels[:2]) if detail_channels else None

    def forward(self, trunk_BWhw: Tensor, images: Tensor) -> list[Tensor]:
        """Build the levels.

        Args:
            trunk_BWhw: the transformer's map.
            images: (B, 3, H, W) normalised and padded, what the map was made of.

        Returns:
            Maps of strides 4, 8, 16, 32 of the image, sides rounded up.
        """
        maps = []
        for stride, level in zip(STRIDES, self.levels, strict=True):
            size = tuple(math.ceil(side / stride) for side in images.shape[-2:])
            maps.append(level(_resize(trunk_BWhw, size)))
        if self.detail is not None:
            fine = self.detail(images, [tuple(part.shape[-2:]) for part in maps[:2]])
            maps[:2] = [part + extra for part, extra in zip(maps[:2], fine, strict=True)]
        return maps


class _Detail(nn.Module):
    """A stem of two strided convolutions on the image, and a third for stride 8."""

    def __init__(self, width: int, channels: Sequence[int]) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(width, width, 3, stride=2, padding=1),
            nn.GELU(),
        )
        self.down = nn.Sequential(nn.Conv2d(width, width, 3, stride=2, padding=1), nn.GELU())
        self.project = nn.ModuleList(nn.Conv2d(width, count, 1) for count in channels)

    def forward(self, images: Tensor, sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
        stride4 = self.stem(images)
        parts = zip(self.project, (stride4, self.down(stride4)), sizes, strict=True)
        return [_resize(project(part), size) for project, part, size in parts]


def _level(width: int, channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(width, channels, 1, bias=False),
        nn.GroupNorm(1, channels),
        nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        nn.GroupNorm(1, channels),
    )


def _resize(part: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, averaging where it shrinks."""
    if tuple(part.shape[-2:]) == size:
        return part
    shrinks = part.shape[-2] > size[0]
    with torch.autocast(part.device.type, enabled=False):
        return F.interpolate(part.float(), size, mode="bilinear", align_corners=False, antialias=shrinks)
