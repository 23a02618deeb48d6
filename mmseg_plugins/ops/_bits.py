"""Bit masks and run lengths in plain PyTorch.

Letters: T masks, ``h w`` mask grid, n bits of a row, S runs. Bits are packed along the last axis, least significant
first.
"""

import torch
from torch import Tensor


def pack_last_axis(flags: Tensor, multiple: int = 8) -> Tensor:
    """Pack (..., n) booleans into (..., ceil(n / multiple) * multiple / 8) uint8, padding with zeros."""
    missing = -flags.shape[-1] % multiple
    padded = torch.nn.functional.pad(flags.to(torch.uint8), (0, missing))
    packed = torch.zeros_like(padded[..., ::8], memory_format=torch.contiguous_format)
    for bit in range(8):
        packed |= padded[..., bit::8] << bit
    return packed


def unpack_last_axis(packed: Tensor, n: int) -> Tensor:
    """Unpack (..., m) uint8 into (..., n) uint8 of 0 and 1, dropping the padding."""
    shifts = torch.arange(8, dtype=torch.uint8, device=packed.device)
    return ((packed.unsqueeze(-1) >> shifts) & 1).flatten(-2)[..., :n]


def pack_words(flags: Tensor) -> Tensor:
    """Pack (..., n) booleans into (..., ceil(n / 32)) int32; pixel n is bit ``n % 32`` of word ``n // 32``."""
    return pack_last_axis(flags, 32).view(torch.int32)


def unpack_words(words: Tensor, n: int) -> Tensor:
    """Inverse of :func:`pack_words`: (..., n) uint8 of 0 and 1."""
    return unpack_last_axis(words.contiguous().view(torch.uint8), n)


def pack_bits(masks: Tensor, threshold: float) -> Tensor:
    """Pack (..., h, w) masks along w, set where they exceed ``threshold``."""
    return pack_last_axis(masks > threshold)


def decode_runs(counts: Tensor, offsets: Tensor, size: tuple[int, int]) -> Tensor:
    """Decode column-major run lengths into (T, h, w) booleans.

    A mask changes where a run ends, so it is the parity of the run ends at or before a pixel: one byte a pixel is
    enough, since a byte that runs over keeps its parity.

    Args:
        counts: (S,) int64 run lengths of all masks, each mask starting with a run of zeros.
        offsets: (T + 1,) int64, where each mask's runs begin and end in ``counts``.
        size: (h, w). Runs past the end are cut; pixels after the last run are zero.
    """
    h, w = size
    number, pixels = offsets.shape[0] - 1, h * w
    lengths = offsets[1:] - offsets[:-1]
    mask_of_run = torch.repeat_interleave(torch.arange(number, device=counts.device), lengths)
    ends = counts.cumsum(0)
    before = torch.cat([ends.new_zeros(1), ends])[offsets[:-1]]
    local_ends = (ends - before[mask_of_run]).clamp_(0, pixels)
    # After an odd number of runs, the last of them zeros, a mask stays zero: that end is no change.
    is_change = torch.ones_like(local_ends, dtype=torch.uint8)
    is_change[offsets[1:][lengths % 2 == 1] - 1] = 0
    changes = torch.zeros((number, pixels + 1), dtype=torch.uint8, device=counts.device)
    changes.index_put_((mask_of_run, local_ends), is_change, accumulate=True)
    parity = changes.cumsum_(1)[:, :pixels].bitwise_and_(1).view(torch.bool)
    return parity.reshape(number, w, h).mT.contiguous()


def rle_to_bits(counts: Tensor, offsets: Tensor, size: tuple[int, int]) -> Tensor:
    """Decode column-major run lengths into (T, h, ceil(w / 8)) bit masks."""
    return pack_last_axis(decode_runs(counts, offsets, tuple(size)))
