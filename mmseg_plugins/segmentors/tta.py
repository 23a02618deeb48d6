"""Test-time augmentation for segmentors that keep logits only on request."""

import itertools
from collections.abc import Sequence
from typing import Any

from mmseg.models.segmentors.seg_tta import SegTTAModel
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

_SMALLEST = 1e-30  # a probability whose logarithm float32 holds


@MODELS.register_module()
class OpenVocabularyTTAModel(SegTTAModel):
    """mmseg's average of softmax probabilities over the augmented views, with the logits it needs switched on.

    The softmax is taken over ``logit_scale`` times the logits of the test settings: cosines without a temperature
    would make all views alike. Scores that are probabilities already are averaged as they are, brought to sum to 1.

    Args:
        **options: the arguments of mmseg's ``SegTTAModel``; ``module`` is the segmentor.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.module.test_cfg["keep_logits"] = True

    def merge_preds(self, data_samples_list: list[Sequence[SegDataSample]]) -> list[SegDataSample]:
        """Average the views of each image."""
        if getattr(self.module, "outputs_probabilities", False):
            for sample in itertools.chain.from_iterable(data_samples_list):
                sample.seg_logits.data = sample.seg_logits.data.clamp_min(_SMALLEST).log()  # softmax undoes the log
        return super().merge_preds(data_samples_list)
