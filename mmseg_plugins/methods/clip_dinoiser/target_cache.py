"""What a teacher said, on disk: a teacher is asked once about each view of each image.

An entry is named by a hash of the image as the student sees it, the grid, and the teacher's fingerprint, so there is
nothing to invalidate, and a run from the cache gets the very targets of a run without. Both targets are yes or no: one
bit for each pair of positions, 77 kB for an image of 448 x 448 and patches of 16.
"""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from mmseg.structures import SegDataSample
from torch import Tensor

from mmseg_plugins.methods.clip_dinoiser.teachers import Targets, Teacher
from mmseg_plugins.towers.files import read_tensors, write_safetensors
from mmseg_plugins.towers.position import Grid

logger = logging.getLogger(__name__)

# B batch, h w grid, P = h*w


class TargetCache:
    """A folder of targets. It never fails a run: what cannot be read is asked again, and what cannot be written is not.

    Args:
        folder: where; made on the first write.
        limit: bytes that the folder may grow to; nothing is stored beyond.

    Attributes:
        hits, misses: how often an entry was there, and was not.
    """

    def __init__(self, folder: str | Path, *, limit: int = 20_000_000_000) -> None:
        self.folder, self.limit = Path(folder).expanduser(), limit
        self.hits = self.misses = 0
        self._size: int | None = None
        self._is_full = False

    def path(self, key: str) -> Path:
        """Return the file of an entry, which need not exist."""
        return self.folder / key[:2] / f"{key}.safetensors"

    def load(self, key: str, grid: Grid) -> Targets | None:
        """Return one image's targets (batch of one), or None where there are none that can be read."""
        path, positions = self.path(key), grid[0] * grid[1]
        try:
            if not path.is_file():
                return None
            stored = read_tensors(path)
            together = _unpack(stored["together"], (1, positions, *grid))
            return Targets(together, _unpack(stored["foreground"], (1, 1, *grid)))
        except (OSError, ValueError, KeyError) as error:
            logger.warning("Cached targets %s are damaged (%s); asking the teacher again.", path, error)
            return None

    def store(self, key: str, targets: Targets) -> None:
        """Write one image's targets, unless the folder is full or cannot be written to."""
        if self._is_full:
            return
        tensors = {"together": _pack(targets.belongs_together), "foreground": _pack(targets.is_foreground)}
        size = sum(tensor.numel() for tensor in tensors.values())
        if self._used() + size > self.limit:
            self._is_full = True
            logger.warning("%s has reached its %d bytes: further targets are not kept.", self.folder, self.limit)
            return
        try:
            self.path(key).parent.mkdir(parents=True, exist_ok=True)
            write_safetensors(self.path(key), tensors, {"format": "mmseg_plugins teacher targets"})
            self._size += self.path(key).stat().st_size  # with its header
        except OSError as error:
            self._is_full = True
            logger.warning("Targets are not kept: cannot write to %s (%s).", self.folder, error.strerror or error)

    def _used(self) -> int:
        if self._size is None:
            self._size = sum(path.stat().st_size for path in self.folder.glob("*/*.safetensors"))
        return self._size


def cached_targets(
    teacher: Teacher, cache: TargetCache | None, images: Tensor, grid: Grid, samples: Sequence[SegDataSample]
) -> Targets:
    """Return a batch's targets, asking the teacher only about images that the cache does not know.

    Args:
        teacher: whom to ask.
        cache: where to look first and to store; None: nowhere.
        images: (B, 3, H, W) RGB in [0, 1], padded.
        grid: (h, w) of the student.
        samples: B samples.

    Returns:
        Targets on the device of the images.
    """
    teacher.get_ready(images)
    if cache is None:
        return teacher.targets(images, grid, samples)
    front = f"{teacher.fingerprint()} {tuple(grid)} {tuple(images.shape[1:])} {_precision(images)}".encode()
    keys = [_hash_image(front, image) for image in images]
    found = [cache.load(key, grid) for key in keys]
    missing = [index for index, targets in enumerate(found) if targets is None]
    cache.hits += len(keys) - len(missing)
    cache.misses += len(missing)
    if missing:
        asked = teacher.targets(images[missing], grid, [samples[index] for index in missing])
        for place, index in enumerate(missing):
            found[index] = Targets(
                asked.belongs_together[place : place + 1].cpu(), asked.is_foreground[place : place + 1].cpu()
            )
            cache.store(keys[index], found[index])
    return Targets(
        torch.cat([targets.belongs_together for targets in found]).to(images.device),
        torch.cat([targets.is_foreground for targets in found]).to(images.device),
    )


def _hash_image(front: bytes, image: Tensor) -> str:
    digest = hashlib.blake2b(front, digest_size=20)
    digest.update(image.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _precision(images: Tensor) -> torch.dtype:
    """Precision that the teacher computes in: mixed precision may turn an answer that is nearly undecided."""
    kind = images.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else images.dtype


def _pack(mask: Tensor) -> Tensor:
    return torch.from_numpy(np.packbits(mask.cpu().numpy()))


def _unpack(bits: Tensor, shape: tuple[int, ...]) -> Tensor:
    count = int(np.prod(shape))
    if bits.dtype != torch.uint8 or bits.numel() != (count + 7) // 8:
        raise ValueError(f"expected {(count + 7) // 8} bytes for {shape}")
    return torch.from_numpy(np.unpackbits(bits.numpy(), count=count).astype(bool)).reshape(shape)
