"""Images without labels, for what learns from teachers instead."""

from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dataset import BaseDataset
from mmseg.registry import DATASETS

from mmseg_plugins.datasets.folder import IMAGE_SUFFIXES


@DATASETS.register_module()
class UnlabelledImages(BaseDataset):
    """All images of a folder and its sub-folders, sorted by path.

    Args:
        data_root: folder of images.
        sample: how many to draw, *with* replacement, so that some come twice and most folders give fewer different
            ones; None: all, once. CLIP-DINOiser: 1,000 of ImageNet's training images.
        seed: of the draw.
        **options: further arguments of mmengine's ``BaseDataset`` (``pipeline``, ``indices``, ...).

    Raises:
        FileNotFoundError: if the folder is missing or holds no images.
        ValueError: if ``sample`` is below 1.
    """

    def __init__(self, *, data_root: str, sample: int | None = None, seed: int = 0, **options: Any) -> None:
        if sample is not None and sample < 1:
            raise ValueError(f"expected sample to be at least 1, or None for all images, but got {sample}.")
        self.sample, self.seed = sample, seed
        super().__init__(data_root=str(data_root), **options)

    def load_data_list(self) -> list[dict[str, Any]]:
        """List the images."""
        root = Path(self.data_root)
        if not root.is_dir():
            raise FileNotFoundError(f"the folder of images, {root}, does not exist.")
        paths = sorted(
            path for path in root.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
        )
        if not paths:
            raise FileNotFoundError(f"no images in {root}; expected files ending in {', '.join(IMAGE_SUFFIXES)}.")
        if self.sample is not None:
            drawn = np.random.RandomState(self.seed).choice(len(paths), self.sample)
            paths = [paths[index] for index in drawn]
        return [{"img_path": str(path), "seg_fields": []} for path in paths]
