"""ProxyCLIP: CLIP's last values, attended with the affinities of a vision model.

B batch, N prompt rows, M = h'*w' patches of the vision model, H W image.
"""

from collections.abc import Mapping
from typing import Any

import torch
from mmseg.registry import MODELS
from torch import Tensor

from mmseg_plugins.methods.training_free.model import TrainingFree
from mmseg_plugins.methods.training_free.proxy import (
    build_source,
    change_statistics,
    cosine_matrix,
    proxy_attention,
)
from mmseg_plugins.towers.affinity import AffinitySource
from mmseg_plugins.towers.dense import DenseFeatures, Steering
from mmseg_plugins.towers.position import Grid
from mmseg_plugins.towers.resnet import ModifiedResNet

_PART = "vfm."


@MODELS.register_module()
class ProxyCLIP(TrainingFree):
    """The reduced last block with attention from a vision model; the answer has that model's resolution.

    Lan et al., ECCV 2024 (arXiv 2408.04883). Windows may have any shape; the release is right for
    square ones only.

    Args:
        vfm: the vision model, see :func:`~mmseg_plugins.methods.training_free.proxy.build_source`; published are DINO
            ViT-B/8 (default), DINOv2-B/14 with registers, MAE.
        method: preset of the tower; ``reduced`` as published.
        beta, gamma: see :func:`~mmseg_plugins.methods.training_free.proxy.proxy_attention`.
        **options: see :class:`TrainingFree`.
    """

    def __init__(
        self,
        *,
        vfm: Mapping[str, Any] | AffinitySource,
        method: str = "reduced",
        beta: float = 1.2,
        gamma: float = 3.0,
        **options: Any,
    ) -> None:
        super().__init__(method=method, **options)
        if isinstance(self.clip.visual, ModifiedResNet):
            raise ValueError(f"{type(self).__name__} needs the values of a transformer, not of a ResNet.")
        self.vfm = build_source(vfm)
        self.beta, self.gamma = beta, gamma

    # --- weights ----------------------------------------------------------------------------------------------------

    def ensure_weights(self, part: str) -> None:
        """Load the weights of a CLIP tower and, with the image tower, of the vision model."""
        super().ensure_weights(part)
        if part == "visual":
            self.vfm.ensure_weights()

    def init_weights(self) -> None:
        """Load the weights that the config names, of CLIP and of the vision model."""
        super().init_weights()
        self.vfm.ensure_weights()

    def note_loaded(self, parts: tuple[str, ...]) -> None:
        """Hear which parts a checkpoint has filled; a whole model's own file holds the vision model too."""
        super().note_loaded(parts)
        if _PART.startswith(parts):
            self.vfm.note_loaded()

    def harness_settings(self) -> dict[str, str]:
        """Return the method's settings, with the vision model's name."""
        name = getattr(self.vfm, "model", None) or self.vfm.clip.config.name
        return {**super().harness_settings(), "vision model": f"{name} ({self.vfm.feature})"}

    # --- features ---------------------------------------------------------------------------------------------------

    def statistics(self) -> tuple[list[float], list[float]]:
        """Return mean and std that images are normalised with, 0..255: the preprocessor's, else those of the tower."""
        processor = self.data_preprocessor
        if getattr(processor, "mean", None) is not None:
            return processor.mean.flatten().tolist(), processor.std.flatten().tolist()
        return list(self.clip.visual.mean), list(self.clip.visual.std)

    def vfm_image(self, images: Tensor) -> Tensor:
        """Return (B, 3, H, W) images in the statistics of the vision model, padding included."""
        return change_statistics(images[:, :3], *self.statistics(), self.vfm.mean, self.vfm.std)

    @torch.no_grad()
    def vfm_features(self, images: Tensor) -> Tensor:
        """Return the vision model's features (B, C, h', w') of normalised images."""
        return self.vfm(self.vfm_image(images))

    def attention(self, features_BChw: Tensor) -> Tensor:
        """Return the attention weights (B, M, M) that the vision model's features give."""
        return proxy_attention(cosine_matrix(features_BChw), beta=self.beta, gamma=self.gamma)

    @torch.no_grad()
    def dense_features(self, images: Tensor) -> DenseFeatures:
        """Return CLIP's features on the vision model's grid."""
        features_BChw = self.vfm_features(images)
        grid: Grid = (features_BChw.shape[2], features_BChw.shape[3])
        steering = Steering(affinity=self.attention(features_BChw), affinity_grid=grid)
        return self.clip.visual.forward_dense(images[:, :3], self.dense, steering=steering)
