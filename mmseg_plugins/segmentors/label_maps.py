"""How a segmentor with small logits names pixels on the mmseg side: windows, batches, padding, flips, ``test_cfg``."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import Tensor

from mmseg_plugins.prediction.label_map import LabelMap, Refine, Scoring, predict_label_map
from mmseg_plugins.prediction.windows import RowLogits, Windows
from mmseg_plugins.vocabulary.background import Background

# B batch, N prompt rows, K classes, H W network input

_TEST_KEYS = {
    "mode", "crop_size", "stride", "window_batch", "pad_multiple", "resize_order", "logit_scale", "softmax",
    "area_threshold", "keep_logits",
}  # fmt: skip
_ANY_SIZE = (2**31, 2**31)  # a window that holds every image whole


@dataclass(frozen=True)
class RowScorer:
    """What scores positions against prompt rows.

    Attributes:
        network: (b, 3, H, W) normalised images to (b, N, h, w) logits.
        row_class: (N,) class of each row; None: row n is class n.
        num_classes: K; None: as many as rows.
    """

    network: RowLogits
    row_class: Tensor | None = None
    num_classes: int | None = None


class LabelMapPrediction:
    """Mixin that gives a segmentor ``predict`` without ever holding K x H x W.

    A class whose scores are probabilities already sets ``outputs_probabilities``: no softmax is taken of them again.

    ``test_cfg`` takes

    * ``mode``: ``'whole'`` or ``'slide'``, the latter with ``crop_size`` and ``stride`` as (height, width);
      ``window_batch`` (8) windows run at once; ``pad_multiple`` zero-pads windows, or the whole image, to multiples;
    * ``resize_order``: ``'mmseg'`` (network input size first, then the original size) or ``'direct'``;
    * ``logit_scale`` (1), ``softmax`` (``'rows'``, ``'classes'`` or ``'none'``) and ``area_threshold``: see
      :class:`mmseg_plugins.prediction.label_map.Scoring`; the probability threshold is the background's;
    * ``keep_logits`` (False): also store ``seg_logits``, which holds K x H x W.
    """

    outputs_probabilities: ClassVar[bool] = False

    @abstractmethod
    def row_scorer(self) -> RowScorer:
        """Return what scores positions, weights and text embeddings ready."""

    @abstractmethod
    def background(self) -> Background:
        """Return which class is the background and how pixels become it."""

    def refiner(self, images: Tensor, ori_shape: tuple[int, int]) -> Refine | None:
        """Return a refinement of the logits at the original size, None by default; see ``predict_label_map``."""
        return None

    def check_test_cfg(self) -> None:
        """Refuse test settings that mean nothing here.

        Raises:
            ValueError: naming the setting.
        """
        unknown = sorted(set(self.test_cfg) - _TEST_KEYS)
        if unknown:
            raise ValueError(f"unknown test_cfg keys {unknown}. Known: {', '.join(sorted(_TEST_KEYS))}.")
        self._windows()
        self._scoring()

    def _windows(self) -> Windows | None:
        mode = self.test_cfg.get("mode", "whole")
        if mode == "whole":
            multiple = self.test_cfg.get("pad_multiple")
            return None if multiple is None else Windows(crop=_ANY_SIZE, stride=_ANY_SIZE, pad_multiple=multiple)
        if mode != "slide":
            raise ValueError(f"expected test_cfg.mode to be 'whole' or 'slide', but got {mode!r}.")
        if not {"crop_size", "stride"} <= self.test_cfg.keys():
            raise ValueError("test_cfg.mode 'slide' needs crop_size=(height, width) and stride=(height, width).")
        return Windows(
            crop=tuple(self.test_cfg.crop_size),
            stride=tuple(self.test_cfg.stride),
            batch_size=self.test_cfg.get("window_batch", 8),
            pad_multiple=self.test_cfg.get("pad_multiple"),
        )

    def _scoring(self) -> Scoring:
        background = self.background()
        return Scoring(
            logit_scale=self.test_cfg.get("logit_scale", 1.0),
            softmax=self.test_cfg.get("softmax", "none" if self.outputs_probabilities else "rows"),
            threshold=background.threshold,
            area_threshold=self.test_cfg.get("area_threshold"),
            background_index=background.index or 0,
        )

    @torch.no_grad()
    def predict(self, inputs: Tensor, data_samples: Sequence[SegDataSample] | None = None) -> list[SegDataSample]:
        """Name every pixel of the original images.

        Images of one size run as a batch; padding that the data preprocessor added is cut off first, so a batch
        gives what its images give one by one.

        Args:
            inputs: (B, 3, H, W) normalised.
            data_samples: B samples with the geometry (``ori_shape``, ``padding_size``, flips) in their metainfo.

        Returns:
            The samples with ``pred_sem_seg`` (1, H0, W0) int64, and ``seg_logits`` (K, H0, W0) when ``keep_logits``.
        """
        samples = [SegDataSample() for _ in inputs] if data_samples is None else list(data_samples)
        images = [without_padding(image, sample) for image, sample in zip(inputs, samples, strict=True)]
        for group in groups_of_one_shape(images):
            maps = self._label_maps(torch.stack([images[i] for i in group]), [samples[i] for i in group])
            for index, label_map in zip(group, maps, strict=True):
                _store(samples[index], label_map)
        return samples

    def _label_maps(self, images: Tensor, samples: Sequence[SegDataSample]) -> list[LabelMap]:
        scorer = self.row_scorer()
        size = tuple(images.shape[2:])
        ori_shapes = [tuple(sample.metainfo.get("ori_shape", size)[:2]) for sample in samples]
        flips = [sample.metainfo.get("flip_direction") if sample.metainfo.get("flip") else None for sample in samples]
        # A refinement is guided by one image at its own size.
        refiners = [self.refiner(images[i : i + 1], shape) for i, shape in enumerate(ori_shapes)]
        batches = [slice(0, len(images))] if refiners[0] is None else [slice(i, i + 1) for i in range(len(images))]
        maps: list[LabelMap] = []
        for batch in batches:
            maps += predict_label_map(
                scorer.network,
                images[batch],
                row_class=scorer.row_class,
                num_classes=scorer.num_classes,
                ori_shape=ori_shapes[batch],
                windows=self._windows(),
                flip=flips[batch],
                resize_order=self.test_cfg.get("resize_order", "mmseg"),
                scoring=self._scoring(),
                refine=refiners[batch.start],
                return_logits=self.test_cfg.get("keep_logits", False),
            )
        return maps


def best_row(rows_BNHW: Tensor, row_class: Tensor, num_classes: int) -> Tensor:
    """(B, K, H, W): the best row of each class, -inf for a class without rows."""
    batch, _, *size = rows_BNHW.shape
    empty = rows_BNHW.new_full((batch, num_classes, *size), float("-inf"))
    return empty.index_reduce(1, row_class, rows_BNHW, "amax")


def without_padding(image: Tensor, sample: SegDataSample) -> Tensor:
    """Cut off what the data preprocessor added to a (3, H, W) image.

    The sample says it under ``padding_size``, or under ``img_padding_size`` where mmseg padded at test time.
    """
    meta = sample.metainfo
    left, right, top, bottom = map(int, meta.get("img_padding_size", meta.get("padding_size", (0, 0, 0, 0))))
    height, width = image.shape[1:]
    return image[:, top : height - bottom, left : width - right]


def groups_of_one_shape(images: Sequence[Tensor]) -> list[list[int]]:
    """Return the places of the images of each shape, in the order of first occurrence."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, image in enumerate(images):
        groups.setdefault(tuple(image.shape), []).append(index)
    return list(groups.values())


def _store(sample: SegDataSample, label_map: LabelMap) -> None:
    sample.set_data({"pred_sem_seg": PixelData(data=label_map.labels[None])})
    if label_map.logits is not None:
        sample.set_data({"seg_logits": PixelData(data=label_map.logits)})
