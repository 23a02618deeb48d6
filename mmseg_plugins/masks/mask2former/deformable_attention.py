"""Multi-scale deformable attention (Deformable DETR, arXiv 2010.04159, section 4.1)."""

# B batch, N queries, S tokens of all levels, W channels, A heads, L levels, P points

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmseg_plugins.masks.mask2former.deformable_sampling import Backend, deformable_sample


class DeformableAttention(nn.Module):
    """Each query reads a few points around its place from every level.

    Args:
        width: channels W.
        heads: attention heads A.
        levels: number of maps L.
        points: samples per head and level P.
        backend: see :func:`~mmseg_plugins.masks.mask2former.deformable_sampling.deformable_sample`.

    Raises:
        ValueError: if ``width`` is not a multiple of ``heads``.
    """

    def __init__(self, *, width: int, heads: int, levels: int, points: int, backend: Backend = "auto") -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of the {heads} heads.")
        self.heads, self.levels, self.points, self.backend = heads, levels, points, backend
        self.sampling_offsets = nn.Linear(width, heads * levels * points * 2)
        self.attention_weights = nn.Linear(width, heads * levels * points)
        self.value_proj = nn.Linear(width, width)
        self.output_proj = nn.Linear(width, width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise as published: every head looks in its own direction, point k at distance k+1."""
        for linear in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)
        for linear in (self.sampling_offsets, self.attention_weights):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)
        angles = torch.arange(self.heads, dtype=torch.float32) * (2 * math.pi / self.heads)
        directions = torch.stack([angles.cos(), angles.sin()], -1)
        directions = directions / directions.abs().amax(-1, keepdim=True)
        distances = torch.arange(1, self.points + 1, dtype=torch.float32)
        offsets = directions[:, None, None, :] * distances[None, None, :, None]
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.expand(-1, self.levels, -1, -1).flatten())

    def forward(self, query: Tensor, references: Tensor, memory: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
        """Attend.

        Args:
            query: (B, N, W), position included.
            references: (N, 2), x and y of each query as fractions of the image.
            memory: (B, S, W), the tokens of all levels.
            sizes: (h, w) of each level.

        Returns:
            (B, N, W).
        """
        form = (self.heads, self.levels, self.points)
        value = self.value_proj(memory).unflatten(-1, (self.heads, -1))
        offsets = self.sampling_offsets(query).unflatten(-1, (*form, 2))
        weights = self.attention_weights(query).unflatten(-1, (self.heads, -1)).float().softmax(-1)
        grid = torch.tensor([(width, height) for height, width in sizes], dtype=references.dtype).to(references.device)
        locations = references[:, None, None, None, :] + offsets.to(references.dtype) / grid[:, None, :]
        weights = weights.unflatten(-1, form[1:])
        return self.output_proj(deformable_sample(value, sizes, locations, weights, backend=self.backend))


def pixel_centres(sizes: Sequence[tuple[int, int]], device: torch.device | str = "cpu") -> Tensor:
    """Return x and y of every token's centre as fractions of its map, (S, 2) float32, level after level."""
    centres = []
    for height, width in sizes:
        rows = (torch.arange(height, dtype=torch.float32, device=device) + 0.5) / height
        columns = (torch.arange(width, dtype=torch.float32, device=device) + 0.5) / width
        centres.append(torch.stack([columns.repeat(height), rows.repeat_interleave(width)], -1))
    return torch.cat(centres)
