"""Base of the methods that find masks and then name them: FC-CLIP, Mask-Adapter, MAFT+, SAM with CLIP.

B images, Q masks, T text rows (void last where there is one), K classes, D joint width, H W image without padding,
Hp Wp padded network input.
"""

import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from mmengine.structures import InstanceData, PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from mmseg_plugins.classify.ensemble import clip_scores, ensemble_scores, void_scores
from mmseg_plugins.classify.features import ClipMaskFeatures, EncodedImages, encode_images, has_stages
from mmseg_plugins.classify.pooling import valid_masks
from mmseg_plugins.classify.rows import append_void, class_logits, clip_scale
from mmseg_plugins.classify.tokens import image_tokens
from mmseg_plugins.masks.proposals import MaskProposals, ProposalRequest, ProposalSource
from mmseg_plugins.prediction.segments import MaskGeometry, semantic_labels, semantic_scores
from mmseg_plugins.prediction.segments_instance import instance_masks
from mmseg_plugins.prediction.segments_panoptic import panoptic_segments
from mmseg_plugins.segmentors.base import OpenVocabularySegmentor
from mmseg_plugins.segmentors.label_maps import groups_of_one_shape, without_padding
from mmseg_plugins.segmentors.mask_checkpoint import DECODER_PARTS, NOT_MODEL, is_published, split_published
from mmseg_plugins.segmentors.mask_options import MaskOutputs, MaskScoring, read_options
from mmseg_plugins.towers.clip import clip_state
from mmseg_plugins.towers.dense import DenseOptions
from mmseg_plugins.vocabulary.embed import TextEmbeddings, embed
from mmseg_plugins.vocabulary.overlap import seen_mask

logger = logging.getLogger(__name__)

_SIZE_DIVISOR = 32  # coarsest stride of the decoders
_FLIPPED_AXIS = {"horizontal": -1, "vertical": -2}


@MODELS.register_module()
class MaskSegmentor(OpenVocabularySegmentor):
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
        **options: see :class:`OpenVocabularySegmentor`. ``test_cfg`` takes ``mode='whole'`` only.
    """

    # Leading texts of published names to ours, and of what is left out.
    published_parts: ClassVar[dict[str, str]] = DECODER_PARTS
    published_ignored: ClassVar[tuple[str, ...]] = NOT_MODEL

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
        if self.has_void:
            self.void_embedding = nn.Embedding(1, self.clip.embed_dim)
        self.freeze_clip = freeze_clip
        if freeze_clip:
            self.clip.requires_grad_(False)
        stride = self.clip.visual.stride
        self.size_divisor = size_divisor or (_SIZE_DIVISOR if _SIZE_DIVISOR % stride == 0 else stride)
        self._training_text: TextEmbeddings | None = None

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
                f"grid. Set pyramid=dict(type='SimplePyramid', in_channels={self.clip.visual.width})."
            )
        if self.pyramid is not None and has_stages(self.clip.visual):
            raise ValueError(f"{self.clip.config.name!r} has stages of its own: leave out pyramid.")
        if self.scoring.rule == "ensemble" and self.train_vocabulary is None:
            raise ValueError(
                "scoring.rule 'ensemble' treats classes that the decoder was trained on apart: set "
                "train_vocabulary=dict(source=...)."
            )
        if self.test_cfg.get("mode", "whole") != "whole" or set(self.test_cfg) - {"mode"}:
            raise ValueError(f"test_cfg of a mask segmentor is dict(mode='whole'), but got {dict(self.test_cfg)}.")

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

    def pad(self, images: Tensor, flip: str | None = None) -> Tensor:
        """Zero-pad (B, 3, H, W) to multiples of ``size_divisor``, right and bottom, or where a flip puts these."""
        bottom, right = (-side % self.size_divisor for side in images.shape[-2:])
        left, top = 0, 0
        if flip == "horizontal":
            left, right = right, 0
        elif flip == "vertical":
            top, bottom = bottom, 0
        return F.pad(images, (left, right, top, bottom))

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

    def decode(self, stages: Sequence[Tensor], text: TextEmbeddings) -> list[Any]:
        """Run the decoder: one :class:`MaskPrediction` per prediction, the learned queries' first, the final last."""
        return self.proposals(stages, text.rows, text.row_class, text.num_classes)

    def propose(self, request: ProposalRequest) -> list[MaskProposals]:
        """Find the masks of each image of a batch."""
        if not self.has_decoder:
            return self.proposals.propose(request)
        final = self.decode(request.stages, request.text)[-1]
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
        in_logits = proposals.class_logits[None]
        if rule == "void":
            return void_scores(in_logits, out_logits)[0]
        valid = valid_masks(masks, features.grid) if scoring.valid_only else None
        return ensemble_scores(in_logits, out_logits, self.seen, scoring.alpha, scoring.beta, valid)[0]

    # --- prediction -------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def predict(self, inputs: Tensor, data_samples: Sequence[SegDataSample] | None = None) -> list[SegDataSample]:
        """Segment the original images.

        Padding that the data preprocessor added is cut off and put on anew, so that a batch gives what its images give
        one by one.

        Args:
            inputs: (B, 3, H, W) normalised.
            data_samples: B samples with the geometry (``ori_shape``, ``padding_size``, flips) in their metainfo.

        Returns:
            The samples with what ``outputs`` asks for: ``pred_sem_seg`` (1, H0, W0) int64; ``pred_panoptic_seg`` with
            ``data`` (1, H0, W0) segment ids and ``segments_info`` in its metainfo; ``pred_instances`` with ``masks``,
            ``labels`` and ``scores``; ``seg_logits`` (K, H0, W0).
        """
        samples = [SegDataSample() for _ in inputs] if data_samples is None else list(data_samples)
        images = [without_padding(image, sample) for image, sample in zip(inputs, samples, strict=True)]
        for group in groups_of_one_shape(images):
            flips = {_flip_of(samples[index]) for index in group}
            for flip in flips:
                some = [index for index in group if _flip_of(samples[index]) == flip]
                self._predict_batch(torch.stack([images[i] for i in some]), [samples[i] for i in some], flip)
        return samples

    def _predict_batch(self, images: Tensor, samples: Sequence[SegDataSample], flip: str | None) -> None:
        size = tuple(images.shape[-2:])
        padded = self.pad(images, flip)
        encoded = self.encode(padded)
        text = self.classifier_text()
        request = ProposalRequest(
            images=padded,
            image_sizes=[size] * len(images),
            stages=encoded.stages,
            text=text,
            data_samples=samples,
            mean=self.clip.visual.mean,
            std=self.clip.visual.std,
        )
        for index, proposals in enumerate(self.propose(request)):
            sample = samples[index]
            scores = self._scores(encoded.features.image(index), proposals, text, size, tuple(padded.shape[-2:]))
            mask_logits, geometry = self._placed(proposals, sample, size, tuple(padded.shape[-2:]), flip)
            self._store(sample, scores, mask_logits, geometry)

    def _scores(
        self,
        features: ClipMaskFeatures,
        proposals: MaskProposals,
        text: TextEmbeddings,
        size: tuple[int, int],
        padded_size: tuple[int, int],
    ) -> Tensor:
        if not len(proposals.mask_logits):
            return features.dense.new_zeros((0, self.num_classes + 1), dtype=torch.float32)
        masks = proposals.poolable
        if masks is None:
            masks = masks_over_input(proposals, size, padded_size)[None]
        return self.score_masks(features, proposals, masks, text)

    def _placed(
        self,
        proposals: MaskProposals,
        sample: SegDataSample,
        size: tuple[int, int],
        padded_size: tuple[int, int],
        flip: str | None,
    ) -> tuple[Tensor, MaskGeometry]:
        output_size = tuple(sample.metainfo.get("ori_shape", size)[:2])
        if proposals.covers == "image":
            if flip is not None:
                raise ValueError(f"{type(self.proposals).__name__} gives masks of the image as it is: leave out flips.")
            return proposals.mask_logits, MaskGeometry(output_size=output_size)
        masks = proposals.mask_logits if flip is None else proposals.mask_logits.flip(_FLIPPED_AXIS[flip])
        return masks, MaskGeometry(output_size=output_size, padded_size=padded_size, image_size=size)

    def _store(self, sample: SegDataSample, scores: Tensor, mask_logits: Tensor, geometry: MaskGeometry) -> None:
        outputs = self.outputs
        if outputs.semantic:
            background = self.vocabulary.background
            labels, _ = semantic_labels(
                scores,
                mask_logits,
                geometry,
                order=outputs.order,
                threshold=background.threshold,
                background_index=background.index or 0,
            )
            sample.set_data({"pred_sem_seg": PixelData(data=labels[None])})
        if outputs.keep_logits:
            logits = semantic_scores(scores, mask_logits, geometry, order=outputs.order)
            sample.set_data({"seg_logits": PixelData(data=logits)})
        if outputs.panoptic:
            self._store_panoptic(sample, scores, mask_logits, geometry)
        if outputs.instance:
            things = self.is_thing if outputs.panoptic else None
            found = instance_masks(scores, mask_logits, geometry, top_k=outputs.top_k, is_thing=things)
            data = InstanceData(masks=found.masks, labels=found.labels, scores=found.scores)
            sample.set_data({"pred_instances": data})

    def _store_panoptic(
        self, sample: SegDataSample, scores: Tensor, mask_logits: Tensor, geometry: MaskGeometry
    ) -> None:
        found = panoptic_segments(
            scores,
            mask_logits,
            geometry,
            is_thing=self.is_thing,
            object_mask_threshold=self.outputs.object_mask_threshold,
            overlap_threshold=self.outputs.overlap_threshold,
        )
        data = PixelData(data=found.ids[None], metainfo={"segments_info": found.segments_info})
        sample.set_data({"pred_panoptic_seg": data})

    @property
    def is_thing(self) -> tuple[bool, ...]:
        """K flags; where the vocabulary does not say, what ``outputs.things`` says."""
        flags = self.vocabulary.is_thing
        return (self.outputs.things,) * self.num_classes if flags is None else tuple(flags)

    # --- weights ----------------------------------------------------------------------------------------------------

    def adapt_checkpoint(self, state: Mapping[str, Any]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
        """Accept the published layout of FC-CLIP's family, checkpoints trained here, and CLIP's own files."""
        if not is_published(state):
            return super().adapt_checkpoint(state)
        published = split_published(state, self.published_parts, ignored=self.published_ignored)
        tensors, parts = dict(published.own), published.parts
        if published.clip:
            self._converted = converted = clip_state(self.clip, published.clip)
            tensors |= {f"clip.{key}": value for key, value in converted.tensors.items()}
            parts += tuple(f"clip.{part}" for part in converted.parts)
        else:
            logger.info("the file leaves CLIP out: its weights come from clip.pretrained")
        return tensors, parts

    def note_loaded(self, parts: tuple[str, ...]) -> None:
        """Drop the text embeddings of both vocabularies."""
        super().note_loaded(parts)
        self._training_text = None

    # --- mmseg's interface ------------------------------------------------------------------------------------------

    def extract_feat(self, inputs: Tensor) -> EncodedImages:
        """Return CLIP's features and stages of (B, 3, H, W) normalised images, padded."""
        return self.encode(self.pad(inputs))

    def _forward(self, inputs: Tensor, data_samples: Sequence[SegDataSample] | None = None) -> Any:
        encoded = self.extract_feat(inputs)
        if not self.has_decoder:
            return encoded.features.dense
        final = self.decode(encoded.stages, self.classifier_text())[-1]
        return final.mask_logits, final.class_logits

    def encode_decode(self, inputs: Tensor, batch_data_samples: Sequence[Any] | None = None) -> Tensor:
        """Return (B, K, H, W) semantic scores at the input size; holds them all, so :meth:`predict` does not use it."""
        outputs, self.outputs = self.outputs, MaskOutputs(keep_logits=True)
        try:
            samples = self.predict(inputs)
        finally:
            self.outputs = outputs
        return torch.stack([sample.seg_logits.data for sample in samples])


def masks_over_input(proposals: MaskProposals, size: tuple[int, int], padded_size: tuple[int, int]) -> Tensor:
    """Return (Q, h, w) mask logits that cover the padded input; masks of the image alone get an outside around them.

    Args:
        proposals: masks.
        size: (height, width) of the image inside the padded input.
        padded_size: of the padded input.
    """
    masks = proposals.mask_logits
    if proposals.covers == "input" or size == padded_size:
        return masks
    height, width = masks.shape[-2:]
    bottom = round(height * padded_size[0] / size[0]) - height
    right = round(width * padded_size[1] / size[1]) - width
    return F.pad(masks, (0, right, 0, bottom), value=-float(masks.abs().max()))


def _flip_of(sample: SegDataSample) -> str | None:
    if not sample.metainfo.get("flip"):
        return None
    direction = sample.metainfo.get("flip_direction")
    if direction not in _FLIPPED_AXIS:
        raise ValueError(f'flip_direction must be "horizontal" or "vertical", but got {direction!r}.')
    return direction
