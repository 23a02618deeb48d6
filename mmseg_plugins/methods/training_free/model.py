"""Training-free segmentation with CLIP: one tower, whose last blocks are changed as a preset says.

B batch, N prompt rows, K classes, D joint width, H W image, h w grid.
"""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, get_args

import torch
import torch.nn.functional as F
from mmseg.registry import MODELS
from torch import Tensor

from mmseg_plugins.methods.training_free.presets import MapScaling, Surgery, find_preset
from mmseg_plugins.methods.training_free.surgery import (
    consistent_pool,
    feature_surgery,
    redundant_surgery,
    scale_maps,
    unit_tokens,
)
from mmseg_plugins.ops._precision import without_autocast
from mmseg_plugins.prediction.pamr import PAMR
from mmseg_plugins.prediction.route import Refine
from mmseg_plugins.segmentors.mask_options import read_options
from mmseg_plugins.segmentors.pixel import PixelSegmentor
from mmseg_plugins.towers.dense import DenseFeatures, DenseOptions, RuleContext, Steering
from mmseg_plugins.towers.position import to_map
from mmseg_plugins.towers.resnet import ModifiedResNet
from mmseg_plugins.vocabulary.embed import TextEmbeddings, encode_names


@MODELS.register_module()
class TrainingFree(PixelSegmentor):
    """Cosine of dense features with the text embeddings, by any of the published attention rules.

    ``method`` chooses the settings of a paper; every other argument changes one of them.

    Args:
        method: ``clip``, ``maskclip``, ``sclip``, ``clearclip``, ``naclip``, ``gem``, ``clip_surgery``, ``itaclip``,
            ``segearth`` or ``anovl``, see :data:`~mmseg_plugins.methods.training_free.presets.PRESETS`.
        dense: fields of :class:`mmseg_plugins.towers.dense.DenseOptions` that differ from the preset's.
        pamr: ``dict(steps=, dilations=)`` refines the logits at the original size by the image's colours, see
            :class:`mmseg_plugins.prediction.pamr.PAMR`; None: off.
        surgery: see :class:`~mmseg_plugins.methods.training_free.presets.Preset`; None: the preset's.
        surgery_temperature: factor of the cosines that weight the classes in CLIP Surgery.
        map_scaling: see :class:`~mmseg_plugins.methods.training_free.presets.Preset`; None: the preset's.
        class_token_weight: see :class:`~mmseg_plugins.methods.training_free.presets.Preset`; None: the preset's.
        mean_share: see :class:`~mmseg_plugins.methods.training_free.presets.Preset`; None: the preset's.
        **options: see :class:`PixelSegmentor`.

    Raises:
        KeyError: if there is no such method.
        ValueError: if a setting does not exist, or the tower cannot do it.
    """

    def __init__(
        self,
        *,
        method: str,
        dense: Mapping[str, Any] | None = None,
        pamr: Mapping[str, Any] | None = None,
        surgery: Surgery | None = None,
        surgery_temperature: float = 2.0,
        map_scaling: MapScaling | None = None,
        class_token_weight: float | None = None,
        mean_share: float | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        preset = find_preset(method)
        self.method = method
        self.dense = read_options(DenseOptions, {**preset.dense, **(dense or {})}, "dense")
        self.pamr = None if pamr is None else read_options(PAMR, pamr, "pamr")
        self.surgery: Surgery = preset.surgery if surgery is None else surgery
        self.surgery_temperature = surgery_temperature
        self.map_scaling: MapScaling = preset.map_scaling if map_scaling is None else map_scaling
        self.class_token_weight = preset.class_token_weight if class_token_weight is None else class_token_weight
        self.mean_share = preset.mean_share if mean_share is None else mean_share
        self.fixed_redundant: Tensor | None = None
        self._redundant: tuple[Tensor, Tensor] | None = None
        self._check_settings()

    def _check_settings(self) -> None:
        for name, kind in (("surgery", Surgery), ("map_scaling", MapScaling)):
            if getattr(self, name) not in get_args(kind):
                raise ValueError(f"expected {name} to be one of {get_args(kind)}, but got {getattr(self, name)!r}.")
        if self.mean_share and not self.dense.mean_blocks:
            raise ValueError("mean_share needs blocks to take the mean of: set dense=dict(mean_blocks=...).")
        needs_image = self.surgery == "class_mean" or bool(self.class_token_weight)
        if needs_image and self.dense.stream == "replace":
            self.dense = replace(self.dense, ordinary=True)
        if isinstance(self.clip.visual, ModifiedResNet) and self.surgery == "none" and self.dense.rule != "value":
            raise ValueError(
                f"method {self.method!r} changes the blocks of a transformer, but {self.clip.config.name!r} has a "
                f"ResNet. Use 'clip_surgery' or configs/maskclip with it, or a ViT."
            )

    # --- features ---------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def dense_features(self, images: Tensor) -> DenseFeatures:
        """Return the tower's features of (B, 3, H, W) normalised images."""
        tower = self.clip.visual
        if isinstance(tower, ModifiedResNet) and self.surgery != "none":
            layer4 = tower.forward_stages(images)[-1]
            pixels, cls = consistent_pool(tower.attnpool, layer4)
            return DenseFeatures(pixels=pixels, trunk=layer4, grid=(pixels.shape[2], pixels.shape[3]), cls=cls)
        return tower.forward_dense(images, self.dense, steering=self.steering())

    def steering(self) -> Steering | None:
        """Return how the last block's attention is changed beyond the options; None where it is not."""
        return Steering(modify_weights=self._mix_mean) if self.mean_share else None

    def _mix_mean(self, weights: Tensor, context: RuleContext) -> Tensor:
        return (1 - self.mean_share) * weights + self.mean_share * context.mean_attention

    # --- scores -----------------------------------------------------------------------------------------------------

    def row_logits(self, images: Tensor, text: TextEmbeddings) -> Tensor:
        """Score positions: (B, N, h, w) cosines, or what the method makes of them."""
        return self.score(self.dense_features(images), text)

    def score(self, features: DenseFeatures, text: TextEmbeddings) -> Tensor:
        """Compare features with the text embeddings.

        Args:
            features: of B images.
            text: N rows.

        Returns:
            (B, N, h, w) float32.
        """
        # Cosines of neighbouring classes differ by less than half precision can tell apart.
        with without_autocast(features.pixels):
            logits_BNhw = self._cosines(features, text) if self.surgery == "none" else self._surgery(features, text)
            if self.class_token_weight:
                shared_BN = F.normalize(features.cls.float(), dim=-1) @ text.rows.T
                logits_BNhw = logits_BNhw + self.class_token_weight * shared_BN[..., None, None]
        return scale_maps(logits_BNhw, (2, 3)) if self.map_scaling == "tokens" else logits_BNhw

    def _cosines(self, features: DenseFeatures, text: TextEmbeddings) -> Tensor:
        unit_BDhw = F.normalize(features.pixels.float(), dim=1)
        return torch.einsum("bdhw,nd->bnhw", unit_BDhw, text.rows)

    def _surgery(self, features: DenseFeatures, text: TextEmbeddings) -> Tensor:
        tokens_BND, cls_BD = unit_tokens(features.pixels, features.cls)
        if self.surgery == "class_mean":
            scores = feature_surgery(tokens_BND, cls_BD, text.rows, self.surgery_temperature)
        else:
            scores = redundant_surgery(tokens_BND, text.rows, self.redundant_row(text))
        return to_map(scores, features.grid)

    def redundant_row(self, text: TextEmbeddings) -> Tensor:
        """Return the (1, D) unit embedding of the empty text in the vocabulary's templates, made once for ``text``.

        ``fixed_redundant`` takes its place where it is set, for text embeddings that were made elsewhere.
        """
        if self.fixed_redundant is not None:
            return self.fixed_redundant.to(text.rows)
        if self._redundant is None or self._redundant[0] is not text.rows:
            self.ensure_weights("text")
            row = encode_names(self.clip.text, [""], self._vocabulary.templates)
            self._redundant = text.rows, row.to(text.rows)
        return self._redundant[1]

    def harness_settings(self) -> dict[str, str]:
        """Return what the harness prints beside its own settings: the method, and what differs from a plain tower."""
        plain = DenseOptions()
        changed = {
            item.name: getattr(self.dense, item.name)
            for item in fields(self.dense)
            if item.name != "taps" and getattr(self.dense, item.name) != getattr(plain, item.name)
        }
        settings = {"method": self.method, "dense": ", ".join(f"{key} {value}" for key, value in changed.items())}
        for name in ("surgery", "map_scaling", "class_token_weight", "mean_share"):
            if getattr(self, name) not in ("none", 0):
                settings[name] = str(getattr(self, name))
        settings["templates"] = str(len(self._vocabulary.templates))
        settings["pamr"] = "off" if self.pamr is None else f"{self.pamr.steps} steps, dilations {self.pamr.dilations}"
        return settings

    # --- at the original size ---------------------------------------------------------------------------------------

    def refiner(self, images: Tensor, ori_shape: tuple[int, int]) -> Refine | None:
        """Return PAMR guided by the image, and the scaling of whole maps, as far as they are on."""
        steps: list[Refine] = []
        if self.pamr is not None and self.pamr.steps:
            steps.append(self.pamr.guide(images[0, :3], ori_shape))
        if self.map_scaling == "image":
            steps.append(_scale_rows)
        return _Chain(steps) if steps else None


def _scale_rows(rows: Tensor) -> Tensor:
    return scale_maps(rows, (1, 2))


class _Chain:
    """Refinements one after the other."""

    def __init__(self, steps: list[Refine]) -> None:
        self._steps = steps

    def __call__(self, rows: Tensor) -> Tensor:
        for step in self._steps:
            rows = step(rows)
        return rows
