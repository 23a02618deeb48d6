"""Trident: windows spliced into one map, whose places attend to each other as Segment Anything's do.

B batch, N prompt rows, W trunk width, S places of the guiding grid, H W image.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from mmseg.registry import MODELS
from torch import Tensor

from mmseg_plugins.methods.training_free.guidance import guidance_weights, guide_map, stitch_windows
from mmseg_plugins.methods.training_free.proxy import change_statistics
from mmseg_plugins.methods.training_free.proxyclip import ProxyCLIP
from mmseg_plugins.prediction.windows import Box, run_windows, window_grid
from mmseg_plugins.towers.dense import DenseFeatures
from mmseg_plugins.towers.guidance import SamGuidance
from mmseg_plugins.towers.position import to_map
from mmseg_plugins.towers.vit import DenseViT

_PART = "guidance."


@MODELS.register_module()
class Trident(ProxyCLIP):
    """ProxyCLIP's attention in windows, one map of the whole image, and Segment Anything's attention over it.

    Shi et al., ICCV 2025 (arXiv 2411.09219), without the refinement by Segment Anything's masks. The windows are cut in
    here; ``test_cfg`` stays at ``mode='whole'``, with ``pad_multiple`` set to the patch, as windows must lie on
    patches.

    Args:
        vfm: vision model; published is DINO ViT-B/16.
        crop_size, stride: (height, width) of the windows in pixels, multiples of CLIP's patch.
        guidance: arguments of :class:`~mmseg_plugins.towers.guidance.SamGuidance`; None: leave the guidance out.
        threshold_factor, threshold_cap: see
            :func:`~mmseg_plugins.methods.training_free.guidance.similarity_threshold`.
        splits: number of equal columns of the image that are guided each for itself (2 for Cityscapes).
        window_batch: windows run at once.
        **options: see :class:`ProxyCLIP`.

    Raises:
        ValueError: if the tower is not CLIP's own transformer, or windows do not lie on patches.
    """

    def __init__(
        self,
        *,
        crop_size: tuple[int, int] = (336, 336),
        stride: tuple[int, int] = (224, 224),
        guidance: Mapping[str, Any] | None = None,
        threshold_factor: float = 1.2,
        threshold_cap: float = 0.9,
        splits: int = 1,
        window_batch: int = 8,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        tower = self.clip.visual
        if not isinstance(tower, DenseViT):
            raise ValueError(
                f"Trident works on CLIP's own transformer, but {self.clip.config.name!r} has another tower."
            )
        if any(length % tower.stride for length in (*crop_size, *stride)):
            raise ValueError(
                f"crop_size {crop_size} and stride {stride} must be multiples of the patch of {tower.stride} pixels."
            )
        self.crop_size, self.window_stride = tuple(crop_size), tuple(stride)
        self.guidance = None if guidance is None else SamGuidance(**guidance)
        self.threshold_factor, self.threshold_cap = threshold_factor, threshold_cap
        self.splits, self.window_batch = splits, window_batch
        self.dense = replace(self.dense, taps=(*self.dense.taps, "stream"))

    def ensure_weights(self, part: str) -> None:
        """Load the weights of a CLIP tower and, with the image tower, of the other networks."""
        super().ensure_weights(part)
        if part == "visual" and self.guidance is not None:
            self.guidance.ensure_weights()

    def init_weights(self) -> None:
        """Load the weights that the config names, of all networks."""
        super().init_weights()
        if self.guidance is not None:
            self.guidance.ensure_weights()

    def note_loaded(self, parts: tuple[str, ...]) -> None:
        """Hear which parts a checkpoint has filled; a whole model's own file holds all networks."""
        super().note_loaded(parts)
        if self.guidance is not None and _PART.startswith(parts):
            self.guidance.note_loaded()

    def harness_settings(self) -> dict[str, str]:
        """Return the method's settings, with its own windows and its guidance."""
        windows = f"{self.crop_size} every {self.window_stride}, spliced"
        guidance = "off" if self.guidance is None else f"factor {self.threshold_factor}, cap {self.threshold_cap}"
        parts = {"windows": windows, "guidance": guidance, "splits": str(self.splits)}
        return {**super().harness_settings(), **parts}

    @torch.no_grad()
    def dense_features(self, images: Tensor) -> DenseFeatures:
        """Return features of whole (B, 3, H, W) images, on the guiding grid; a remainder of a patch is dropped."""
        patch = self.clip.visual.stride
        height, width = (side - side % patch for side in images.shape[2:])
        pieces = images[..., :height, :width].tensor_split(self.splits, dim=3)
        if len({piece.shape[3] for piece in pieces}) > 1 or pieces[0].shape[3] % patch:
            raise ValueError(f"an image {width} pixels wide cannot be cut into {self.splits} equal parts of patches.")
        maps = self.spliced_maps(images[..., :height, :width]).tensor_split(self.splits, dim=3)
        normed = torch.cat([self._guided(*pair) for pair in zip(maps, pieces, strict=True)], dim=3)
        tokens = self.clip.visual.project(normed.flatten(2).transpose(1, 2))
        grid = (normed.shape[2], normed.shape[3])
        return DenseFeatures(pixels=to_map(tokens, grid), trunk=normed, grid=grid)

    def spliced_maps(self, images: Tensor) -> Tensor:
        """Run ProxyCLIP's attention in windows and average their outputs: (B, W, H', W') of (B, 3, H, W) images."""
        boxes = window_grid(tuple(images.shape[2:]), self.crop_size, self.window_stride)
        windows = run_windows(self._window_map, images, boxes, batch_size=self.window_batch)
        patch = self.clip.visual.stride
        places = [Box(*(side // patch for side in box)) for box in boxes]
        token_grid = (places[0].bottom - places[0].top, places[0].right - places[0].left)
        map_size = (images.shape[2] // patch, images.shape[3] // patch)
        return torch.stack([stitch_windows(one, places, token_grid, map_size) for one in windows.unbind(1)])

    def _window_map(self, crops: Tensor) -> Tensor:
        features = super().dense_features(crops)
        return to_map(features.extras["stream"], features.grid)

    def _guided(self, maps_BWhw: Tensor, images: Tensor) -> Tensor:
        """Let every place attend as the guiding network does: (B, W, h, w) behind CLIP's last norm."""
        norm = self.clip.visual.ln_post
        if self.guidance is None:
            return norm(maps_BWhw.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        seen = self.guidance(change_statistics(images, *self.statistics(), self.guidance.mean, self.guidance.std))
        guided = []
        for map_Whw, values, attention in zip(maps_BWhw, seen.values, seen.attention, strict=True):
            weights_SS, _ = guidance_weights(values, attention, factor=self.threshold_factor, cap=self.threshold_cap)
            guided.append(guide_map(map_Whw, weights_SS, seen.grid))
        return to_map(norm(torch.stack(guided)), seen.grid)
