"""CorrCLIP: attention within regions that a mask generator found.

B batch, N prompt rows, M = h'*w' patches of the vision model, W trunk width, H W image.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from mmseg.registry import MODELS, TASK_UTILS
from mmseg.structures import SegDataSample
from torch import Tensor

from mmseg_plugins.methods.training_free.branches import choose_spatial_blocks, region_tokens, spread_tokens
from mmseg_plugins.methods.training_free.proxy import cosine_matrix
from mmseg_plugins.methods.training_free.proxyclip import ProxyCLIP
from mmseg_plugins.methods.training_free.region_sources import RegionSource, describe_source
from mmseg_plugins.methods.training_free.regions import (
    MERGED,
    label_by_region,
    merge_regions,
    region_attention,
    resize_regions,
)
from mmseg_plugins.prediction.label_map import LabelMap
from mmseg_plugins.towers.dense import DenseFeatures, Steering
from mmseg_plugins.towers.dense_path import ClipBlock, run_blocks
from mmseg_plugins.towers.position import Grid, pad_image, to_map
from mmseg_plugins.towers.vit import DenseViT

# Region numbers travel through windows as a fourth channel, one higher than they are, so that 0 marks padding.
_SHIFT = 1


@MODELS.register_module()
class CorrCLIP(ProxyCLIP):
    """Attention of the last block within regions, beside two further branches, and one label for each region.

    Zhang et al., ICCV 2025 (arXiv 2411.10086), first version. Region maps come from a source, see
    :mod:`mmseg_plugins.methods.training_free.region_sources`.

    Args:
        vfm: vision model; published is DINO ViT-B/8 with ``feature='qk'``.
        regions: config of a source in mmseg's TASK_UTILS, or a function; None: set :attr:`regions` before use.
        temperature: of the attention within regions.
        merge_eps, merge_offset: see :func:`~mmseg_plugins.methods.training_free.regions.merge_regions`.
        spatial_weight, semantic_weight: weights of the two further branches.
        spatial_blocks: how many earlier blocks the spatial branch averages; None: as published.
        vote: give every region the most frequent label of its pixels.
        **options: see :class:`ProxyCLIP`.

    Raises:
        ValueError: if the tower is not CLIP's own transformer.
    """

    def __init__(
        self,
        *,
        regions: Mapping[str, Any] | RegionSource | None = None,
        temperature: float = 4.0,
        merge_eps: float = 0.2,
        merge_offset: int = MERGED,
        spatial_weight: float = 1.0,
        semantic_weight: float = 0.5,
        spatial_blocks: int | None = None,
        vote: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if not isinstance(self.clip.visual, DenseViT):
            raise ValueError(
                f"CorrCLIP works on CLIP's own transformer, but {self.clip.config.name!r} has another tower."
            )
        self.regions = TASK_UTILS.build(regions) if isinstance(regions, Mapping) else regions
        self.temperature, self.merge_eps, self.merge_offset, self.vote = temperature, merge_eps, merge_offset, vote
        self.spatial_weight, self.semantic_weight = spatial_weight, semantic_weight
        depth = len(self.clip.visual.blocks)
        self.spatial_blocks = choose_spatial_blocks(depth, spatial_blocks)
        outputs = tuple(f"block/{index}" for index in range(depth - 1))
        self.dense = replace(self.dense, taps=(*self.dense.taps, *outputs, "stream"))

    def harness_settings(self) -> dict[str, str]:
        """Return the method's settings, with its source of regions."""
        weights = f"spatial {self.spatial_weight}, semantic {self.semantic_weight}"
        parts = {"regions": describe_source(self.regions), "branches": weights, "vote": str(self.vote)}
        return {**super().harness_settings(), **parts}

    # --- regions ----------------------------------------------------------------------------------------------------

    def _label_maps(self, images: Tensor, samples: Sequence[SegDataSample]) -> list[LabelMap]:
        """Send region maps with the images through the windows, then let each region vote."""
        if self.regions is None:
            raise ValueError("CorrCLIP has no source of regions: set model.regions, or regions=dict(type=...).")
        if any(sample.metainfo.get("flip") for sample in samples):
            raise ValueError(
                "CorrCLIP does not take flipped images: region maps lie as the image does. Leave out --tta."
            )
        pixels = self._as_pixels(images)
        maps = [self._region_ranks(image, sample) for image, sample in zip(pixels, samples, strict=True)]
        channel = torch.stack([resize_regions(regions, tuple(images.shape[2:])) for regions in maps])[:, None]
        labelled = super()._label_maps(torch.cat([images.float(), (channel + _SHIFT).float()], dim=1), samples)
        if self.vote:
            for label_map, regions in zip(labelled, maps, strict=True):
                full = resize_regions(regions, tuple(label_map.labels.shape))
                label_map.labels = label_by_region(label_map.labels, full)
        return labelled

    def _region_ranks(self, image_3HW: Tensor, sample: SegDataSample) -> Tensor:
        """The region map with numbers from 0 in the same order, which any precision holds exactly."""
        regions = self.regions(image_3HW, sample)
        if not isinstance(regions, Tensor) or regions.ndim != 2 or regions.is_floating_point():
            shape = tuple(getattr(regions, "shape", ()))
            raise ValueError(
                f"expected {describe_source(self.regions)} to return a region map, an integer tensor (h, w), but got "
                f"{type(regions).__name__} {getattr(regions, 'dtype', '')} of shape {shape}."
            )
        return regions.to(image_3HW.device).unique(return_inverse=True)[1]

    def _as_pixels(self, images: Tensor) -> Tensor:
        mean, std = (torch.tensor(values, device=images.device)[:, None, None] for values in self.statistics())
        return images.float() * std + mean

    # --- features ---------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def dense_features(self, images: Tensor) -> DenseFeatures:
        """Return features on the vision model's grid.

        Args:
            images: (B, 4, H, W): normalised pixels, and the region numbers plus one, 0 where padded.
        """
        numbers_BHW = images[:, 3].long() - _SHIFT
        pixels = images[:, :3].to(self.clip.visual.conv1.weight.dtype)
        regions_BHW = numbers_BHW.masked_fill(numbers_BHW < 0, self.merge_offset)
        return self.region_features(pixels, regions_BHW, self.vfm_features(pixels))

    @torch.no_grad()
    def region_features(self, images: Tensor, regions_Bhw: Tensor, features_BChw: Tensor) -> DenseFeatures:
        """Combine the three branches.

        Args:
            images: (B, 3, H, W) normalised.
            regions_Bhw: (B, h, w) int64 region numbers, at any size.
            features_BChw: (B, C, h', w') of the vision model.

        Returns:
            Features on the vision model's grid; ``extras`` holds ``regions`` (B, h', w') after merging,
            ``token_regions``, the same on CLIP's grid, ``region_attention`` (B, M, M), and the branches ``main``,
            ``spatial`` and ``semantic`` (B, M, W) in front of the last norm.
        """
        tower, grid = self.clip.visual, (features_BChw.shape[2], features_BChw.shape[3])
        merged_Bhw, attention_BMM = self.region_weights(resize_regions(regions_Bhw, grid), features_BChw)
        steering = Steering(affinity=attention_BMM, affinity_grid=grid)
        patches, token_grid = tower.embed_patches(pad_image(images, tower.stride, "floor"))
        positions = tower.positions(token_grid, self.dense.position_resize, self.dense.position_match)
        tokens_BPW = tower.add_class_token(patches, positions)
        features = tower.forward_tokens(tokens_BPW, token_grid, self.dense, steering=steering)
        outputs = [features.extras[f"block/{index}"] for index in range(len(tower.blocks) - 1)]
        small_Bhw = resize_regions(merged_Bhw, token_grid)
        features.extras |= {
            "regions": merged_Bhw,
            "token_regions": small_Bhw,
            "region_attention": attention_BMM,
            "main": features.extras["stream"],
            "spatial": self._spatial_branch(outputs, token_grid, steering, features),
            "semantic": self._semantic_branch([tokens_BPW, *outputs], small_Bhw, grid),
        }
        weights = {"main": 1.0, "spatial": self.spatial_weight, "semantic": self.semantic_weight}
        trunk_BMW = sum(weight * tower.ln_post(features.extras[name]) for name, weight in weights.items())
        features.trunk, features.pixels = to_map(trunk_BMW, grid), to_map(tower.project(trunk_BMW), grid)
        return features

    def region_weights(self, regions_Bhw: Tensor, features_BChw: Tensor) -> tuple[Tensor, Tensor]:
        """Merge regions and make the attention within them.

        Args:
            regions_Bhw: (B, h', w') on the vision model's grid.
            features_BChw: (B, C, h', w').

        Returns:
            (B, h', w') merged regions and (B, M, M) weights.
        """
        unit_BMC = F.normalize(features_BChw.float().flatten(2), dim=1).transpose(1, 2)
        merged, weights = [], []
        for regions, unit_MC, cosines_MM in zip(regions_Bhw, unit_BMC, cosine_matrix(features_BChw), strict=True):
            merged.append(merge_regions(regions, unit_MC, eps=self.merge_eps, offset=self.merge_offset))
            weights.append(region_attention(merged[-1].flatten(), cosines_MM, temperature=self.temperature))
        return torch.stack(merged), torch.stack(weights)

    def _spatial_branch(
        self, outputs: Sequence[Tensor], token_grid: Grid, steering: Steering, features: DenseFeatures
    ) -> Tensor:
        """The last block's values of the mean of earlier outputs, attended as in the main branch: (B, M, W)."""
        mean_BPW = sum(outputs[index] for index in self.spatial_blocks) / len(self.spatial_blocks)
        options = replace(self.dense, taps=("v",))
        result = run_blocks([ClipBlock(self.clip.visual.blocks[-1])], mean_BPW, token_grid, options, steering)
        features.extras["v_spatial"] = result.taps["v_resized"]
        return result.stream

    def _semantic_branch(self, inputs: Sequence[Tensor], regions_Bhw: Tensor, grid: Grid) -> Tensor:
        """A class token for each region, written to its places: (B, M, W); regions differ, so image by image."""
        blocks = [ClipBlock(block) for block in self.clip.visual.blocks]
        spread = []
        for index, regions_hw in enumerate(regions_Bhw):
            tokens = [tokens_BPW[index : index + 1] for tokens_BPW in inputs]
            spread.append(spread_tokens(regions_hw, *region_tokens(blocks, tokens, regions_hw.flatten()), grid))
        return torch.stack(spread)
