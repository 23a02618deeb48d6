"""Base of the methods that give every position of the image a score per prompt row."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import Tensor

from mmseg_plugins.prediction.label_map import LabelMap, Refine, Scoring, predict_label_map
from mmseg_plugins.prediction.windows import Windows
from mmseg_plugins.segmentors.base import OpenVocabularySegmentor
from mmseg_plugins.vocabulary.embed import TextEmbeddings

# B batch, N prompt rows, K classes, H W network input, h w logits

_TEST_KEYS = {
    "mode", "crop_size", "stride", "window_batch", "pad_multiple", "resize_order", "logit_scale", "softmax",
    "area_threshold", "keep_logits",
}  # fmt: skip


class PixelSegmentor(OpenVocabularySegmentor):
    """A segmentor that scores positions.

    A derived class writes :meth:`row_logits`; windows, resizing, background and label maps are done here, without
    ever holding K x H x W. ``test_cfg`` takes

    * ``mode``: ``'whole'`` or ``'slide'``, the latter with ``crop_size`` and ``stride`` as (height, width);
      ``window_batch`` (8) windows run at once; ``pad_multiple`` zero-pads windows to multiples;
    * ``resize_order``: ``'mmseg'`` (network input size first, then the original size) or ``'direct'``;
    * ``logit_scale`` (1), ``softmax`` (``'rows'`` or ``'classes'``) and ``area_threshold``: see
      :class:`mmseg_plugins.prediction.label_map.Scoring`; the probability threshold is the vocabulary's;
    * ``keep_logits`` (False): also store ``seg_logits``, which holds K x H x W.

    Args:
        align_corners: must stay False; every resize here is bilinear with half-pixel centres.
        **options: see :class:`OpenVocabularySegmentor`.
    """

    def __init__(self, *, align_corners: bool = False, **options: Any) -> None:
        super().__init__(**options)
        if align_corners:
            raise ValueError("align_corners=True is not supported: all methods here resize with half-pixel centres.")
        self.align_corners = False
        unknown = sorted(set(self.test_cfg) - _TEST_KEYS)
        if unknown:
            raise ValueError(f"unknown test_cfg keys {unknown}. Known: {', '.join(sorted(_TEST_KEYS))}.")
        self._windows()
        self._scoring()

    @abstractmethod
    def row_logits(self, images: Tensor, text: TextEmbeddings) -> Tensor:
        """Score every position against every prompt row.

        Args:
            images: (B, 3, H, W) normalised.
            text: N rows.

        Returns:
            (B, N, h, w) at any resolution.
        """

    def refiner(self, images: Tensor, ori_shape: tuple[int, int]) -> Refine | None:
        """Return a refinement of the logits at the original size, None by default; see ``predict_label_map``."""
        return None

    def _windows(self) -> Windows | None:
        mode = self.test_cfg.get("mode", "whole")
        if mode == "whole":
            return None
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
        background = self.vocabulary.background
        return Scoring(
            logit_scale=self.test_cfg.get("logit_scale", 1.0),
            softmax=self.test_cfg.get("softmax", "rows"),
            threshold=background.threshold,
            area_threshold=self.test_cfg.get("area_threshold"),
            background_index=background.index or 0,
        )

    def extract_feat(self, inputs: Tensor) -> Tensor:
        """Return the (B, N, h, w) scores of the network."""
        self.ensure_weights("visual")
        return self.row_logits(inputs, self.text_embeddings)

    def _forward(self, inputs: Tensor, data_samples: Sequence[SegDataSample] | None = None) -> Tensor:
        return self.extract_feat(inputs)

    def encode_decode(self, inputs: Tensor, batch_data_samples: Sequence[Any] | None = None) -> Tensor:
        """Return (B, K, H, W) class logits at the input size; holds them all, so :meth:`predict` does not use it."""
        rows_BNhw = self.extract_feat(inputs)
        rows_BNHW = F.interpolate(rows_BNhw, inputs.shape[2:], mode="bilinear", align_corners=False)
        return _best_row(rows_BNHW, self.text_embeddings)

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
        images = [_without_padding(image, sample) for image, sample in zip(inputs, samples, strict=True)]
        for group in _groups_of_one_shape(images):
            maps = self._label_maps(torch.stack([images[i] for i in group]), [samples[i] for i in group])
            for index, label_map in zip(group, maps, strict=True):
                _store(samples[index], label_map)
        return samples

    def _label_maps(self, images: Tensor, samples: Sequence[SegDataSample]) -> list[LabelMap]:
        self.ensure_weights("visual")
        text = self.text_embeddings
        size = tuple(images.shape[2:])
        ori_shapes = [tuple(sample.metainfo.get("ori_shape", size)[:2]) for sample in samples]
        flips = [sample.metainfo.get("flip_direction") if sample.metainfo.get("flip") else None for sample in samples]
        # A refinement is guided by one image at its own size.
        refiners = [self.refiner(images[i : i + 1], shape) for i, shape in enumerate(ori_shapes)]
        batches = [slice(0, len(images))] if refiners[0] is None else [slice(i, i + 1) for i in range(len(images))]
        maps: list[LabelMap] = []
        for batch in batches:
            maps += predict_label_map(
                lambda crops: self.row_logits(crops, text),
                images[batch],
                row_class=text.row_class,
                num_classes=text.num_classes,
                ori_shape=ori_shapes[batch],
                windows=self._windows(),
                flip=flips[batch],
                resize_order=self.test_cfg.get("resize_order", "mmseg"),
                scoring=self._scoring(),
                refine=refiners[batch.start],
                return_logits=self.test_cfg.get("keep_logits", False),
            )
        return maps


def _best_row(rows_BNHW: Tensor, text: TextEmbeddings) -> Tensor:
    """(B, K, H, W): the best row of each class, -inf for a class without rows."""
    batch, _, *size = rows_BNHW.shape
    empty = rows_BNHW.new_full((batch, text.num_classes, *size), float("-inf"))
    return empty.index_reduce(1, text.row_class, rows_BNHW, "amax")


def _without_padding(image: Tensor, sample: SegDataSample) -> Tensor:
    left, right, top, bottom = sample.metainfo.get("padding_size", (0, 0, 0, 0))
    height, width = image.shape[1:]
    return image[:, top : height - bottom, left : width - right]


def _groups_of_one_shape(images: Sequence[Tensor]) -> list[list[int]]:
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, image in enumerate(images):
        groups.setdefault(tuple(image.shape), []).append(index)
    return list(groups.values())


def _store(sample: SegDataSample, label_map: LabelMap) -> None:
    sample.set_data({"pred_sem_seg": PixelData(data=label_map.labels[None])})
    if label_map.logits is not None:
        sample.set_data({"seg_logits": PixelData(data=label_map.logits)})
