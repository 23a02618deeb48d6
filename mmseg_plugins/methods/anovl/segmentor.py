"""AnoVL in mmseg: two classes, the normal and the damaged state of what the images show.

B batch, N = h*w patches, D joint width, M sentences of a state, H W network input.
"""

from collections.abc import Sequence
from typing import Any

import torch
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor

from mmseg_plugins.methods.anovl.maps import abnormal_probability, enlarge_map, smooth_map
from mmseg_plugins.methods.anovl.model import AnoVL
from mmseg_plugins.methods.anovl.prompts import encode_states, state_embeddings, state_names
from mmseg_plugins.segmentors.pixel import PixelSegmentor
from mmseg_plugins.vocabulary.embed import TextEmbeddings

CLASSES = ("normal", "damaged")


@MODELS.register_module()
class AnoVLSegmentor(PixelSegmentor):
    """Zero-shot maps of damage.

    Deng et al., AnoVL (arXiv 2308.15939). A pixel is damaged where that is more probable than ``threshold``; published
    figures rank the probabilities (``test_cfg.keep_logits`` stores them in ``seg_logits``) and need no threshold.

    Args:
        class_name: what the images show, such as ``bottle`` or ``carpet``; :meth:`set_class` changes it.
        threshold: least probability of damage, in [0.5, 1]; probabilities stay near one half.
        adapted: train an adapter for each image at test time, from a new random start. The release's optimiser keeps
            its moments from image to image; here each image starts afresh, so that order does not matter.
        image_score: also score whole images by 22 views, into the data sample's metainfo as ``anomaly_score``.
        **options: see :class:`PixelSegmentor`, but for ``vocabulary``.

    Raises:
        ValueError: if the threshold is out of range, or the image tower is not CLIP's own transformer.
    """

    outputs_probabilities = True

    def __init__(
        self,
        *,
        class_name: str,
        threshold: float = 0.5,
        adapted: bool = False,
        image_score: bool = False,
        **options: Any,
    ) -> None:
        if not 0.5 <= threshold <= 1:
            raise ValueError(f"expected threshold to be in [0.5, 1], but got {threshold}.")
        super().__init__(vocabulary=_states(class_name, threshold), **options)
        self.class_name, self.threshold, self.adapted, self.image_score = class_name, threshold, adapted, image_score
        self._sentences: Tensor | None = None
        self._network(torch.empty(0))  # refuses other towers now and not at the first image

    def set_class(self, name: str) -> None:
        """Choose what the images show."""
        self.class_name, self._sentences = name, None
        self.set_vocabulary(_states(name, self.threshold))

    @property
    def text_embeddings(self) -> TextEmbeddings:
        """The two states as text embeddings, made on first use and kept until class or weights change."""
        if self._text is None:
            self._text = TextEmbeddings(state_embeddings(self.sentences().float()), torch.arange(2), 2)
        self._text = self._text.to(next(self.parameters()).device)
        return self._text

    def harness_settings(self) -> dict[str, str]:
        """Return what the harness prints beside its own settings."""
        return {"class": self.class_name, "adapted": str(self.adapted), "image score": str(self.image_score)}

    def row_logits(self, images: Tensor, text: TextEmbeddings) -> Tensor:
        """Return the probabilities of both states, (B, 2, H, W), at the size of the images."""
        network = self._network(self.sentences() if self.adapted else torch.empty(0))
        tokens, grid = network.tokens(images)
        patches_BND = tokens[:, 1:]
        if self.adapted:
            patches_BND = torch.stack([network.adapt_tokens(one) for one in patches_BND])
        probability = abnormal_probability(patches_BND, text.rows).unflatten(1, grid)
        damaged_BHW = enlarge_map(smooth_map(probability), tuple(images.shape[2:]))
        return torch.stack([1 - damaged_BHW, damaged_BHW], dim=1)

    @torch.no_grad()
    def predict(self, inputs: Tensor, data_samples: Sequence[SegDataSample] | None = None) -> list[SegDataSample]:
        """Name every pixel, see :class:`LabelMapPrediction`, and score the images where that is asked for."""
        samples = super().predict(inputs, data_samples)
        if self.image_score:
            network = self._network(self.sentences())
            for image, sample in zip(inputs, samples, strict=True):
                left, right, top, bottom = sample.metainfo.get("padding_size", (0, 0, 0, 0))
                shown = image[:, top : image.shape[1] - bottom, left : image.shape[2] - right]
                sample.set_metainfo({"anomaly_score": float(network.score_image(shown))})
        return samples

    def sentences(self) -> Tensor:
        """Return the sentence embeddings of both states, (2, M, D), not normalised; made once for a class."""
        if self._sentences is None:
            self.ensure_weights("text")
            with torch.no_grad():
                self._sentences = encode_states(self.clip.text, self.class_name)
        return self._sentences.to(next(self.parameters()).device)

    def note_loaded(self, parts: tuple[str, ...]) -> None:
        """Remember which towers are filled and drop what the old weights made."""
        super().note_loaded(parts)
        self._sentences = None

    def _network(self, sentences_2MD: Tensor) -> AnoVL:
        network = AnoVL(self.clip, adapted=self.adapted)
        network.set_sentences(sentences_2MD)
        return network


def _states(name: str, threshold: float) -> dict[str, Any]:
    """The two classes with the names of their states; how these become text embeddings is the method's own."""
    names = dict(zip(CLASSES, map(list, state_names(name)), strict=True))
    return {"source": names, "background": {"name": CLASSES[0], "threshold": threshold}}
