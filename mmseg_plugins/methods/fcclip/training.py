"""The training half of FC-CLIP: the decoder learns masks and in-vocabulary classes, CLIP stays as it is."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmseg.structures import SegDataSample
from torch import Tensor

from mmseg_plugins.masks.mask2former.criterion import SetCriterion
from mmseg_plugins.masks.targets import read_targets
from mmseg_plugins.segmentors.mask import MaskSegmentor

# B batch, H W image


class DecoderTraining(MaskSegmentor):
    """A mask segmentor whose decoder trains on annotated segments; CLIP's own scores are not used.

    Decoder, pyramid and void embedding train. Labels of the training data count the classes of ``train_vocabulary``,
    in its order.

    Args:
        criterion: arguments of :class:`~mmseg_plugins.masks.mask2former.criterion.SetCriterion`; None: the published
            ones.
        **options: see :class:`~mmseg_plugins.segmentors.mask.MaskSegmentor`.
    """

    def __init__(self, *, criterion: Mapping[str, Any] | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.criterion = SetCriterion(**(criterion or {}))

    def loss(self, inputs: Tensor, data_samples: Sequence[SegDataSample]) -> dict[str, Tensor]:
        """Compute the losses of a batch.

        Args:
            inputs: (B, 3, H, W) normalised.
            data_samples: B samples with ``gt_instances``, as ``PackSegments`` makes them.

        Returns:
            See :class:`~mmseg_plugins.masks.mask2former.criterion.SetCriterion`.

        Raises:
            ValueError: if masks do not come from a decoder, or a sample has no segments or unknown labels.
        """
        if not self.has_decoder:
            raise ValueError(f"proposals of {type(self.proposals).__name__} have nothing to train.")
        padded = self.pad(inputs)
        text = self.training_text()
        targets = read_targets(
            data_samples, tuple(padded.shape[-2:]), device=padded.device, num_classes=text.num_classes - 1
        )
        return self.criterion(self.decode(self.encode(padded).stages, text), targets)
