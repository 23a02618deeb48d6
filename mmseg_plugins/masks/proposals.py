"""Where masks come from, as a segmentor sees it.

B images, Q masks, T text rows (void last), K classes.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from mmseg_plugins.vocabulary.embed import TextEmbeddings


@dataclass(kw_only=True)
class ProposalRequest:
    """What a source of masks is told.

    Attributes:
        images: (B, 3, Hp, Wp) normalised, padded.
        image_sizes: (height, width) of each image inside the padded input, from the top left corner.
        stages: maps of strides 4 to 32 for a decoder, None where the segmentor has none.
        text: the vocabulary's rows with void last; None where there is no void embedding.
        data_samples: B samples with ``img_path``, ``ori_shape`` and whatever ground truth was loaded, or None.
        mean, std: RGB statistics that the images were normalised with, 0..255.
    """

    images: Tensor
    image_sizes: Sequence[tuple[int, int]]
    stages: list[Tensor] | None
    text: TextEmbeddings | None
    data_samples: Sequence[Any] | None
    mean: Sequence[float]
    std: Sequence[float]

    @property
    def padded_size(self) -> tuple[int, int]:
        """(Hp, Wp) of the network input."""
        return tuple(self.images.shape[-2:])


@dataclass(kw_only=True)
class MaskProposals:
    """Masks of one image.

    Attributes:
        mask_logits: (Q, h, w) logits at any resolution, positive inside. Binary masks: a large positive and negative
            number.
        covers: what the masks cover: ``input``, the padded network input; ``image``, the image without padding (then
            they are resized to the original size once).
        class_logits: (Q, K + 1) in-vocabulary logits, void last; None from sources that do not know classes.
        poolable: the same masks in compressed form for pooling, see
            :class:`mmseg_plugins.classify.classifier.PoolableMasks`; None: ``mask_logits`` are pooled.
        extras: whatever else a source gives (``iou``, ``stability``, ...), (Q,) each.
    """

    mask_logits: Tensor
    covers: Literal["input", "image"] = "input"
    class_logits: Tensor | None = None
    poolable: Any = None
    extras: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.mask_logits)


class ProposalSource(nn.Module):
    """A source of masks that is not a trained decoder on CLIP's stages: SAM, ground truth.

    Subclasses register in mmseg's MODELS; a segmentor chooses one by ``proposals=dict(type=...)``.

    ``extra_repr`` says the settings that results depend on; they are printed with every result.

    Attributes:
        gives_classes: whether its masks carry in-vocabulary logits.
        needs_stages: whether it reads ``ProposalRequest.stages``.
    """

    gives_classes: ClassVar[bool] = False
    needs_stages: ClassVar[bool] = False

    @abstractmethod
    def propose(self, request: ProposalRequest) -> list[MaskProposals]:
        """Return the masks of each image; their number may differ between images and be 0."""
