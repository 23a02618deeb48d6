"""Binary masks of one image as run lengths, which stay compressed until they are pooled.

Runs go down the columns and alternate between outside and inside, the first one being outside (COCO's order).
Q masks, S runs, h w mask grid.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmseg_plugins.ops import mask_pool_rle
from mmseg_plugins.ops._bits import decode_runs

# Logits of binary masks: their sigmoid is exactly 0 and 1, also in float32, and they fit into 8 bits.
INSIDE, OUTSIDE = 127, -127

_PIXELS_AT_A_TIME = 8_000_000


@dataclass(frozen=True)
class RunLengthMasks:
    """Masks of one image, compressed.

    Attributes:
        counts: (S,) int64 run lengths of all masks, each mask starting with a run outside.
        offsets: (Q + 1,) int64; mask q has ``counts[offsets[q]:offsets[q + 1]]``.
        size: (h, w) of the masks.

    Example:
        >>> masks = RunLengthMasks.from_masks(torch.tensor([[[False, True], [True, True]]]))
        >>> masks.counts, masks.areas
        (tensor([1, 3, 0]), tensor([3]))
    """

    counts: Tensor
    offsets: Tensor
    size: tuple[int, int]

    def __len__(self) -> int:
        return self.offsets.shape[0] - 1

    @classmethod
    def from_masks(cls, masks: Tensor) -> "RunLengthMasks":
        """Compress (Q, h, w) bool masks."""
        height, width = masks.shape[-2:]
        flat_QP = masks.bool().mT.flatten(1)
        before_QP = torch.cat([torch.zeros_like(flat_QP[:, :1]), flat_QP[:, :-1]], 1)
        owner, start = (flat_QP & ~before_QP).nonzero(as_tuple=True)
        # A run inside ends in front of the first pixel outside, or at the end of the mask.
        after_QP = torch.cat([flat_QP[:, 1:], torch.zeros_like(flat_QP[:, :1])], 1)
        stop = (flat_QP & ~after_QP).nonzero(as_tuple=True)[1] + 1
        return cls._from_pieces(start, stop, owner, len(masks), (height, width))

    @classmethod
    def from_counts(cls, counts: Sequence[Sequence[int]], size: tuple[int, int]) -> "RunLengthMasks":
        """Wrap uncompressed run lengths, a list for each mask.

        Raises:
            ValueError: if the runs of a mask do not cover it.
        """
        pixels = size[0] * size[1]
        for index, runs in enumerate(counts):
            if sum(runs) != pixels:
                raise ValueError(f"runs of mask {index} cover {sum(runs)} pixels but {size} (h, w) has {pixels}.")
        lengths = torch.tensor([0, *(len(runs) for runs in counts)], dtype=torch.int64)
        flat = torch.tensor([run for runs in counts for run in runs], dtype=torch.int64)
        return cls(flat, lengths.cumsum(0), tuple(size))

    @classmethod
    def _from_pieces(
        cls, start: Tensor, stop: Tensor, owner: Tensor, number: int, size: tuple[int, int]
    ) -> "RunLengthMasks":
        """Make run lengths of the runs inside: (n,) first places, ends and masks, sorted by mask and place."""
        device, pixels = start.device, size[0] * size[1]
        runs_of_Q = torch.bincount(owner, minlength=number)
        offsets = torch.cat([runs_of_Q.new_zeros(1), (2 * runs_of_Q + 1).cumsum(0)])
        ends = torch.full((int(offsets[-1]),), pixels, dtype=torch.int64, device=device)
        place = 2 * torch.arange(len(start), device=device) + owner
        ends[place], ends[place + 1] = start, stop
        before = torch.cat([ends.new_zeros(1), ends[:-1]])[: len(ends)]
        before[offsets[:-1]] = 0
        return cls(ends - before, offsets, tuple(size))

    @classmethod
    def empty(cls, size: tuple[int, int], device: torch.device | str = "cpu") -> "RunLengthMasks":
        """Return no masks."""
        return cls(*(torch.zeros(number, dtype=torch.int64, device=device) for number in (0, 1)), tuple(size))

    def joined(self, *others: "RunLengthMasks") -> "RunLengthMasks":
        """Return these masks and others of the same size, one after another.

        Raises:
            ValueError: if sizes differ.
        """
        everything = (self, *others)
        if any(masks.size != self.size for masks in others):
            raise ValueError(f"masks of different sizes (h, w): {sorted({masks.size for masks in everything})}.")
        lengths = torch.cat([masks.offsets.diff() for masks in everything])
        offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        return RunLengthMasks(torch.cat([masks.counts for masks in everything]), offsets, self.size)

    def to(self, device: torch.device | str) -> "RunLengthMasks":
        """Return the same masks on another device."""
        return RunLengthMasks(self.counts.to(device), self.offsets.to(device), self.size)

    @property
    def areas(self) -> Tensor:
        """(Q,) pixels inside each mask."""
        start, stop, owner = self._pieces()
        return torch.zeros(len(self), dtype=torch.int64, device=owner.device).index_add_(0, owner, stop - start)

    def _pieces(self) -> tuple[Tensor, Tensor, Tensor]:
        """First places, ends and masks of the runs inside that are not empty."""
        ends = self.counts.cumsum(0)
        lengths = self.offsets.diff()
        owner = torch.repeat_interleave(torch.arange(len(self), device=ends.device), lengths)
        ends = ends - torch.cat([ends.new_zeros(1), ends])[self.offsets[:-1]][owner]
        number = torch.arange(len(ends), device=ends.device) - self.offsets[:-1][owner]
        chosen = ((number % 2 == 1) & (self.counts > 0)).nonzero()[:, 0]
        return ends[chosen] - self.counts[chosen], ends[chosen], owner[chosen]

    def padded(self, size: tuple[int, int]) -> "RunLengthMasks":
        """Return the same masks on a larger grid, with nothing inside at the bottom and right.

        Raises:
            ValueError: if ``size`` is smaller.
        """
        (height, width), (new_height, new_width) = self.size, size
        if new_height < height or new_width < width:
            raise ValueError(f"masks of {self.size} (h, w) do not fit into {size}.")
        start, stop, owner = self._pieces()
        if new_height > height:  # runs are cut where a column ends
            first = start // height
            columns = (stop - 1) // height - first + 1
            piece = torch.repeat_interleave(torch.arange(len(start), device=start.device), columns)
            column = first[piece] + torch.arange(len(piece), device=start.device) - (columns.cumsum(0) - columns)[piece]
            gap = column * (new_height - height)
            start = torch.maximum(start[piece], column * height) + gap
            stop = torch.minimum(stop[piece], (column + 1) * height) + gap
            owner = owner[piece]
        return self._from_pieces(start, stop, owner, len(self), (new_height, new_width))

    def pool(self, features_1Chw: Tensor) -> Tensor:
        """Return (1, Q, C): the mean of the features, enlarged to the mask grid, in each mask; 0 for an empty one."""
        here = self.to(features_1Chw.device)
        return mask_pool_rle(features_1Chw, here.counts, here.offsets, self.size)

    def decode(self) -> Tensor:
        """Return (Q, h, w) bool masks."""
        return torch.cat(list(self.decoded())) if len(self) else self._nothing(torch.bool)

    def logits(self) -> Tensor:
        """Return (Q, h, w) int8 logits of the masks, whose sigmoid is exactly 0 and 1."""
        logits = self._nothing(torch.int8, len(self))
        start = 0
        for part in self.decoded():
            logits[start : start + len(part)].fill_(OUTSIDE).masked_fill_(part, INSIDE)
            start += len(part)
        return logits

    def _nothing(self, dtype: torch.dtype, number: int = 0) -> Tensor:
        return torch.zeros((number, *self.size), dtype=dtype, device=self.counts.device)

    def decoded(self) -> Iterator[Tensor]:
        """Yield a few (n, h, w) bool masks at a time."""
        step = max(1, _PIXELS_AT_A_TIME // max(1, self.size[0] * self.size[1]))
        for start in range(0, len(self), step):
            offsets = self.offsets[start : start + step + 1]
            yield decode_runs(self.counts[offsets[0] : offsets[-1]], offsets - offsets[0], self.size)
