"""ResCLIP: a training-free method whose own first answer changes the attention of its second pass.

B batch, Q prompt rows, N = h*w patches, P = 1 + N tokens, H W image, h w grid.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from mmseg.registry import MODELS
from torch import Tensor

from mmseg_plugins.methods.training_free.feedback import (
    confident_labels,
    label_attention,
    mix_residual,
    patch_labels,
    with_class_token_gap,
)
from mmseg_plugins.methods.training_free.model import TrainingFree
from mmseg_plugins.prediction.pamr import PAMR
from mmseg_plugins.segmentors.mask_options import read_options
from mmseg_plugins.towers.dense import DenseFeatures, RuleContext, Steering
from mmseg_plugins.towers.vit import DenseViT
from mmseg_plugins.vocabulary.embed import TextEmbeddings

_LAST_INPUT = "block/-2"


@dataclass(frozen=True, kw_only=True)
class Residual:
    """RCS: attention of earlier blocks mixed into that of the last one.

    Attributes:
        temperature: factor of the mixture; its rows sum to it.
        share: of the earlier blocks.
        blocks: which, counted from 0.
    """

    temperature: float = 2.0
    share: float = 0.3
    blocks: tuple[int, ...] = (5, 6, 7, 8)


@dataclass(frozen=True, kw_only=True)
class Feedback:
    """SFR: scores between patches that the first pass gave one label.

    Attributes:
        temperature: factor of the mixture of scores.
        share: of the labels.
        threshold: pixels with a lower probability count as row 0.
        gaussian_std: blur of the label attention, in patches.
        delete_same_entity: see :func:`~mmseg_plugins.methods.training_free.feedback.label_attention`.
        pamr: refinement of the first answer.
    """

    temperature: float = 2.2
    share: float = 0.7
    threshold: float = 0.5
    gaussian_std: float = 5.0
    delete_same_entity: bool = True
    pamr: PAMR = field(default_factory=PAMR)


@dataclass
class FirstPass:
    """What the first pass leaves behind.

    Attributes:
        features: of the first pass.
        mean_attention: (B, heads, P, P) of the earlier blocks, None without RCS.
    """

    features: DenseFeatures
    mean_attention: Tensor | None


@MODELS.register_module()
class ResCLIP(TrainingFree):
    """A rule of :class:`TrainingFree` with the residual attention of ResCLIP.

    Yang et al., CVPR 2025 (arXiv 2411.15851). The defaults are those published for VOC21. In the release the switches
    for RCS and SFR have no effect and M is rounded to half precision; neither is so here.

    Args:
        method: base rule: ``naclip`` (published), ``clearclip``, ``sclip`` or ``clip``; ``dense`` crosses it with the
            kept or dropped residual.
        residual: fields of :class:`Residual`; False: without.
        feedback: fields of :class:`Feedback`, ``pamr`` as ``dict(steps=, dilations=)``; False: without.
        **options: see :class:`TrainingFree`. The first pass takes its ``logit_scale`` from ``test_cfg``.

    Raises:
        ValueError: if the tower has fewer blocks than RCS wants, or is not CLIP's own transformer.
    """

    def __init__(
        self,
        *,
        method: str = "naclip",
        residual: Mapping[str, Any] | bool = True,
        feedback: Mapping[str, Any] | bool = True,
        **options: Any,
    ) -> None:
        super().__init__(method=method, **options)
        self.residual = (
            None if residual is False else read_options(Residual, {} if residual is True else residual, "residual")
        )
        self.feedback = None if feedback is False else _read_feedback({} if feedback is True else feedback)
        tower = self.clip.visual
        if not isinstance(tower, DenseViT):
            raise ValueError(
                f"ResCLIP works on CLIP's own transformer, but {self.clip.config.name!r} has another tower."
            )
        blocks = () if self.residual is None else tuple(self.residual.blocks)
        if blocks and max(blocks) >= len(tower.blocks) - 1:
            raise ValueError(
                f"residual.blocks {blocks} must lie before the last of the tower's {len(tower.blocks)} blocks. "
                f"Choose others, such as residual=dict(blocks=({max(len(tower.blocks) - 3, 0)},))."
            )
        self.dense = replace(self.dense, mean_blocks=blocks, taps=(*self.dense.taps, _LAST_INPUT))

    def row_logits(self, images: Tensor, text: TextEmbeddings) -> Tensor:
        """Score positions: (B, N, h, w) cosines of the second pass."""
        first = self.first_pass(images)
        if self.feedback is None:
            return self.score(first.features, text)
        labels_Bhw = self.first_labels(self.first_probabilities(first, images, text))
        return self.score(self.second_pass(first, self.label_attention(labels_Bhw)), text)

    def harness_settings(self) -> dict[str, str]:
        """Return the method's settings, with those of its two additions."""
        return {**super().harness_settings(), "residual": str(self.residual), "feedback": str(self.feedback)}

    @torch.no_grad()
    def first_pass(self, images: Tensor) -> FirstPass:
        """Run the tower with RCS and without SFR on (B, 3, H, W) normalised images."""
        kept: list[Tensor] = []

        def mix(weights: Tensor, context: RuleContext) -> Tensor:
            kept.append(context.mean_attention)
            return self._mix_residual(weights, context.mean_attention)

        steering = None if self.residual is None else Steering(modify_weights=mix)
        features = self.clip.visual.forward_dense(images, self.dense, steering=steering)
        return FirstPass(features, kept[0] if kept else None)

    def _mix_residual(self, weights: Tensor, mean_attention: Tensor) -> Tensor:
        return mix_residual(weights, mean_attention, self.residual.temperature, self.residual.share)

    def first_probabilities(self, first: FirstPass, images: Tensor, text: TextEmbeddings) -> Tensor:
        """Return the first answer: (B, Q, H, W) probabilities over the prompt rows, after PAMR."""
        logits = F.interpolate(self.score(first.features, text), images.shape[2:], mode="bilinear", align_corners=False)
        refined = torch.stack([self.feedback.pamr.guide(image)(row) for image, row in zip(images, logits, strict=True)])
        return (refined * self.test_cfg.get("logit_scale", 1.0)).softmax(dim=1)

    def first_labels(self, probabilities_BQHW: Tensor) -> Tensor:
        """Return the patch labels (B, h, w) of the first answer, indices of prompt rows."""
        patch = self.clip.visual.stride
        return torch.stack(
            [patch_labels(confident_labels(image, self.feedback.threshold), patch) for image in probabilities_BQHW]
        )

    def label_attention(self, labels_Bhw: Tensor) -> Tensor:
        """Return M of every image with zeros for the class token, (B, P, P)."""
        settings = self.feedback
        matrices = [
            label_attention(labels, gaussian_std=settings.gaussian_std, delete_same_entity=settings.delete_same_entity)
            for labels in labels_Bhw
        ]
        return with_class_token_gap(torch.stack(matrices))

    @torch.no_grad()
    def second_pass(self, first: FirstPass, label_attention_BPP: Tensor) -> DenseFeatures:
        """Run the last block again, with SFR and, where it is on, RCS."""
        largest = label_attention_BPP.amax(dim=(1, 2), keepdim=True)
        scaled_B1PP = (label_attention_BPP / largest)[:, None]

        def add_labels(scores: Tensor, _context: RuleContext) -> Tensor:
            other = scaled_B1PP.to(scores.dtype)
            return mix_residual(scores, other, self.feedback.temperature, self.feedback.share)

        def mix(weights: Tensor, _context: RuleContext) -> Tensor:
            return self._mix_residual(weights, first.mean_attention)

        steering = Steering(modify_scores=add_labels, modify_weights=None if self.residual is None else mix)
        tower, features = self.clip.visual, first.features
        taps = tuple(tap for tap in self.dense.taps if tap != _LAST_INPUT)
        options = replace(self.dense, mean_blocks=(), first_block=-1, taps=taps)
        return tower.forward_tokens(features.extras[_LAST_INPUT], features.grid, options, steering=steering, start=-1)


def _read_feedback(settings: Mapping[str, Any]) -> Feedback:
    values = dict(settings)
    if isinstance(values.get("pamr"), Mapping):
        values["pamr"] = read_options(PAMR, values["pamr"], "feedback.pamr")
    return read_options(Feedback, values, "feedback")
