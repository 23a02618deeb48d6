"""From backbone stages to mask features: deformable encoder over three levels, then one step of a feature pyramid."""

# B batch, W encoder channels, M channels of the mask features, S tokens of all levels, h w grid

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmseg_plugins.masks.mask2former.deformable_attention import DeformableAttention, pixel_centres
from mmseg_plugins.masks.mask2former.deformable_sampling import Backend
from mmseg_plugins.masks.mask2former.positions import sine_positions

_NUM_LEVELS = 3  # deformable levels: strides 32, 16 and 8


@dataclass(frozen=True)
class DecodedPixels:
    """Output of the pixel decoder.

    Attributes:
        mask_features: (B, M, h4, w4), stride 4.
        sources: three maps (B, W, h, w), coarsest first: strides 32, 16, 8.
    """

    mask_features: Tensor
    sources: list[Tensor]


class DeformableEncoderLayer(nn.Module):
    """Deformable self-attention and a feed-forward block, normalised after each.

    Args:
        width: channels.
        heads: attention heads.
        points: samples per head and level.
        ffn: width of the feed-forward block.
        backend: of the sampling.
    """

    def __init__(self, *, width: int, heads: int, points: int, ffn: int, backend: Backend = "auto") -> None:
        super().__init__()
        self.self_attn = DeformableAttention(
            width=width, heads=heads, levels=_NUM_LEVELS, points=points, backend=backend
        )
        self.norm1 = nn.LayerNorm(width)
        self.linear1 = nn.Linear(width, ffn)
        self.linear2 = nn.Linear(ffn, width)
        self.norm2 = nn.LayerNorm(width)

    def forward(
        self, tokens: Tensor, positions: Tensor, references: Tensor, sizes: Sequence[tuple[int, int]]
    ) -> Tensor:
        """Map (B, S, W) tokens to tokens; ``positions`` (1, S, W) is added to the queries only."""
        tokens = self.norm1(tokens + self.self_attn(tokens + positions, references, tokens, sizes))
        return self.norm2(tokens + self.linear2(F.relu(self.linear1(tokens))))


class DeformableEncoder(nn.Module):
    """The layers, under the published parameter names.

    Args:
        num_layers: how many.
        width, heads, points, ffn, backend: see :class:`DeformableEncoderLayer`.
    """

    def __init__(
        self, *, num_layers: int, width: int, heads: int, points: int, ffn: int, backend: Backend = "auto"
    ) -> None:
        super().__init__()
        layer = {"width": width, "heads": heads, "points": points, "ffn": ffn, "backend": backend}
        self.level_embed = nn.Parameter(torch.empty(_NUM_LEVELS, width))
        self.encoder = nn.Module()
        self.encoder.layers = nn.ModuleList(DeformableEncoderLayer(**layer) for _ in range(num_layers))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise as published."""
        for parameter in self.encoder.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        for layer in self.encoder.layers:
            layer.self_attn.reset_parameters()
        nn.init.normal_(self.level_embed)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Encode three maps (B, W, h, w), coarsest first, into (B, S, W) tokens, level after level."""
        sizes = [(int(part.shape[-2]), int(part.shape[-1])) for part in maps]
        tokens = torch.cat([part.flatten(2).transpose(1, 2) for part in maps], 1)
        positions = torch.cat([self._positions(size, level, tokens) for level, size in enumerate(sizes)], 1)
        references = pixel_centres(sizes, tokens.device)
        for layer in self.encoder.layers:
            tokens = layer(tokens, positions, references, sizes)
        return tokens

    def _positions(self, size: tuple[int, int], level: int, like: Tensor) -> Tensor:
        grid = sine_positions(*size, like.shape[-1], device=like.device, dtype=like.dtype)
        return grid.flatten(2).transpose(1, 2) + self.level_embed[level]


class NormedConv(nn.Conv2d):
    """A convolution without bias followed by group normalisation, whose parameters are named ``norm``.

    Args:
        in_channels, out_channels: of the convolution.
        kernel_size: odd; the size of the map stays.
        groups: of the normalisation.
    """

    def __init__(self, in_channels: int, out_channels: int, *, kernel_size: int, groups: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
        self.norm = nn.GroupNorm(groups, out_channels)
        nn.init.kaiming_uniform_(self.weight, a=1)

    def forward(self, maps: Tensor) -> Tensor:
        """Map (B, in, h, w) to (B, out, h, w)."""
        return self.norm(super().forward(maps))


class PixelDecoder(nn.Module):
    """Deformable encoder over res5, res4, res3 and a pyramid step to res2 (Mask2Former, arXiv 2112.01527).

    Args:
        stage_channels: channels of res2, res3, res4, res5.
        width: channels of the encoder.
        mask_dim: channels of the mask features.
        heads: attention heads.
        points: samples per head and level.
        ffn: width of the feed-forward blocks.
        num_layers: encoder layers.
        norm_groups: groups of the group normalisations.
        float32: run all of it outside autocast, as published; False keeps only the sampling out.
        backend: of the sampling.

    Raises:
        ValueError: if there are not four stages.
    """

    def __init__(
        self,
        *,
        stage_channels: Sequence[int],
        width: int = 256,
        mask_dim: int = 256,
        heads: int = 8,
        points: int = 4,
        ffn: int = 1024,
        num_layers: int = 6,
        norm_groups: int = 32,
        float32: bool = True,
        backend: Backend = "auto",
    ) -> None:
        super().__init__()
        if len(stage_channels) != _NUM_LEVELS + 1:
            raise ValueError(f"expected the channels of res2, res3, res4 and res5, but got {list(stage_channels)}.")
        self.float32, self.stage_channels = float32, list(stage_channels)
        self.input_proj = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, width, 1), nn.GroupNorm(norm_groups, width))
            for channels in reversed(stage_channels[1:])
        )
        self.transformer = DeformableEncoder(
            num_layers=num_layers, width=width, heads=heads, points=points, ffn=ffn, backend=backend
        )
        self.adapter_1 = NormedConv(stage_channels[0], width, kernel_size=1, groups=norm_groups)
        self.layer_1 = NormedConv(width, width, kernel_size=3, groups=norm_groups)
        self.mask_features = nn.Conv2d(width, mask_dim, 1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise the projections as published; the other parts do it themselves."""
        for projection in self.input_proj:
            nn.init.xavier_uniform_(projection[0].weight)
            nn.init.zeros_(projection[0].bias)
        nn.init.kaiming_uniform_(self.mask_features.weight, a=1)
        nn.init.zeros_(self.mask_features.bias)

    def forward(self, stages: Sequence[Tensor]) -> DecodedPixels:
        """Decode.

        Args:
            stages: res2 to res5, (B, C_i, h_i, w_i) at strides 4, 8, 16, 32.

        Raises:
            ValueError: if there are not four stages, or their channels are others.
        """
        channels = [stage.shape[1] for stage in stages]
        if channels != self.stage_channels:
            raise ValueError(
                f"expected the stages res2, res3, res4 and res5 with {self.stage_channels} channels, but got maps with "
                f"{channels}. Set stage_channels to those of the backbone or pyramid."
            )
        with self._precision(stages[0].device.type):
            if self.float32:
                stages = [stage.to(self.mask_features.weight.dtype) for stage in stages]
            return self._decode(stages)

    def _precision(self, device_type: str) -> AbstractContextManager:
        return torch.autocast(device_type, enabled=False) if self.float32 else nullcontext()

    def _decode(self, stages: Sequence[Tensor]) -> DecodedPixels:
        coarse_first = list(reversed(stages[1:]))
        projected = [project(stage) for project, stage in zip(self.input_proj, coarse_first, strict=True)]
        tokens = self.transformer(projected)
        lengths = [part.shape[-2] * part.shape[-1] for part in projected]
        sources = [
            part.transpose(1, 2).unflatten(2, tuple(grid.shape[-2:]))
            for part, grid in zip(tokens.split(lengths, 1), projected, strict=True)
        ]
        lateral = self.adapter_1(stages[0])
        enlarged = F.interpolate(sources[-1], size=lateral.shape[-2:], mode="bilinear", align_corners=False)
        fine = F.relu(self.layer_1(lateral + enlarged.to(lateral.dtype)))
        return DecodedPixels(mask_features=self.mask_features(fine), sources=sources)
