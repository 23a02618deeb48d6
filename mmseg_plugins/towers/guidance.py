"""Segment Anything's image encoder as a source of attention: what its last block attends to, and with which values."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmseg_plugins.towers.files import read_tensors, unwrap_state_dict
from mmseg_plugins.towers.layouts import compare_keys
from mmseg_plugins.towers.position import Grid
from mmseg_plugins.towers.weights import find_file

# B batch, S places of the grid that show the image, d head width, H W image

_MEAN, _STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
_LEADING = "image_encoder."
_BASE = {"depth": 12, "embed_dim": 768, "num_heads": 12, "global_attn_indexes": (2, 5, 8, 11)}


@dataclass(frozen=True)
class Guidance:
    """What the last block of an encoder attends to.

    Attributes:
        values: (B, heads, S, d).
        attention: (B, heads, S, S) softmax weights between places that show the image; rows sum to at most 1, the rest
            went to padding.
        grid: (h, w) with h * w = S.
    """

    values: Tensor
    attention: Tensor
    grid: Grid


class SamGuidance(nn.Module):
    """Segment Anything's image encoder.

    Args:
        pretrained: a Segment Anything file, or the name of a record (``sam_vit_b``); None: random weights.
        options: sizes of ``segment_anything``'s ``ImageEncoderViT`` that differ from ViT-B's.

    Raises:
        ImportError: if ``segment_anything`` is not installed.
    """

    mean, std = _MEAN, _STD

    def __init__(self, pretrained: str | Path | None = None, options: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.pretrained, self._is_loaded = pretrained, False
        self.encoder = _build_encoder({**_BASE, **(options or {})})

    def ensure_weights(self) -> None:
        """Load the weights that were named, once.

        Raises:
            FileNotFoundError: if a file does not exist and cannot be fetched.
            ValueError: if the weights do not fit.
        """
        if self._is_loaded or self.pretrained is None:
            return
        path = find_file(self.pretrained)
        state = unwrap_state_dict(read_tensors(path), path)
        encoder = {key.removeprefix(_LEADING): value for key, value in state.items() if key.startswith(_LEADING)}
        compare_keys(self.encoder.state_dict(), encoder, what=f"Segment Anything's image encoder ({path})")
        self.encoder.load_state_dict(encoder)
        self.note_loaded()

    def note_loaded(self) -> None:
        """Remember that a checkpoint has filled this model."""
        self._is_loaded = True

    @torch.no_grad()
    def forward(self, image_B3HW: Tensor) -> Guidance:
        """Look at images.

        Args:
            image_B3HW: (B, 3, H, W) normalised with this model's statistics; brought to its size by the longest side
                (bilinear, antialiased) and padded with zeros at the bottom and right.
        """
        side, patch = self.encoder.img_size, self.encoder.patch_embed.proj.kernel_size[0]
        scale = side / max(image_B3HW.shape[2:])
        size = tuple(max(round(length * scale), 1) for length in image_B3HW.shape[2:])
        resized = F.interpolate(image_B3HW, size, mode="bilinear", align_corners=False, antialias=True)
        x_BhwC = self.encoder.patch_embed(F.pad(resized, (0, side - size[1], 0, side - size[0])))
        if self.encoder.pos_embed is not None:
            x_BhwC = x_BhwC + self.encoder.pos_embed
        for block in self.encoder.blocks[:-1]:
            x_BhwC = block(x_BhwC)
        last = self.encoder.blocks[-1]
        grid = tuple(max(round(length / patch), 1) for length in size)
        return _attend(last.attn, last.norm1(x_BhwC), grid)


def _attend(attention: nn.Module, x_BhwC: Tensor, grid: Grid) -> Guidance:
    """Values and weights of a global attention with relative positions, at the places of the upper left ``grid``."""
    from segment_anything.modeling.image_encoder import add_decomposed_rel_pos

    batch, rows, columns, _ = x_BhwC.shape
    heads = attention.num_heads
    qkv = attention.qkv(x_BhwC).reshape(batch, rows * columns, 3, heads, -1).permute(2, 0, 3, 1, 4)
    q, k, v = qkv.flatten(1, 2).unbind(0)
    weights = (q * attention.scale) @ k.transpose(-2, -1)
    if attention.use_rel_pos:
        size = (rows, columns)
        weights = add_decomposed_rel_pos(weights, q, attention.rel_pos_h, attention.rel_pos_w, size, size)
    weights = weights.softmax(-1).unflatten(0, (batch, heads))
    place = torch.arange(rows * columns, device=q.device).view(rows, columns)[: grid[0], : grid[1]].flatten()
    values = v.unflatten(0, (batch, heads))[:, :, place]
    return Guidance(values, weights[:, :, place][..., place], grid)


def _build_encoder(sizes: dict[str, Any]) -> nn.Module:
    try:
        from segment_anything.modeling import ImageEncoderViT
    except ImportError as error:
        raise ImportError(
            "Trident's guidance needs segment_anything. Install it with: pip install 'mmseg_plugins[sam]'."
        ) from error
    defaults = {
        "img_size": 1024,
        "mlp_ratio": 4,
        "norm_layer": lambda width: nn.LayerNorm(width, eps=1e-6),
        "patch_size": 16,
        "qkv_bias": True,
        "use_rel_pos": True,
        "window_size": 14,
        "out_chans": 256,
    }
    return ImageEncoderViT(**{**defaults, **sizes})
