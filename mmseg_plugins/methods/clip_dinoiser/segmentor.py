"""What CLIP-DINOiser and its teachers' own segmentor share: pooling CLIP's features by something's correlations.

B batch, N prompt rows, D joint width, C channels of the descriptors, H W image, h w grid.
"""

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from mmseg_plugins.methods.clip_dinoiser.pooling import (
    at_least_float32,
    class_probabilities,
    force_background,
    pad_corner,
    pool_by_correlation,
)
from mmseg_plugins.ops._precision import without_autocast
from mmseg_plugins.segmentors.pixel import PixelSegmentor
from mmseg_plugins.towers.dense import DenseFeatures, DenseOptions
from mmseg_plugins.vocabulary.embed import TextEmbeddings


@dataclass(frozen=True)
class Guidance:
    """What says which positions to average.

    Attributes:
        unit: (B, C, h, w) descriptors of unit length; their cosines are the weights.
        is_foreground: (B, 1, h, w) bool; None where it was not asked for.
    """

    unit: Tensor
    is_foreground: Tensor | None = None


class CorrelationPooling(PixelSegmentor):
    """Probabilities of CLIP's value features, averaged over what belongs together.

    The result of :meth:`row_logits` is a probability already, background step included, as the release averages its
    windows and resizes.

    Args:
        gamma: smallest correlation that counts in the average.
        delta: with the background step, positions whose best row reaches this probability keep it.
        softmax_scale: inverse temperature.
        use_background: whether positions without an object become background, see
            :func:`~mmseg_plugins.methods.clip_dinoiser.pooling.force_background`. None: where the vocabulary has a
            background class with words, as in the release's demonstration; its benchmarks do it on VOC-21 and
            COCO-Object, and not on Context-60.
        positions_per_step: how many positions' weights are held at a time, see
            :func:`~mmseg_plugins.methods.clip_dinoiser.pooling.pool_by_correlation`.
        taps: what the tower hands over beside its features.
        **options: see :class:`~mmseg_plugins.segmentors.pixel.PixelSegmentor`.

    Raises:
        ValueError: if a threshold lies outside its range.
    """

    outputs_probabilities: ClassVar[bool] = True

    def __init__(
        self,
        *,
        gamma: float = 0.2,
        delta: float = 0.99,
        softmax_scale: float = 100.0,
        use_background: bool | None = None,
        positions_per_step: int | None = None,
        taps: Iterable[str] = (),
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if not -1 <= gamma < 1:
            raise ValueError(f"expected gamma to be a cosine in [-1, 1), but got {gamma}.")
        if not 0 <= delta <= 1:
            raise ValueError(f"expected delta to be a probability in [0, 1], but got {delta}.")
        self.gamma, self.delta, self.softmax_scale = gamma, delta, softmax_scale
        self.use_background, self.positions_per_step = use_background, positions_per_step
        self.dense = DenseOptions(taps=tuple(taps))
        self.clip.requires_grad_(False)

    def train(self, mode: bool = True) -> "CorrelationPooling":
        """Set the mode of what is trained; CLIP stays in eval mode."""
        super().train(mode)
        self.clip.eval()
        return self

    # --- images ---------------------------------------------------------------------------------------------------

    def _statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, (3,) each on the 0..255 scale, that the images were normalised with."""
        mean, std = (getattr(self.data_preprocessor, name, None) for name in ("mean", "std"))
        if mean is None or std is None:
            mean, std = torch.tensor(self.clip.visual.mean), torch.tensor(self.clip.visual.std)
        return mean.flatten(), std.flatten()

    def pad(self, images: Tensor) -> Tensor:
        """Pad (B, 3, H, W) normalised images with black at the bottom and right to whole patches."""
        mean, std = self._statistics()
        return pad_corner(images, self.clip.visual.stride, -mean / std)

    def unit_range(self, images: Tensor) -> Tensor:
        """Undo the normalisation: RGB in [0, 1], which the teachers start from."""
        mean, std = (value.to(images)[:, None, None] / 255 for value in self._statistics())
        return images * std + mean

    # --- network --------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def dense_features(self, images: Tensor) -> DenseFeatures:
        """Return CLIP's features of padded images."""
        return self.clip.visual.forward_dense(images, self.dense)

    @abstractmethod
    def guide(self, images: Tensor, features: DenseFeatures, *, with_foreground: bool) -> Guidance:
        """Say which positions belong together.

        Args:
            images: (B, 3, H, W) normalised and padded.
            features: CLIP's, of these images.
            with_foreground: whether the mask of objects is needed too.
        """

    def row_logits(self, images: Tensor, text: TextEmbeddings) -> Tensor:
        """Return the probability of every prompt row at every position of the padded grid, background step done."""
        images = self.pad(images)
        features = self.dense_features(images)
        row = self._background_row(text)
        guidance = self.guide(images, features, with_foreground=row is not None)
        return self.probabilities(features.pixels, guidance, text, row)

    def probabilities(
        self, pixels: Tensor, guidance: Guidance, text: TextEmbeddings, background_row: int | None = None
    ) -> Tensor:
        """Pool, compare with the text, and do the background step.

        Args:
            pixels: (B, D, h, w) CLIP's features, not normalised.
            guidance: which positions belong together.
            text: N rows.
            background_row: row of the background; None: no such step.

        Returns:
            (B, N, h, w) in float32.
        """
        with without_autocast(pixels):
            pooled = self.pool(pixels, guidance.unit)
            probabilities = class_probabilities(pooled, text.rows.to(pooled), self.softmax_scale)
        if background_row is None:
            return probabilities
        return force_background(probabilities, guidance.is_foreground, row=background_row, delta=self.delta)

    def pool(self, pixels: Tensor, unit: Tensor) -> Tensor:
        """Average (B, D, h, w) features by the correlations of descriptors, at full precision."""
        with without_autocast(pixels):
            return pool_by_correlation(
                at_least_float32(pixels), at_least_float32(unit), self.gamma, positions_per_step=self.positions_per_step
            )

    def harness_settings(self) -> dict[str, str]:
        """Return what a result is printed with beside the common settings."""
        index = self.vocabulary.background.index
        has_words = index is not None and bool(self.vocabulary.prompts[index])
        is_decided = has_words and self.use_background is not False
        return {
            "gamma": str(self.gamma),
            "templates": str(len(self._vocabulary.templates)),
            "background decided by objectness": f"{is_decided}, delta {self.delta}" if is_decided else "False",
        }

    def _background_row(self, text: TextEmbeddings) -> int | None:
        """First prompt row of the background class; None where the step is off."""
        if self.use_background is False:
            return None
        index = self.vocabulary.background.index
        classes = text.row_class.tolist()
        if index is not None and index in classes:
            return classes.index(index)
        if self.use_background:
            raise ValueError(
                "use_background=True needs a background class with words, but the vocabulary has none. "
                "Give background='background' with the vocabulary, or set use_background=False."
            )
        return None
