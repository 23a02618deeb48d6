"""How a mask segmentor's masks become predictions on the mmseg side: padding, flips, batches, outputs.

B images, Q masks, K classes, H W image without padding, Hp Wp padded network input, H0 W0 original image.
"""

from abc import abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample
from torch import Tensor

from mmseg_plugins.classify.features import ClipMaskFeatures, EncodedImages
from mmseg_plugins.masks.proposals import MaskProposals, ProposalRequest
from mmseg_plugins.prediction.segments import MaskGeometry, semantic_labels, semantic_scores
from mmseg_plugins.prediction.segments_instance import instance_masks
from mmseg_plugins.prediction.segments_panoptic import panoptic_segments
from mmseg_plugins.segmentors.label_maps import groups_of_one_shape, without_padding
from mmseg_plugins.segmentors.mask_options import MaskOutputs
from mmseg_plugins.vocabulary.embed import TextEmbeddings

_FLIPPED_AXIS = {"horizontal": -1, "vertical": -2}


class SegmentsPrediction:
    """Mixin that gives a segmentor of masks ``predict``. What it holds, ``outputs`` says."""

    outputs: MaskOutputs
    size_divisor: int

    @abstractmethod
    def encode(self, images: Tensor) -> EncodedImages:
        """Run CLIP's image tower on padded images."""

    @abstractmethod
    def classifier_text(self) -> TextEmbeddings:
        """Return the rows of the vocabulary in use, with void last where there is one."""

    @abstractmethod
    def propose(self, request: ProposalRequest) -> list[MaskProposals]:
        """Find the masks of each image of a batch."""

    @abstractmethod
    def score_masks(
        self, features: ClipMaskFeatures, proposals: MaskProposals, masks: object, text: TextEmbeddings
    ) -> Tensor:
        """Return the log scores of one image's masks, (Q, K + 1), void last."""

    def pad(self, images: Tensor, flip: str | None = None) -> Tensor:
        """Zero-pad (B, 3, H, W) to multiples of ``size_divisor``, right and bottom, or where a flip puts these."""
        bottom, right = (-side % self.size_divisor for side in images.shape[-2:])
        left, top = 0, 0
        if flip == "horizontal":
            left, right = right, 0
        elif flip == "vertical":
            top, bottom = bottom, 0
        return F.pad(images, (left, right, top, bottom))

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
        if not len(proposals):
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
        if outputs.keep_logits or self.test_cfg.get("keep_logits", False):
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
