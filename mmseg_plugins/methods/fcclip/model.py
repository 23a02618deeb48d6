"""FC-CLIP: a mask decoder on the stages of a frozen convolutional CLIP.

Yu, He, Deng, Shen, Chen: "Convolutions Die Hard: Open-Vocabulary Segmentation with Single Frozen Convolutional CLIP",
NeurIPS 2023 (arXiv 2308.02487).
"""

from collections.abc import Mapping
from typing import Any

from mmseg.registry import MODELS

from mmseg_plugins.methods.fcclip.training import DecoderTraining


@MODELS.register_module()
class FCCLIP(DecoderTraining):
    """Masks from a Mask2Former decoder, classes from the decoder and from mask-pooled CLIP features together.

    Published checkpoints load key for key, with or without CLIP in them; without, CLIP comes from
    ``clip['pretrained']``. A plain ViT takes part through ``pyramid``.

    Args:
        proposals: config of the decoder, ``dict(type='OpenVocabularyMask2Former', ...)``.
        train_vocabulary: what the decoder was trained on (published: ``coco_panoptic_133``); decides which classes
            are seen.
        scoring: fields of :class:`mmseg_plugins.segmentors.mask_options.MaskScoring`; the published alpha 0.4 and
            beta 0.8 by default. ResNets need ``valid_only=True`` for published numbers.
        **options: see :class:`~mmseg_plugins.methods.fcclip.training.DecoderTraining`.
    """

    def __init__(
        self,
        *,
        proposals: Mapping[str, Any],
        train_vocabulary: Any,
        scoring: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(proposals=proposals, train_vocabulary=train_vocabulary, scoring=scoring, **options)
