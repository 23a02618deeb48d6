"""Maps of four strides from the one grid of a ViT, where a mask decoder expects a convolutional backbone's stages."""

# B batch, W channels of the grid, h w grid, H W image

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_STRIDES = (4, 8, 16, 32)
_LEAST_CHANNELS = 32


class SimplePyramid(nn.Module):
    """ViTDet's simple pyramid (arXiv 2203.16527): transposed convolutions upwards, max-pooling downwards.

    Args:
        width: channels W of the grid.
        stride: pixels per place of the grid; the nearest power of two counts.
        detail_channels: channels of a small convolutional stem on the image that is joined to the finest map, for
            borders that a coarse grid cannot have; 0: no stem.

    Attributes:
        stage_channels: channels of the four maps, as :class:`~mmseg_plugins.masks.mask2former.head.Mask2FormerHead`
            asks for them.
    """

    def __init__(self, *, width: int, stride: int, detail_channels: int = 0) -> None:
        super().__init__()
        steps = [round(math.log2(stride / target)) for target in _STRIDES]
        self.stages = nn.ModuleList(_resample(width, step) for step in steps)
        self.stage_channels = [_channels(width, step) for step in steps]
        self.detail = _stem(detail_channels) if detail_channels else None
        self.stage_channels[0] += detail_channels

    def forward(self, trunk: Tensor, images: Tensor | None = None) -> list[Tensor]:
        """Build the maps.

        Args:
            trunk: (B, W, h, w).
            images: (B, 3, H, W) normalised; read by the stem only.

        Returns:
            res2 to res5, finest first.

        Raises:
            ValueError: if there is a stem and no image.
        """
        stages = [stage(trunk) for stage in self.stages]
        if self.detail is None:
            return stages
        if images is None:
            raise ValueError("a pyramid with detail_channels needs the images as well.")
        detail = self.detail(images)
        if detail.shape[-2:] != stages[0].shape[-2:]:
            detail = F.interpolate(detail, size=stages[0].shape[-2:], mode="bilinear", align_corners=False)
        stages[0] = torch.cat([stages[0], detail.to(stages[0].dtype)], 1)
        return stages


def _channels(width: int, step: int) -> int:
    return max(width >> max(step, 0), min(width, _LEAST_CHANNELS))


def _resample(width: int, step: int) -> nn.Module:
    """Enlarge ``2 ** step`` times with learned steps, or shrink by maxima."""
    if step <= 0:
        return nn.MaxPool2d(2**-step, ceil_mode=True) if step else nn.Identity()
    layers: list[nn.Module] = []
    for done in range(step):
        before, after = _channels(width, done), _channels(width, done + 1)
        layers += [nn.ConvTranspose2d(before, after, 2, stride=2)]
        if done < step - 1:
            layers += [nn.GroupNorm(1, after), nn.GELU()]
    return nn.Sequential(*layers)


def _stem(channels: int) -> nn.Module:
    """Two strided convolutions: stride 4."""
    return nn.Sequential(
        nn.Conv2d(3, channels, 3, stride=2, padding=1),
        nn.GroupNorm(1, channels),
        nn.GELU(),
        nn.Conv2d(channels, channels, 3, stride=2, padding=1),
        nn.GroupNorm(1, channels),
        nn.GELU(),
    )
