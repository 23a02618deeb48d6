"""FOUND: a foreground mask from DINO's keys and one 1x1 convolution.

Siméoni et al.: "Unsupervised Object Localization: Observing the Background to Discover Objects", CVPR 2023 (arXiv
2212.07834).

B batch, W width of DINO, H W image, h w grid.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mmseg_plugins.towers.dino import DinoConfig, DinoViT
from mmseg_plugins.towers.files import read_tensors
from mmseg_plugins.towers.layouts import compare_keys

_WRAPPER = "decoder"


class FoundDecoder(nn.Module):
    """The trained part: foreground probability of each patch from DINO's keys.

    Args:
        width: channels of the keys.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.decoder = nn.Conv2d(width, 1, 1)

    def forward(self, key_BWhw: Tensor) -> Tensor:
        """(B, W, h, w) keys of DINO's last block, heads side by side -> (B, 1, h, w) probability of foreground."""
        return self.decoder(key_BWhw).sigmoid()

    def load_published(self, source: str | Path | Mapping[str, Any]) -> None:
        """Fill the convolution from the published file, ``{decoder: {weight, bias}}``.

        Args:
            source: the file, or its content.

        Raises:
            FileNotFoundError: if the file does not exist.
            ValueError: if it is no such file, or belongs to another width.
        """
        is_content = isinstance(source, Mapping)
        content = source if is_content else read_tensors(source)
        shown = "the given weights" if is_content else str(source)
        tensors = content.get(_WRAPPER)
        if not isinstance(tensors, Mapping):
            raise ValueError(
                f"{shown} is not FOUND's decoder: expected the entry {_WRAPPER!r} with weight and bias, but there is "
                f"{', '.join(map(str, list(content)[:5])) or 'nothing'}."
            )
        compare_keys(self.decoder.state_dict(), tensors, what=f"FOUND's decoder ({shown})")
        self.decoder.load_state_dict(tensors)


class Found(nn.Module):
    """DINO and the decoder.

    Args:
        dino: sizes of the transformer, or the name of a published model; the release uses ``dino_vits8``.
    """

    def __init__(self, dino: DinoConfig | str = "dino_vits8") -> None:
        super().__init__()
        self.dino = DinoViT(dino)
        self.head = FoundDecoder(self.dino.width)

    def forward(self, image_B3HW: Tensor) -> Tensor:
        """Return (B, 1, h, w) probabilities of foreground.

        Args:
            image_B3HW: (B, 3, H, W), normalised with ImageNet's statistics.
        """
        return self.head(self.dino.features(image_B3HW).key)
