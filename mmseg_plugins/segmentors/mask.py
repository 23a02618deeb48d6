"""Base of the methods that find masks and then name them: FC-CLIP, Mask-Adapter, MAFT+, SAM with CLIP.

B images, Q masks, T text rows (void last where there is one), K classes, D joint width, H W image without padding,
Hp Wp padded network input.
"""

import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from typing import Any, ClassVar

import torch
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from mmseg_plugins.classify.ensemble import clip_scores, ensemble_scores, void_scores
from mmseg_plugins.classify.features import ClipMaskFeatures, EncodedImages, encode_images, has_stages
from mmseg_plugins.classify.pooling import valid_masks
from mmseg_plugins.classify.tokens import image_tokens
from mmseg_plugins.classify.void import append_void
from mmseg_plugins.masks.proposals import MaskProposals, ProposalRequest, ProposalSource
from mmseg_plugins.segmentors.mask_loading import MaskLoading
from mmseg_plugins.segmentors.mask_options import MaskOutputs, MaskScoring, read_options
from mmseg_plugins.segmentors.mask_prediction import SegmentsPrediction, masks_over_input
from mmseg_plugins.towers.dense import DenseOptions
from mmseg_plugins.vocabulary.class_logits import class_logits, clip_scale
from mmseg_plugins.vocabulary.embed import TextEmbeddings, embed
from mmseg_plugins.vocabulary.overlap import seen_mask

__all__ = ["MaskSegmentor", "masks_over_input"]

logger = logging.getLogger(__name__)

_SIZE_DIVISOR = 32  # coarsest stride of the decoders


@MODELS.register_module()
class MaskSegmentor(SegmentsPrediction, MaskLoading):
    """Masks from anywhere, named by CLIP.

    A derived class that trains overrides :meth:`loss`, usually from :meth:`encode`, :meth:`training_text` and
    :meth:`decode`. CLIP's towers stay in eval mode while training.

    Args:
        proposals: config of where masks come from: a decoder that is called with (stages, rows, row_class,
            num_classes), or a :class:`mmseg_plugins.masks.proposals.ProposalSource`.
        mask_classifier: config of a :class:`mmseg_plugins.classify.classifier.MaskClassifier`.
        text_transfer: config of a module (rows, tokens (B, D, h, w)) -> (B, T, D) that moves text rows towards the
            image in front of the out-of-vocabulary scores; None: none.
        pyramid: config of a module (trunk, images) -> four stages, for a decoder on a plain ViT; None: none.
        dense: how a ViT's attention is changed for pixel embeddings, fields of
            :class:`mmseg_plugins.towers.dense.DenseOptions`; None: MaskCLIP's value path.
        scoring: fields of :class:`MaskScoring`.
        outputs: fields of :class:`MaskOutputs`.
        freeze_clip: whether CLIP takes no gradient at all.
        size_divisor: what image sides are padded to with zeros; None: 32, or a ViT's patch side where that does not
            divide 32.
        align_corners: must stay False.
        **options: see :class:`OpenVocabularySegmentor`. ``test_cfg`` takes ``mode='whole'`` and ``keep_logits``, as
            in :class:`MaskOutputs`.
    """

    # The semantic scores are sums of probabilities; test-time augmentation averages them as they are.
    outputs_probabilities: ClassVar[bool] = True

    def __init__(
        self,
        *,
        proposals: Mapping[str, Any],
        mask_classifier: Mapping[str, Any] | None = None,
        text_transfer: Mapping[str, Any] | None = None,
        pyramid: Mapping[str, Any] | None = None,
        dense: Mapping[str, Any] | None = None,
        scoring: Mapping[str, Any] | None = None,
        outputs: Mapping[str, Any] | None = None,
        freeze_clip: bool = True,
        size_divisor: int | None = None,
        align_corners: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.scoring = read_options(MaskScoring, scoring, "scoring")
        self.outputs = read_options(MaskOutputs, outputs, "outputs")
        self.dense = None if dense is None else DenseOptions(**dense)
        self.proposals = MODELS.build(proposals)
        self.mask_classifier = MODELS.build(mask_classifier or {"type": "MaskPoolingClassifier"})
        self.text_transfer = None if text_transfer is None else MODELS.build(text_transfer)
        self.pyramid = None if pyramid is None else MODELS.build(pyramid)
        self.align_corners = align_corners
        self._check_parts()
        self.mask_classifier.check_segmentor(self)
        if self.has_void:
            self.void_embedding = nn.Embedding(1, self.clip.embed_dim)
        self.freeze_clip = freeze_clip
        if freeze_clip:
            self.clip.requires_grad_(False)
        stride = self.clip.visual.stride
        self.size_divisor = size_divisor or (_SIZE_DIVISOR if _SIZE_DIVISOR % stride == 0 else stride)

    # --- what fits what ---------------------------------------------------------------------------------------------

    @property
    def has_decoder(self) -> bool:
        """Whether masks come from a decoder on CLIP's stages, with in-vocabulary scores."""
        return not isinstance(self.proposals, ProposalSource)

    @property
    def gives_classes(self) -> bool:
        """Whether masks come with in-vocabulary scores."""
        return self.has_decoder or self.proposals.gives_classes

    @property
    def has_void(self) -> bool:
        """Whether there is a learned void row."""
        return self.gives_classes

    def _check_parts(self) -> None:
        name = type(self.proposals).__name__
        if self.clip.visual is None:
            raise ValueError("a mask segmentor needs CLIP's image tower: leave out clip=dict(image=False).")
        if self.align_corners:
            raise ValueError("align_corners=True is not supported: masks are resized with half-pixel centres.")
        if self.scoring.rule != "clip" and not self.gives_classes:
            raise ValueError(
                f"scoring.rule {self.scoring.rule!r} needs in-vocabulary scores, but proposals of {name} come without. "
                "Set scoring=dict(rule='clip')."
            )
        needs_stages = self.has_decoder or self.proposals.needs_stages
        if needs_stages and not has_stages(self.clip.visual) and self.pyramid is None:
            raise ValueError(
                f"{name} reads maps of strides 4 to 32, but {self.clip.config.name!r} is a plain transformer with one "
                f"grid. Set pyramid=dict(type='SimplePyramid', width={self.clip.visual.width}, "
                f"stride={self.clip.visual.stride})."
            )
        if self.pyramid is not None and has_stages(self.clip.visual):
            raise ValueError(f"{self.clip.config.name!r} has stages of its own: leave out pyramid.")
        if self.scoring.rule == "ensemble" and self.train_vocabulary is None:
            raise ValueError(
                "scoring.rule 'ensemble' treats classes that the decoder was trained on apart: set "
                "train_vocabulary=dict(source=...)."
            )
        if self.test_cfg.get("mode", "whole") != "whole" or set(self.test_cfg) - {"mode", "keep_logits"}:
            raise ValueError(
                f"test_cfg of a mask segmentor is dict(mode='whole', keep_logits=False), but got {dict(self.test_cfg)}."
            )

    # --- text -------------------------------------------------------------------------------------------------------

    @property
    def seen(self) -> Tensor:
        """(K,) bool: classes of the vocabulary in use that share a name with the training vocabulary."""
        if self.train_vocabulary is None:
            return torch.zeros(self.num_classes, dtype=torch.bool)
        return torch.tensor(seen_mask(self.vocabulary, self.train_vocabulary.vocabulary), dtype=torch.bool)

    def classifier_text(self) -> TextEmbeddings:
        """Return the rows of the vocabulary in use, with void last where there is one."""
        return self._with_void(self.text_embeddings)

    def training_text(self) -> TextEmbeddings:
        """Return the rows of the training vocabulary (the one in use where there is none), void last, with gradient."""
        if self.train_vocabulary is None:
            return self.classifier_text()
        if self._training_text is None:
            self.ensure_weights("text")
            config = self.train_vocabulary
            with torch.no_grad():
                self._training_text = embed(
                    self.clip.text,
                    config.vocabulary,
                    config.templates,
                    reduce=config.reduce,
                    normalize_each=config.normalize_each,
                    cache=self._cache,
                )
        self._training_text = self._training_text.to(next(self.parameters()).device)
        return self._with_void(self._training_text)

    def _with_void(self, text: TextEmbeddings) -> TextEmbeddings:
        return append_void(text, self.void_embedding.weight) if self.has_void else text

    # --- network ----------------------------------------------------------------------------------------------------

    def train(self, mode: bool = True) -> "MaskSegmentor":
        """Switch the mode; CLIP always stays in eval mode."""
        super().train(mode)
        self.clip.eval()
        return self

    def encode(self, images: Tensor) -> EncodedImages:
        """Run CLIP's image tower on padded images, without gradient where CLIP is frozen, and build the stages.

        Args:
            images: (B, 3, Hp, Wp) normalised.
        """
        self.ensure_weights("visual")
        with torch.no_grad() if self.freeze_clip else nullcontext():
            encoded = encode_images(self.clip, images, self.dense)
        if self.pyramid is None:
            return encoded
        return replace(encoded, stages=self.pyramid(encoded.trunk, images))

    def decode(self, stages: Sequence[Tensor], text: TextEmbeddings, *, all_predictions: bool = True) -> list[Any]:
        """Run the decoder.

        Args:
            stages: maps of strides 4 to 32.
            text: rows of the classes, void last.
            all_predictions: False: the final prediction alone, which is quicker and the same up to rounding.

        Returns:
            One :class:`~mmseg_plugins.masks.mask2former.predictions.MaskPrediction` each, the learned queries' first,
            the final last.
        """
        self.has_decoder_weights |= self.proposals.training
        return self.proposals(stages, text.rows, text.row_class, text.num_classes, all_predictions=all_predictions)

    def propose(self, request: ProposalRequest) -> list[MaskProposals]:
        """Find the masks of each image of a batch."""
        if not self.has_decoder:
            return self.proposals.propose(request)
        if not self.has_decoder_weights:
            logger.warning("the mask decoder has random weights: load a checkpoint")
            self.has_decoder_weights = True
        final = self.decode(request.stages, request.text, all_predictions=False)[-1]
        pairs = zip(final.mask_logits, final.class_logits, strict=True)
        return [MaskProposals(mask_logits=masks, class_logits=logits) for masks, logits in pairs]

    def transfer_text(self, text: TextEmbeddings, features: ClipMaskFeatures) -> Tensor:
        """Return the rows that masks are scored with: (T, D), or (B, T, D) where the image moves them."""
        if self.text_transfer is None:
            return text.rows
        tokens = image_tokens(features.dense, features.project, self.text_transfer.token_order)
        return self.text_transfer(text.rows, tokens)

    def out_vocabulary_logits(self, features: ClipMaskFeatures, masks: Any, text: TextEmbeddings) -> Tensor:
        """Score masks by CLIP.

        Args:
            features: of B images.
            masks: (B, Q, h, w) mask logits over the padded input, or what the classifier takes instead.
            text: rows of the classes.

        Returns:
            (B, Q, K) logits, or (B, Q, K + 1) with void last.
        """
        embeddings = self.mask_classifier(features, masks)
        rows = self.transfer_text(text, features)
        return class_logits(embeddings, rows, text.row_class, text.num_classes, clip_scale(self.clip.logit_scale))

    def score_masks(
        self, features: ClipMaskFeatures, proposals: MaskProposals, masks: Any, text: TextEmbeddings
    ) -> Tensor:
        """Return the log scores of one image's masks, (Q, K + 1), void last.

        Args:
            features: of this image, a batch of one.
            proposals: its masks.
            masks: the same over the padded input, (1, Q, h, w), or compressed.
            text: rows of the classes.
        """
        out_logits = self.out_vocabulary_logits(features, masks, text)
        rule, scoring = self.scoring.rule, self.scoring
        if rule == "clip":
            return clip_scores(out_logits, self.num_classes)[0]
        in_logits = proposals.class_logits[None] / scoring.in_temperature
        if rule == "void":
            return void_scores(in_logits, out_logits)[0]
        valid = valid_masks(masks, features.grid) if scoring.valid_only else None
        return ensemble_scores(in_logits, out_logits, self.seen, scoring.alpha, scoring.beta, valid)[0]

    def harness_settings(self) -> dict[str, str]:
        """Return what figures of this model depend on, for the printed result."""
        source = type(self.proposals).__name__
        settings = {
            "proposals": source if self.has_decoder else f"{source}({self.proposals.extra_repr()})",
            "mask_classifier": type(self.mask_classifier).__name__,
            "scoring": ", ".join(f"{key} {value}" for key, value in asdict(self.scoring).items()),
            "outputs": ", ".join(f"{key} {value}" for key, value in asdict(self.outputs).items()),
            "resize order": self.outputs.order,
        }
        if self.train_vocabulary is not None:
            settings["seen classes"] = f"{int(self.seen.sum())} of {self.num_classes}"
        return settings

    # --- mmseg's interface ------------------------------------------------------------------------------------------

    def extract_feat(self, inputs: Tensor) -> EncodedImages:
        """Return CLIP's features and stages of (B, 3, H, W) normalised images, padded."""
        return self.encode(self.pad(inputs))

    def _forward(self, inputs: Tensor, data_samples: Sequence[SegDataSample] | None = None) -> Any:
        encoded = self.extract_feat(inputs)
        if not self.has_decoder:
            return encoded.features.dense
        final = self.decode(encoded.stages, self.classifier_text(), all_predictions=False)[-1]
        return final.mask_logits, final.class_logits

    def encode_decode(self, inputs: Tensor, batch_data_samples: Sequence[Any] | None = None) -> Tensor:
        """Return (B, K, H, W) semantic scores at the input size; holds them all, so :meth:`predict` does not use it."""
        outputs, self.outputs = self.outputs, MaskOutputs(keep_logits=True)
        try:
            samples = self.predict(inputs)
        finally:
            self.outputs = outputs
        return torch.stack([sample.seg_logits.data for sample in samples])
