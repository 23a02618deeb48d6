"""Mask-Adapter as an mmseg segmentor, on FC-CLIP, on MAFT+, or on masks from elsewhere."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor

from mmseg_plugins.classify.ensemble import EPS
from mmseg_plugins.classify.features import ClipMaskFeatures, EncodedImages, encode_images
from mmseg_plugins.masks.proposals import MaskProposals, ProposalRequest
from mmseg_plugins.masks.targets import SegmentTargets, read_targets
from mmseg_plugins.methods.mask_adapter.classifier import MaskAdapterClassifier
from mmseg_plugins.methods.mask_adapter.loading import MaskAdapterLoading
from mmseg_plugins.methods.mask_adapter.losses import classification_loss, consistency_loss
from mmseg_plugins.methods.mask_adapter.matching import (
    AdapterMasks,
    MatchedPair,
    ground_truth_masks,
    logit,
    mask_iou,
    masks_on_stride,
    match_by_iou,
    mixed_masks,
    without_empty,
)
from mmseg_plugins.methods.mask_adapter.options import AdapterTraining, MaskSkipping
from mmseg_plugins.methods.mask_adapter.skipping import SkipCount, masks_that_matter
from mmseg_plugins.segmentors.mask import MaskSegmentor, masks_over_input
from mmseg_plugins.segmentors.mask_options import read_options
from mmseg_plugins.vocabulary.class_logits import class_logits, clip_scale
from mmseg_plugins.vocabulary.embed import TextEmbeddings

logger = logging.getLogger(__name__)

# B batch, Q masks of the decoder, N masks of a training step, K classes, D joint width, H W padded image


@MODELS.register_module()
class MaskAdapterSegmentor(MaskAdapterLoading, MaskSegmentor):
    """A mask segmentor whose masks CLIP names through a mask adapter. Only the adapter, and the void embedding, train.

    On MAFT+ give ``text_transfer=dict(type='ContentDependentTransfer', ...)``; the fine-tuned trunk comes from the
    file. Masks may come from anywhere (``proposals``); without in-vocabulary scores set ``scoring=dict(rule='clip')``,
    and published files are read for their CLIP and adapter.

    Args:
        mask_classifier: config of a
            :class:`~mmseg_plugins.methods.mask_adapter.classifier.MaskAdapterClassifier`.
        base_checkpoint: file of FC-CLIP or MAFT+, or the name of its record, that training starts on, and that
            completes files without a decoder.
        training: fields of :class:`~mmseg_plugins.methods.mask_adapter.options.AdapterTraining`.
        skipping: fields of :class:`~mmseg_plugins.methods.mask_adapter.options.MaskSkipping`.
        **options: see :class:`MaskSegmentor`; ``scoring`` takes alpha and beta of the base (FC-CLIP L 0.7 and 0.9,
            MAFT+ B 0.7 and 1, MAFT+ L 0.8 and 1).

    Attributes:
        skip_count: masks that were not shown to the adapter so far.

    Raises:
        ValueError: if the classifier is no mask adapter or of another width than CLIP, CLIP is not frozen, or masks are
            to be skipped that come without the probability of void.
    """

    def __init__(
        self,
        *,
        mask_classifier: Mapping[str, Any],
        base_checkpoint: str | None = None,
        training: Mapping[str, Any] | None = None,
        skipping: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(mask_classifier=mask_classifier, **options)
        self.training_options = read_options(AdapterTraining, training, "training")
        self.skipping = read_options(MaskSkipping, skipping, "skipping")
        self.base_checkpoint, self.skip_count = base_checkpoint, SkipCount()
        self.random_parts = {"mask_classifier.": "mask adapter"}
        if self.text_transfer is not None:
            self.random_parts["text_transfer."] = "text transfer"
        self._check_adapter()
        for part in (self.proposals, self.pyramid, self.text_transfer):
            if part is not None:
                part.requires_grad_(False)
        if self.has_void:
            self.void_embedding.requires_grad_(self.training_options.train_void)
        self.train(self.training)

    def _check_adapter(self) -> None:
        classifier = self.mask_classifier
        if not isinstance(classifier, MaskAdapterClassifier):
            raise ValueError(
                "Expected mask_classifier=dict(type='MaskAdapterClassifier', ...), but got "
                f"{type(classifier).__name__}. Use MaskSegmentor, FCCLIP or MAFTPlus for other classifiers."
            )
        if classifier.adapter.embed_dim != self.clip.embed_dim:
            raise ValueError(
                f"the adapter is {classifier.adapter.embed_dim} wide, but {self.clip.config.name!r} embeds in "
                f"{self.clip.embed_dim}. Set mask_classifier.embed_dim={self.clip.embed_dim}."
            )
        if not self.freeze_clip:
            raise ValueError("a mask adapter learns on a frozen CLIP: leave out freeze_clip=False.")
        if self.skipping.is_on and not self.gives_classes:
            raise ValueError(
                f"masks of {type(self.proposals).__name__} come without the probability of void, by which masks would "
                "be skipped: leave out skipping."
            )

    def train(self, mode: bool = True) -> "MaskAdapterSegmentor":
        """Switch the mode; all but the adapter always stays in eval mode."""
        super().train(mode)
        for part in (self.proposals, self.pyramid, self.text_transfer):
            if part is not None:
                part.eval()
        return self

    # --- inference ----------------------------------------------------------------------------------------------------

    def propose(self, request: ProposalRequest) -> list[MaskProposals]:
        """Find the masks of each image, decoded where they came compressed."""
        if self.random_parts:
            logger.warning(
                "random weights: %s. Load a checkpoint that holds them", ", ".join(self.random_parts.values())
            )
            self.random_parts = {}
        return [
            MaskProposals(
                mask_logits=found.mask_logits, covers=found.covers, class_logits=found.class_logits, extras=found.extras
            )
            for found in super().propose(request)
        ]

    def score_masks(
        self, features: ClipMaskFeatures, proposals: MaskProposals, masks: Any, text: TextEmbeddings
    ) -> Tensor:
        """Return the log scores of one image's masks, (Q, K + 1), void last; masks that were skipped are void."""
        if not self.skipping.is_on:
            return super().score_masks(features, proposals, masks, text)
        kept_Q = masks_that_matter(proposals.class_logits, self.skipping, self.outputs)
        self.skip_count.add(kept_Q)
        some = replace(
            proposals, mask_logits=proposals.mask_logits[kept_Q], class_logits=proposals.class_logits[kept_Q]
        )
        void = torch.tensor([EPS] * self.num_classes + [1 + EPS], device=kept_Q.device).log()
        scores = void.repeat(len(kept_Q), 1)
        if kept_Q.any():
            scores[kept_Q] = super().score_masks(features, some, masks[:, kept_Q], text)
        return scores

    def harness_settings(self) -> dict[str, str]:
        """Return what figures of this model depend on, for the printed result."""
        settings = super().harness_settings()
        classifier, skipping = self.mask_classifier, self.skipping
        settings["mask_adapter"] = (
            f"threshold {classifier.threshold}, token order {classifier.token_order}, "
            f"blocks in {classifier.adapter.half or 'full precision'}"
        )
        if skipping.is_on:
            settings["skipping"] = (
                f"semantic budget {skipping.semantic_budget:g}, panoptic {skipping.panoptic}; skipped {self.skip_count}"
            )
        return settings

    @torch.no_grad()
    def activation_maps(self, inputs: Tensor, masks: Tensor | None = None) -> Tensor:
        """Return the maps that masks pool CLIP's features with, for drawing.

        Args:
            inputs: (B, 3, H, W) normalised images.
            masks: (B, Q, h, w) mask logits over the images; None: the decoder's.

        Returns:
            (B, Q, K, h', w') over the padded input, each of sum 1.

        Raises:
            ValueError: if there are no masks and no decoder.
        """
        images = self.pad(inputs)
        encoded = self.encode(images)
        if masks is None:
            if not self.has_decoder:
                raise ValueError(f"proposals of {type(self.proposals).__name__} need data samples: pass the masks.")
            masks = self.decode(encoded.stages, self.classifier_text(), all_predictions=False)[-1].mask_logits
        else:
            given = MaskProposals(mask_logits=masks, covers="image")
            masks = masks_over_input(given, tuple(inputs.shape[-2:]), tuple(images.shape[-2:]))
        return self.mask_classifier.activation_maps(encoded.features, masks)

    # --- training -----------------------------------------------------------------------------------------------------

    def loss(self, inputs: Tensor, data_samples: Sequence[SegDataSample]) -> dict[str, Tensor]:
        """Compute the losses of a batch.

        Args:
            inputs: (B, 3, H, W) normalised.
            data_samples: B samples with ``gt_instances``, see :func:`mmseg_plugins.masks.targets.read_targets`.

        Returns:
            Weighted scalars ``loss_mask_class``, and ``loss_consistency`` in the mixed phase.

        Raises:
            ValueError: if segments do not fit, or the mixed phase has no decoder.
        """
        self.random_parts.pop("mask_classifier.", None)
        self.mask_classifier.settle("channels_last")  # what new adapters learn on, unless a choice was made
        options, images, text = self.training_options, self.pad(inputs), self.training_text()
        num_classes = text.num_classes - int(self.has_void)
        size = tuple(images.shape[-2:])
        targets = read_targets(data_samples, size, device=images.device, num_classes=num_classes)
        targets = [without_empty(item) for item in targets]
        if options.phase == "ground_truth":
            features = self._encode_alone(images).features
            masks = ground_truth_masks(targets, options.num_masks)
        else:
            features, masks = self._mixed_phase(images, targets, text)
        embeddings = self.embed_masks(features, masks)
        return self.losses_of(embeddings, masks, features, text)

    def losses_of(
        self, embeddings: Tensor, masks: AdapterMasks, features: ClipMaskFeatures, text: TextEmbeddings
    ) -> dict[str, Tensor]:
        """Return the weighted losses of (B, N, D) mask embeddings."""
        options = self.training_options
        logits = self.logits_of(embeddings, features, text)
        losses = {"loss_mask_class": options.class_weight * classification_loss(logits, masks.labels)}
        if options.phase == "mixed":
            distance = consistency_loss(
                embeddings,
                masks.pairs,
                masks.is_real,
                detach_target=options.detach_target,
                count_padding=options.count_padding,
            )
            losses["loss_consistency"] = options.consistency_weight * distance
        return losses

    def logits_of(self, embeddings: Tensor, features: ClipMaskFeatures, text: TextEmbeddings) -> Tensor:
        """Score (B, N, D) mask embeddings against the text rows: (B, N, K) or (B, N, K + 1) with void."""
        rows = self.transfer_text(text, features)
        return class_logits(embeddings, rows, text.row_class, text.num_classes, clip_scale(self.clip.logit_scale))

    def embed_masks(self, features: ClipMaskFeatures, masks: AdapterMasks) -> Tensor:
        """Embed the masks of a training step, (B, N, D); all padding of an image is one mask and is embedded once."""
        if masks.has_full_padding:
            return self.mask_classifier.embed(features, masks.masks)
        is_real_BN = masks.is_real
        count = is_real_BN.shape[1]
        width = int(is_real_BN.sum(1).clamp(max=count - 1).max()) + 1
        first_BN = is_real_BN.logical_not().to(torch.int8).argsort(dim=1, stable=True)[:, :width]
        rows = torch.arange(len(first_BN), device=first_BN.device)[:, None]
        embedded = self.mask_classifier.embed(features, masks.masks[rows, first_BN])
        place_BN = torch.where(is_real_BN, is_real_BN.cumsum(1) - 1, is_real_BN.sum(1, keepdim=True))
        return embedded[rows, place_BN.clamp(max=width - 1)]

    @torch.no_grad()
    def _encode_alone(self, images: Tensor) -> EncodedImages:
        """Run CLIP without the stages for a decoder."""
        self.ensure_weights("visual")
        return encode_images(self.clip, images, self.dense)

    @torch.no_grad()
    def _mixed_phase(
        self, images: Tensor, targets: Sequence[SegmentTargets], text: TextEmbeddings
    ) -> tuple[ClipMaskFeatures, AdapterMasks]:
        if not self.has_decoder:
            raise ValueError(
                f"the mixed phase needs a decoder's predictions, but masks come from {type(self.proposals).__name__}. "
                "Set training=dict(phase='ground_truth')."
            )
        encoded = self.encode(images)
        mask_logits = self.decode(encoded.stages, text, all_predictions=False)[-1].mask_logits.float()
        pairs = [self.match(logits, item) for logits, item in zip(mask_logits, targets, strict=True)]
        return encoded.features, self.mix(targets, mask_logits, pairs)

    def overlaps(self, mask_logits_Qhw: Tensor, targets: SegmentTargets) -> Tensor:
        """Return the (Q, n) overlap of predictions with annotated masks, on the predictions' grid."""
        predicted = mask_logits_Qhw >= logit(self.training_options.iou_binarise)
        return mask_iou(predicted, masks_on_stride(targets.masks, tuple(mask_logits_Qhw.shape[-2:])))

    def match(self, mask_logits_Qhw: Tensor, targets: SegmentTargets) -> MatchedPair:
        """Choose the pairs of one image."""
        options = self.training_options
        return match_by_iou(self.overlaps(mask_logits_Qhw, targets), options.iou_threshold, options.num_matched)

    def mix(self, targets: Sequence[SegmentTargets], mask_logits: Tensor, pairs: Sequence[MatchedPair]) -> AdapterMasks:
        """Put together the masks of the mixed phase, see :func:`mixed_masks`."""
        options = self.training_options
        return mixed_masks(
            targets,
            mask_logits,
            pairs,
            num_gt=options.num_gt,
            num_matched=options.num_matched,
            threshold=self.mask_classifier.threshold,
            full_padding=options.full_padding,
        )
