"""Transforms for training on images without labels: brightness, and views that come again."""

import hashlib
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from mmcv.transforms import BaseTransform, Compose
from mmseg.registry import TRANSFORMS


@TRANSFORMS.register_module()
class RandomBrightness(BaseTransform):
    """Multiply the image by one random factor, as torchvision's ``ColorJitter(brightness)`` does.

    Args:
        strength: the factor lies in [1 - strength, 1 + strength], but not below 0.

    Raises:
        ValueError: if the strength is negative.
    """

    def __init__(self, strength: float = 0.5) -> None:
        if strength < 0:
            raise ValueError(f"expected strength to be 0 or more, but got {strength}.")
        self.strength = strength

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Change ``img`` (H, W, 3) in 0..255; the result is float32."""
        factor = np.random.uniform(max(0.0, 1 - self.strength), 1 + self.strength)
        results["img"] = np.clip(results["img"].astype(np.float32) * np.float32(factor), 0, 255)
        return results

    def __repr__(self) -> str:
        return f"{type(self).__name__}(strength={self.strength})"


@TRANSFORMS.register_module()
class FixedViews(BaseTransform):
    """Run random transforms so that an image has a few views that come again and again.

    Each time one of ``views`` views is chosen at random; the transforms inside then draw from generators that are
    seeded by image and view. So what is costly to compute of a view can be kept, see ``teacher_cache`` of
    ``CLIPDINOiser``.

    Args:
        transforms: configs of transforms.
        views: number of views of each image.
        seed: other seeds give other views.

    Raises:
        ValueError: if ``views`` is below 1.
    """

    def __init__(self, transforms: Sequence[dict[str, Any]], *, views: int = 4, seed: int = 0) -> None:
        if views < 1:
            raise ValueError(f"expected views to be at least 1, but got {views}.")
        self.transforms, self.views, self.seed = Compose(list(transforms)), views, seed

    def transform(self, results: dict[str, Any]) -> dict[str, Any] | None:
        """Run the transforms on ``results``, which must have ``img_path``."""
        view = np.random.randint(self.views)
        name = f"{self.seed} {view} {results['img_path']}".encode()
        with seeded(int.from_bytes(hashlib.blake2b(name, digest_size=4).digest(), "little")):
            return self.transforms(results)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(views={self.views}, seed={self.seed}, transforms={self.transforms})"


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the generators of Python, NumPy and torch (CPU), and put them back afterwards.

    Args:
        seed: in [0, 2**32).
    """
    python_state, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        random.seed(seed)
        np.random.seed(seed)
        torch.default_generator.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)
