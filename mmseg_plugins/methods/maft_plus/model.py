"""MAFT+ (Jiao et al., "Collaborative Vision-Text Representation Optimizing", ECCV 2024) as an mmseg segmentor."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from mmseg.registry import MODELS
from torch import Tensor

from mmseg_plugins.classify.features import ClipMaskFeatures, EncodedImages, encode_images
from mmseg_plugins.classify.tokens import TokenOrder
from mmseg_plugins.classify.transfer import TransferVariant
from mmseg_plugins.masks.mask2former.criterion import SetCriterion
from mmseg_plugins.masks.proposals import MaskProposals, ProposalRequest
from mmseg_plugins.masks.targets import SegmentTargets, read_targets
from mmseg_plugins.methods.maft_plus.loading import MAFTPlusLoading
from mmseg_plugins.methods.maft_plus.losses import RC_SCALES, compensation_loss, mask_aware_loss
from mmseg_plugins.methods.maft_plus.original import MIXINGS, Mixing, PairedFeatures, mix_scores, pair, trunk_parameters
from mmseg_plugins.segmentors.mask import MaskSegmentor, masks_over_input
from mmseg_plugins.towers.clip import Clip, find_clip
from mmseg_plugins.vocabulary.class_logits import class_logits, clip_scale
from mmseg_plugins.vocabulary.embed import TextEmbeddings

# B batch, Q masks, T text rows (void last), K classes, D joint width


@MODELS.register_module()
class MAFTPlus(MAFTPlusLoading, MaskSegmentor):
    """CLIP's trunk fine-tuned together with a mask generator; text rows look at the image before they name masks.

    The generator gets features without gradient; the trunk learns from the mask-aware loss and the representation
    compensation alone, the text transfer from the former. CLIP's head, text tower and temperature stay as they were.
    Both the trunk and its frozen copy are always in eval mode: the published training switches stochastic depth on and
    off by accident and runs the copy with it.

    Args:
        variant: arithmetic of the text transfer, ``semantic`` or ``panoptic``; None: the checkpoint's record or file
            name decides.
        token_order: how the transfer reads the feature map; None: as the checkpoint records, ``legacy`` for published
            ones. Train new models with ``channels_last``.
        transfer_heads: attention heads of the transfer.
        teacher: keep a frozen copy of the original CLIP's image tower; training with compensation needs it, and so do
            ``original_share`` and ``generator_features='original'``. It is saved with the model.
        mask_aware_weight: weight of the mask-aware loss.
        compensation_weight: weight of the representation compensation; 0: none.
        compensation_scales: see :func:`~mmseg_plugins.methods.maft_plus.losses.pooled_descriptor`.
        criterion: arguments of :class:`~mmseg_plugins.masks.mask2former.criterion.SetCriterion`, the generator's loss.
        train_trunk: False keeps the trunk as it is as well, and only transfer and generator learn.
        freeze_generator: use the mask generator as it was loaded; it is neither trained nor its losses computed.
        generator_features: ``tuned``, as published, or ``original``: the generator sees the frozen copy's features, for
            one that was trained on them.
        original_share: share of the original CLIP in the scores of masks, 0 to 1; published 0.
        original_mixing: see :func:`~mmseg_plugins.methods.maft_plus.original.mix_scores`.
        scoring: see :class:`MaskSegmentor`; the published rule ``void`` unless given.
        **options: see :class:`MaskSegmentor`; ``text_transfer`` and ``freeze_clip`` are set here.
    """

    def __init__(
        self,
        *,
        clip: Mapping[str, Any],
        variant: TransferVariant | None = None,
        token_order: TokenOrder | None = None,
        transfer_heads: int = 8,
        teacher: bool = False,
        mask_aware_weight: float = 1.0,
        compensation_weight: float = 0.1,
        compensation_scales: Sequence[int] = RC_SCALES,
        criterion: Mapping[str, Any] | None = None,
        train_trunk: bool = True,
        freeze_generator: bool = False,
        generator_features: str = "tuned",
        original_share: float = 0.0,
        original_mixing: Mixing = "logits",
        scoring: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        transfer = {
            "type": "ContentDependentTransfer",
            "embed_dim": _joint_width(clip),
            "heads": transfer_heads,
            "variant": variant,
            "token_order": token_order,
        }
        super().__init__(
            clip=clip, text_transfer=transfer, freeze_clip=False, scoring=scoring or {"rule": "void"}, **options
        )
        _check_options(teacher, generator_features, original_share, original_mixing)
        self.teacher = Clip(self.clip.config, text=False) if teacher else None
        self.mask_aware_weight, self.compensation_weight = mask_aware_weight, compensation_weight
        self.compensation_scales = tuple(compensation_scales)
        self.criterion = SetCriterion(**(criterion or {}))
        self.train_trunk, self.freeze_generator = train_trunk, freeze_generator
        self.generator_features = generator_features
        self.original_share, self.original_mixing = original_share, original_mixing
        self.prepare_loading()
        self._choose_trainable()
        self.train(self.training)

    # --- what trains --------------------------------------------------------------------------------------------------

    def _choose_trainable(self) -> None:
        self.clip.requires_grad_(False)
        if self.train_trunk:
            for parameter in trunk_parameters(self.clip.visual).values():
                parameter.requires_grad_(True)
        frozen = [self.teacher]
        if self.freeze_generator:  # without the generator's losses the void row has no gradient either
            frozen += [self.proposals, self.pyramid, getattr(self, "void_embedding", None)]
        for part in frozen:
            if part is not None:
                part.requires_grad_(False)

    def train(self, mode: bool = True) -> "MAFTPlus":
        """Switch the mode; CLIP, its frozen copy and a frozen generator always stay in eval mode."""
        super().train(mode)
        parts = [getattr(self, "teacher", None)]
        if getattr(self, "freeze_generator", False):
            parts += [self.proposals, self.pyramid]
        for part in parts:
            if part is not None:
                part.eval()
        return self

    # --- network ------------------------------------------------------------------------------------------------------

    def encode(self, images: Tensor) -> EncodedImages:
        """Run the trunk, and its frozen copy where that is needed; the stages for the generator carry no gradient.

        Args:
            images: (B, 3, Hp, Wp) normalised.

        Returns:
            Features of the tuned trunk, :class:`PairedFeatures` where the copy ran.
        """
        self.ensure_weights("visual")
        tuned = encode_images(self.clip, images, self.dense)
        original = self._encode_original(images) if self._needs_original else None
        source = tuned if self.generator_features == "tuned" else original
        features = tuned.features if original is None else pair(tuned.features, original.features)
        stages = None if source.stages is None else [stage.detach() for stage in source.stages]
        if self.pyramid is not None:
            stages = self.pyramid(source.trunk.detach(), images)
        return EncodedImages(features=features, stages=stages, trunk=tuned.trunk, stride=tuned.stride)

    @property
    def _needs_original(self) -> bool:
        return self.original_share > 0 or self.generator_features == "original"

    def _original_features(self, features: ClipMaskFeatures, images: Tensor) -> ClipMaskFeatures:
        return features.original if isinstance(features, PairedFeatures) else self._encode_original(images).features

    @torch.no_grad()
    def _encode_original(self, images: Tensor) -> EncodedImages:
        self.ensure_teacher()
        return encode_images(self.teacher, images, self.dense)

    def transfer_text(self, text: TextEmbeddings, features: ClipMaskFeatures) -> Tensor:
        """Return the rows that masks are scored with: (B, T, D), or (T, D) for a file of FC-CLIP."""
        return super().transfer_text(text, features) if self.is_transferring else text.rows

    def out_vocabulary_logits(self, features: ClipMaskFeatures, masks: Any, text: TextEmbeddings) -> Tensor:
        """Score masks by the tuned CLIP, mixed with the original one where ``original_share`` says so."""
        tuned = super().out_vocabulary_logits(features, masks, text)
        if not self.original_share:
            return tuned
        embeddings = self.mask_classifier(features.original, masks)
        scale = clip_scale(self.clip.logit_scale)
        original = class_logits(embeddings, text.rows, text.row_class, text.num_classes, scale)
        classes = slice(0, text.num_classes - int(self.has_void))
        return mix_scores(tuned[..., classes], original[..., classes], self.original_share, self.original_mixing)

    # --- training -----------------------------------------------------------------------------------------------------

    def loss(self, inputs: Tensor, data_samples: list) -> dict[str, Tensor]:
        """Compute the losses of a batch.

        Args:
            inputs: (B, 3, H, W) normalised, padded with zeros.
            data_samples: B samples with ``gt_instances``, see :func:`mmseg_plugins.masks.targets.read_targets`.

        Returns:
            Weighted scalars: the generator's of every prediction, ``loss_mask_aware``, ``loss_compensation``.

        Raises:
            ValueError: if the segments do not fit, the images are too narrow for the compensation, or the model has no
                frozen copy to compare with.
        """
        if self.compensation_weight > 0 and self.teacher is None:
            raise ValueError("representation compensation compares with a frozen copy of CLIP: set teacher=True.")
        self.use_transfer()
        images, text = self.pad(inputs), self.training_text()
        num_classes = text.num_classes - int(self.has_void)
        size = tuple(images.shape[-2:])
        targets = read_targets(data_samples, size, device=images.device, num_classes=num_classes)
        encoded = self.encode(images)
        masks, losses = self._training_masks(encoded, images, text, targets, data_samples)
        logits = self._tuned_logits(encoded.features, masks, text)
        losses["loss_mask_aware"] = self.mask_aware_weight * mask_aware_loss(
            [image[..., :num_classes] for image in logits],
            masks,
            [target.labels for target in targets],
            [target.masks for target in targets],
        )
        if self.compensation_weight > 0:
            original = self._original_features(encoded.features, images).dense
            distance = compensation_loss(encoded.features.dense, original, self.compensation_scales)
            losses["loss_compensation"] = self.compensation_weight * distance
        return losses

    def _training_masks(
        self,
        encoded: EncodedImages,
        images: Tensor,
        text: TextEmbeddings,
        targets: list[SegmentTargets],
        data_samples: list,
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Return each image's (Q, h, w) masks over the padded input, without gradient, and the generator's losses."""
        if not self.has_decoder:
            return self._masks_of_source(encoded, images, text, data_samples), {}
        with torch.no_grad() if self.freeze_generator else nullcontext():
            predictions = self.decode(encoded.stages, text)
        losses = {} if self.freeze_generator else self.criterion(predictions, targets)
        return list(predictions[-1].mask_logits.detach()), losses

    @torch.no_grad()
    def _masks_of_source(
        self, encoded: EncodedImages, images: Tensor, text: TextEmbeddings, data_samples: list
    ) -> list[Tensor]:
        size = tuple(images.shape[-2:])
        sizes = [tuple(sample.metainfo.get("img_shape", size)[:2]) for sample in data_samples]
        request = ProposalRequest(
            images=images,
            image_sizes=sizes,
            stages=encoded.stages,
            text=text,
            data_samples=data_samples,
            mean=self.clip.visual.mean,
            std=self.clip.visual.std,
        )
        proposals: list[MaskProposals] = self.proposals.propose(request)
        return [masks_over_input(item, inner, size) for item, inner in zip(proposals, sizes, strict=True)]

    def _tuned_logits(self, features: ClipMaskFeatures, masks: list[Tensor], text: TextEmbeddings) -> list[Tensor]:
        """Return the tuned CLIP's (Q, K') logits of each image's masks."""
        rows_BTD = self.transfer_text(text, features)
        scale = clip_scale(self.clip.logit_scale)
        if len({len(image) for image in masks}) == 1:
            embeddings = self.mask_classifier(features, torch.stack(masks))
            return list(class_logits(embeddings, rows_BTD, text.row_class, text.num_classes, scale))
        return [
            class_logits(
                self.mask_classifier(features.image(index), image[None]),
                rows_BTD[index : index + 1],
                text.row_class,
                text.num_classes,
                scale,
            )[0]
            for index, image in enumerate(masks)
        ]

    def harness_settings(self) -> dict[str, str]:
        """Return what figures of this model depend on, for the printed result."""
        transfer = f"{self.text_transfer.variant}, tokens {self.text_transfer.token_order}"
        settings = {"text transfer": transfer if self.is_transferring else "none (weights of FC-CLIP)"}
        if self.original_share:
            settings["original CLIP"] = f"share {self.original_share} of the {self.original_mixing}"
        return super().harness_settings() | settings


def _joint_width(clip: Mapping[str, Any]) -> int:
    return find_clip(**{key: value for key, value in clip.items() if key not in ("image", "text")}).config.embed_dim


def _check_options(teacher: bool, generator_features: str, original_share: float, original_mixing: str) -> None:
    if generator_features not in ("tuned", "original"):
        raise ValueError(f"Expected generator_features to be 'tuned' or 'original', but got {generator_features!r}.")
    if original_mixing not in MIXINGS:
        raise ValueError(f"Expected original_mixing to be one of {MIXINGS}, but got {original_mixing!r}.")
    if not 0 <= original_share <= 1:
        raise ValueError(f"Expected original_share between 0 and 1, but got {original_share}.")
    if not teacher and (original_share > 0 or generator_features == "original"):
        raise ValueError("original_share and generator_features='original' need the original CLIP: set teacher=True.")
