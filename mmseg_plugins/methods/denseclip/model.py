"""DenseCLIP: a pyramid and a head of mmseg, guided by the cosine map of pixels and class names.

Rao et al.: "DenseCLIP: Language-Guided Dense Prediction with Context-Aware Prompting", CVPR 2022 (arXiv 2112.01518).
"Post-model prompting" is what was released and what stands here. "Pre-model prompting", where queries attend to the
image and replace the contexts, is left out: no code was released and the paper's text does not fix its details.

B batch, N prompt rows (K classes, one row each unless a vocabulary with synonyms was set), C joint width, n contexts,
W text width, H W network input, h w grid of the dense map.
"""

import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict
from mmseg.models.segmentors import EncoderDecoder
from mmseg.registry import MODELS
from mmseg.utils import add_prefix
from torch import Tensor, nn

from mmseg_plugins.methods.denseclip.building import check_channels, check_pyramid, check_widths
from mmseg_plugins.methods.denseclip.checkpoint import ClipPretrained, load_clip, read_clip_file
from mmseg_plugins.methods.denseclip.class_text import ClassText, PredictFrom, new_contexts
from mmseg_plugins.methods.denseclip.vit_backbone import CLIPVisionTransformer
from mmseg_plugins.segmentors.label_maps import LabelMapPrediction, RowScorer, best_row
from mmseg_plugins.segmentors.strict_loading import StrictLoading
from mmseg_plugins.towers.prompts import DeepPrompts, PromptOptions, word_vectors

logger = logging.getLogger(__name__)

_INITIAL_GAMMA = 1e-4


def score_map(pixels_BChw: Tensor, text_BNC: Tensor) -> Tensor:
    """Cosine of every place with every text embedding, in float32.

    Args:
        pixels_BChw: dense map, not normalised.
        text_BNC: text embeddings of each image, not normalised.

    Returns:
        (B, N, h, w) in [-1, 1], without any temperature.
    """
    device = pixels_BChw.device.type
    has_autocast = torch.amp.is_autocast_available(device)
    with torch.autocast(device, enabled=False) if has_autocast else nullcontext():
        dtype = torch.promote_types(pixels_BChw.dtype, torch.float32)
        pixels, text = F.normalize(pixels_BChw.to(dtype), dim=1), F.normalize(text_BNC.to(dtype), dim=2)
        return torch.einsum("bchw,bnc->bnhw", pixels, text)


@MODELS.register_module()
class DenseCLIP(ClassText, LabelMapPrediction, StrictLoading, EncoderDecoder):
    """Supervised segmentor with a fixed set of classes, and an open vocabulary from its score map alone.

    The number of classes is built into neck and head, so the head cannot take other words. With
    ``predict_from='score_map'`` the label is that of the best cosine, which needs nothing of the head:
    :meth:`set_vocabulary` then takes any words.

    Args:
        backbone: config of a backbone that returns four maps and (global vector, dense map).
        text_encoder: config of the text encoder.
        context_decoder: config of the context decoder.
        decode_head: config of an mmseg head.
        class_names: K names in the order of the labels, or what they come from, see :func:`class_vocabulary`. They
            are part of the model: a checkpoint belongs to one list.
        context_length: tokens of a class name, start and end included; the text encoder's context length less this
            is the number of learned contexts.
        context_feature: must be ``attention``; the release's other value never worked.
        score_concat_index: level that the score map joins, the one at the dense map's resolution (ResNets 3, ViT with
            patches of 16: 2, of 8: 1); None: none, the pyramid stays as it is.
        is_score_map_scaled: whether the map that joins the level is divided by ``tau``, as in the release's detection
            models; its segmentation models take the raw cosines.
        text_head: whether the head also gets the text embeddings, in front of the levels.
        neck: config of an mmseg neck.
        tau: temperature of the auxiliary loss and of predictions from the score map.
        auxiliary_head: config of a further mmseg head for the loss.
        identity_head: config of the head whose loss trains the score map; None: no such loss.
        token_embed_dim: W.
        text_dim: C.
        freeze_text_encoder: whether the text encoder really stays as it is. False leaves it to the optimizer: with a
            learning-rate factor of 0 and ``WarmupPolyLR`` it drifts as in the release.
        cache_text: whether text embeddings are computed once in evaluation.
        predict_from: ``head``, or ``score_map``.
        prompts: fields of :class:`mmseg_plugins.towers.prompts.PromptOptions`: contexts from words or per class, the
            name's place, MaPLe's deep prompts.
        clip_pretrained: CLIP file that :meth:`init_weights` fills backbone and text encoder from.
        pretrained: the same under its name in published configs.
        train_cfg: mmseg's training settings.
        test_cfg: test settings, see :class:`LabelMapPrediction`.
        data_preprocessor: config of the data preprocessor.
        init_cfg: mmengine's initialisation config; ``Pretrained`` loads a whole checkpoint.
    """

    def __init__(
        self,
        *,
        backbone: Mapping[str, Any],
        text_encoder: Mapping[str, Any],
        context_decoder: Mapping[str, Any],
        decode_head: Mapping[str, Any],
        class_names: Any,
        context_length: int = 5,
        context_feature: Literal["attention"] = "attention",
        score_concat_index: int | None = 3,
        is_score_map_scaled: bool = False,
        text_head: bool = False,
        neck: Mapping[str, Any] | None = None,
        tau: float = 0.07,
        auxiliary_head: Any = None,
        identity_head: Mapping[str, Any] | None = None,
        token_embed_dim: int = 512,
        text_dim: int = 1024,
        freeze_text_encoder: bool = True,
        cache_text: bool = True,
        predict_from: PredictFrom = "head",
        prompts: Mapping[str, Any] | None = None,
        clip_pretrained: str | None = None,
        pretrained: str | None = None,
        train_cfg: Mapping[str, Any] | None = None,
        test_cfg: Mapping[str, Any] | None = None,
        data_preprocessor: Mapping[str, Any] | None = None,
        init_cfg: Any = None,
    ) -> None:
        _check_options(context_feature, predict_from, tau, clip_pretrained, pretrained)
        super().__init__(
            backbone=backbone,
            decode_head=decode_head,
            neck=neck,
            auxiliary_head=auxiliary_head,
            train_cfg=ConfigDict(train_cfg or {}),
            test_cfg=ConfigDict({"mode": "whole", **(test_cfg or {})}),
            data_preprocessor=data_preprocessor,
            init_cfg=init_cfg,
        )
        self.clip_pretrained = clip_pretrained or pretrained
        self.score_concat_index, self.text_head, self.tau = score_concat_index, text_head, tau
        self.is_score_map_scaled = is_score_map_scaled
        self.context_length, self.cache_text, self.predict_from = context_length, cache_text, predict_from
        self.prompts = PromptOptions(**(prompts or {}))
        self.text_encoder = MODELS.build(text_encoder)
        self.context_decoder = MODELS.build(context_decoder)
        if identity_head is not None:
            self.identity_head = MODELS.build(identity_head)
        self._has_weights = False
        self.set_up_classes(class_names)
        check_widths(self, token_embed_dim, text_dim)
        check_channels(self)
        self._build_prompts(token_embed_dim, text_dim)
        if freeze_text_encoder:
            self.text_encoder.requires_grad_(False)
        self.check_test_cfg()

    def _build_prompts(self, token_embed_dim: int, text_dim: int) -> None:
        count = self.text_encoder.context_length - self.context_length
        sets = self.num_classes if self.prompts.per_class else 1
        self.contexts = new_contexts(sets, count, token_embed_dim)
        self.gamma = nn.Parameter(torch.full((text_dim,), _INITIAL_GAMMA))
        if self.prompts.image and (self.prompts.per_class or not isinstance(self.backbone, CLIPVisionTransformer)):
            raise ValueError(
                "prompts.image needs a CLIPVisionTransformer backbone, and contexts shared by all classes."
            )
        if self.prompts.is_deep:
            width = self.backbone.width if self.prompts.image else None
            self.deep_prompts = DeepPrompts(count, token_embed_dim, depth=self.prompts.depth, image_width=width)

    def _init_decode_head(self, decode_head: Mapping[str, Any]) -> None:
        """Build the head; how many classes there are, the vocabulary says."""
        self.decode_head = MODELS.build(decode_head)
        self.align_corners = self.decode_head.align_corners

    # --- weights --------------------------------------------------------------------------------------------------

    def init_weights(self) -> None:
        """Initialise as mmengine does, then start from the CLIP file unless a whole checkpoint was loaded."""
        super().init_weights()
        cfgs = self.init_cfg if isinstance(self.init_cfg, (list, tuple)) else [self.init_cfg or {}]
        if not any(cfg.get("type") == "Pretrained" for cfg in cfgs):
            self._start_from_clip()
        self._has_weights, self._text = True, None

    def _start_from_clip(self) -> None:
        if self.clip_pretrained is not None:
            tensors = read_clip_file(self.clip_pretrained)
            for module in (self.backbone, self.text_encoder):
                if isinstance(module, ClipPretrained):
                    load_clip(module, tensors)
            logger.info("started from %s", self.clip_pretrained)
        if self.prompts.init is not None:
            words = word_vectors(self.text_encoder, self.prompts.init)
            if len(words) != self.contexts.shape[1]:
                raise ValueError(
                    f"prompts.init {self.prompts.init!r} has {len(words)} tokens, but there are "
                    f"{self.contexts.shape[1]} contexts (text_encoder.context_length - context_length)."
                )
            self.contexts.data.copy_(words.expand_as(self.contexts))

    def note_loaded(self, parts: tuple[str, ...]) -> None:
        """Drop what was computed from the weights before."""
        self._has_weights, self._text = True, None

    def _ensure_weights(self) -> None:
        if self._has_weights:
            return
        if self.clip_pretrained is not None:
            self._start_from_clip()
        if self.clip_pretrained is None or self.predict_from == "head":
            logger.warning("the decode head has random weights: load a checkpoint")
        self._has_weights, self._text = True, None

    # --- network --------------------------------------------------------------------------------------------------

    @property
    def with_identity_head(self) -> bool:
        """Whether the score map has a loss of its own."""
        return getattr(self, "identity_head", None) is not None

    def extract_feat(self, inputs: Tensor) -> tuple:
        """Return the backbone's four maps and (global vector, dense map)."""
        if self.prompts.image:
            return self.backbone(inputs, prompts=self.deep_prompts.image_prompts(self.contexts[0]))
        return self.backbone(inputs)

    def refine_text(self, embeddings: tuple[Tensor, Tensor]) -> Tensor:
        """Let the class embeddings look at the image: (B, N, C), not normalised.

        Args:
            embeddings: global vector (B, C) and dense map (B, C, h, w).
        """
        global_BC, pixels_BChw = embeddings
        context_BPC = torch.cat([global_BC[:, None], pixels_BChw.flatten(2).transpose(1, 2)], dim=1)
        text_BNC = self.encode_classes().expand(len(global_BC), -1, -1)
        return text_BNC + self.gamma * self.context_decoder(text_BNC, context_BPC)

    def after_extract_feat(self, x: tuple) -> tuple[Tensor, list[Tensor], Tensor]:
        """Compute what the text side adds to the backbone's output.

        Args:
            x: what :meth:`extract_feat` returns.

        Returns:
            Text embeddings (B, K, C), the pyramid with the score map joined to its level, and the score map
            (B, K, h, w).

        Raises:
            ValueError: if level and score map have different resolutions.
        """
        *pyramid, embeddings = x
        text_BKC = self.refine_text(embeddings)
        scores_BKhw = score_map(embeddings[1], text_BKC)
        index = self.score_concat_index
        if index is not None:
            if pyramid[index].shape[2:] != scores_BKhw.shape[2:]:
                raise ValueError(
                    f"level {index} has {tuple(pyramid[index].shape[2:])} places, but the score map has "
                    f"{tuple(scores_BKhw.shape[2:])}: set score_concat_index to the level of the same resolution."
                )
            joined_BKhw = scores_BKhw / self.tau if self.is_score_map_scaled else scores_BKhw
            pyramid[index] = torch.cat([pyramid[index], joined_BKhw.to(pyramid[index].dtype)], dim=1)
        return text_BKC, pyramid, scores_BKhw

    def _head_features(self, pyramid: Sequence[Tensor], text_BKC: Tensor) -> list[Tensor]:
        levels = list(pyramid)
        if self.with_neck:
            check_pyramid(self, pyramid)
            levels = list(self.neck(pyramid))
        return [text_BKC, *levels] if self.text_head else levels

    def small_logits(self, images: Tensor) -> Tensor:
        """Return (B, N, h, w) logits: the head's at stride 4, or the score map over ``tau``.

        Args:
            images: (B, 3, H, W) normalised.
        """
        x = self.extract_feat(images)
        if self.predict_from == "score_map":
            return score_map(x[-1][1], self.refine_text(x[-1])) / self.tau
        return self._head_logits(x)

    def _head_logits(self, x: tuple) -> Tensor:
        text, pyramid, _ = self.after_extract_feat(x)
        return self.decode_head.forward(self._head_features(pyramid, text))

    def row_scorer(self) -> RowScorer:
        """Return :meth:`small_logits` and the class of each of its channels."""
        self._ensure_weights()
        row_class = torch.tensor(self._vocabulary.row_class, device=self.texts.device)
        return RowScorer(self.small_logits, row_class, self.num_classes)

    def encode_decode(self, inputs: Tensor, batch_img_metas: Sequence[Any] | None = None) -> Tensor:
        """Return (B, K, H, W) class logits at the input size; holds them all, so :meth:`predict` does not use it."""
        rows_BNHW = F.interpolate(
            self.small_logits(inputs), inputs.shape[2:], mode="bilinear", align_corners=self.align_corners
        )
        row_class = torch.tensor(self._vocabulary.row_class, device=rows_BNHW.device)
        return rows_BNHW if len(row_class) == self.num_classes else best_row(rows_BNHW, row_class, self.num_classes)

    def _forward(self, inputs: Tensor, data_samples: Sequence[Any] | None = None) -> Tensor:
        return self._head_logits(self.extract_feat(inputs))

    def loss(self, inputs: Tensor, data_samples: list) -> dict[str, Tensor]:
        """Compute the losses ``decode.*``, ``aux_identity.*`` (score map) and ``aux.*``.

        Args:
            inputs: (B, 3, H, W) normalised.
            data_samples: B samples with ``gt_sem_seg``.

        Raises:
            ValueError: if other classes than those of the head were set.
        """
        if self._vocabulary.class_names != self._trained_names:
            raise ValueError("training needs the classes that the model was built for: set them again first.")
        self._has_weights = True
        x = self.extract_feat(inputs)
        text, pyramid, scores = self.after_extract_feat(x)
        features = self._head_features(pyramid, text)
        losses = self._decode_head_forward_train(features, data_samples)
        if self.with_identity_head:
            losses |= add_prefix(
                self.identity_head.loss(scores / self.tau, data_samples, self.train_cfg), "aux_identity"
            )
        if self.with_auxiliary_head:
            levels = features[1:] if self.text_head else features
            losses |= self._auxiliary_head_forward_train(levels if self.with_neck else x[:-1], data_samples)
        return losses


def _check_options(
    context_feature: str, predict_from: str, tau: float, clip_pretrained: str | None, pretrained: str | None
) -> None:
    if context_feature != "attention":
        raise ValueError(
            f"expected context_feature to be 'attention', but got {context_feature!r}: the release's other value "
            "leaves the visual context undefined."
        )
    if predict_from not in get_args(PredictFrom):
        raise ValueError(f"expected predict_from to be one of {get_args(PredictFrom)}, but got {predict_from!r}.")
    if not tau > 0:
        raise ValueError(f"expected tau to be positive, but got {tau}.")
    if clip_pretrained is not None and pretrained is not None:
        raise ValueError("clip_pretrained and pretrained mean the same: give one of them.")
