"""Test-time augmentation for segmentors that keep logits only on request."""

from typing import Any

from mmseg.models.segmentors.seg_tta import SegTTAModel
from mmseg.registry import MODELS


@MODELS.register_module()
class OpenVocabularyTTAModel(SegTTAModel):
    """mmseg's average of softmax probabilities over the augmented views, with the logits it needs switched on.

    The softmax is taken over ``logit_scale`` times the logits of the test settings: cosines without a temperature
    would make all views alike.

    Args:
        **options: the arguments of mmseg's ``SegTTAModel``; ``module`` is the segmentor.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.module.test_cfg["keep_logits"] = True
