"""The two layers that are learnt: what belongs together, and what is an object."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from mmseg_plugins.methods.clip_dinoiser.pooling import at_least_float32

# B batch, W channels of CLIP's intermediate features, C channels of the descriptors, h w grid

PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]


class LearntLayers(nn.Module):
    """Two convolutions on CLIP's intermediate features, under the names of the published file.

    Args:
        in_channels: W.
        proj_channels: C.
        kernel_size: of the first convolution, odd; the grid stays as it is.
        padding_mode: of the first convolution.

    Raises:
        ValueError: if the kernel is even.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        proj_channels: int = 256,
        kernel_size: int = 3,
        padding_mode: PaddingMode = "replicate",
    ) -> None:
        super().__init__()
        if kernel_size % 2 != 1:
            raise ValueError(f"expected kernel_size to be odd, so that the grid stays, but got {kernel_size}.")
        self.obj_proj = nn.Conv2d(
            in_channels, proj_channels, kernel_size, padding=kernel_size // 2, padding_mode=padding_mode
        )
        self.bkg_decoder = nn.Conv2d(in_channels, 1, 1)

    def describe(self, features_BWhw: Tensor) -> Tensor:
        """Return descriptors of unit length, (B, C, h, w), in at least float32."""
        return F.normalize(at_least_float32(self.obj_proj(features_BWhw)), dim=1)

    def foreground_logits(self, features_BWhw: Tensor) -> Tensor:
        """Return logits of *foreground*, (B, 1, h, w): positive is an object, whatever the layer's name says.

        The features of every position are brought to unit length first.
        """
        return at_least_float32(self.bkg_decoder(F.normalize(features_BWhw, dim=1)))
