"""What the metrics of sums share: running totals on the device, one all-reduce at the end, and a check of the count."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.dist import all_reduce, barrier, broadcast_object_list, is_main_process
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from torch import Tensor

from mmseg_plugins.evaluation.saving import PredictionSaver


class TotalsMetric(BaseMetric):
    """Base of metrics that are functions of sums over the samples.

    ``process`` adds to one int64 tensor on the predictions' device, so memory does not grow with the data set and
    nothing is gathered; ``evaluate`` adds the totals of all processes in one all-reduce. A subclass says what is
    counted (:meth:`count`) and what the figures are (:meth:`report`).

    Args:
        collect_device: kept for mmengine's interface; totals are reduced where the communication backend wants them.
        output_dir: also save every prediction below this folder, see `mmseg_plugins.evaluation.saving`.
        format_only: only save, for test sets without ground truth.
        keep_results: set by mmseg's tool together with ``output_dir``; what is saved is always kept.
        prefix: put in front of every key of the result.
    """

    def __init__(
        self,
        *,
        collect_device: str = "cpu",
        output_dir: str | None = None,
        format_only: bool = False,
        keep_results: bool = True,
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        if format_only and output_dir is None:
            raise ValueError("format_only=True only saves predictions, so it needs output_dir. Give a folder.")
        self.output_dir = output_dir
        self.format_only = format_only
        self.keep_results = keep_results
        self._reset()

    def _reset(self) -> None:
        self._totals: Tensor | None = None
        self._num_samples = 0
        self._saver: PredictionSaver | None = None

    @property
    def num_classes(self) -> int:
        """Number of classes of the data set."""
        if not self.dataset_meta or "classes" not in self.dataset_meta:
            raise ValueError(f"{type(self).__name__} needs dataset_meta['classes']. Set the data set's metainfo.")
        return len(self.dataset_meta["classes"])

    @abstractmethod
    def empty(self) -> Tensor:
        """Return the int64 totals of no sample."""

    @abstractmethod
    def count(self, sample: dict[str, Any]) -> Tensor:
        """Return what one sample adds to the totals, int64 on the prediction's device.

        Raises:
            ValueError: naming the sample's file.
        """

    @abstractmethod
    def report(self, totals: Tensor) -> dict[str, float]:
        """Compute the figures from the totals of the whole data set (on the CPU), and log the tables."""

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Add a batch of samples to the totals, and save their predictions where a folder is set.

        Args:
            data_batch: unused.
            data_samples: samples with predictions and ground truth, as dictionaries.
        """
        for sample in data_samples:
            if not self.format_only:
                counts = self.count(sample)
                self._totals = counts if self._totals is None else self._totals.add_(counts)
            if self.output_dir is not None:
                self._save(sample)
        self._num_samples += len(data_samples)

    def _save(self, sample: dict[str, Any]) -> None:
        if self._saver is None:
            self._saver = PredictionSaver(self.output_dir, dataset_meta=self.dataset_meta)
        self._saver.save(sample)

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Compute the figures from this process's totals; ``results`` is not used."""
        return self.report(self._totals.cpu() if self._totals is not None else self.empty())

    def evaluate(self, size: int) -> dict[str, float]:
        """Add up the totals of all processes and compute the figures.

        Args:
            size: number of samples in the data set.

        Returns:
            The figures, on every process.

        Raises:
            ValueError: if the processes together saw another number of samples, because figures would then count
                samples twice or not at all.
        """
        totals = self.empty() if self._totals is None else self._totals
        packed = torch.cat((totals.new_tensor([self._num_samples]), totals.flatten()))
        all_reduce(packed)
        packed = packed.cpu()
        saver, shape = self._saver, totals.shape
        self._reset()
        self._check_count(int(packed[0]), size)
        if saver is not None and is_main_process():
            saver.finish(size)
        if self.output_dir is not None:
            barrier()
        return self._broadcast_report(packed[1:].view(shape))

    def _broadcast_report(self, totals: Tensor) -> dict[str, float]:
        figures: list[dict[str, float] | None] = [None]
        if self.format_only:
            print_log(f"predictions are saved below {self.output_dir}", logger="current")
            return {}
        if is_main_process():
            figures = [{f"{self.prefix}/{key}" if self.prefix else key: v for key, v in self.report(totals).items()}]
        broadcast_object_list(figures)
        return figures[0]

    def _check_count(self, counted: int, size: int) -> None:
        if counted != size:
            raise ValueError(
                f"{type(self).__name__} counted {counted} samples but the data set has {size}. A sampler that rounds "
                "up repeats samples on some processes, and they would count twice. Set "
                "sampler=dict(type='DefaultSampler', shuffle=False, round_up=False) in the val and test dataloader."
            )


def plane(values: Tensor) -> Tensor:
    """Return (1, H, W) or (H, W) as (H, W)."""
    return values[0] if values.ndim == 3 else values


def sample_name(sample: dict[str, Any]) -> str:
    """Return the file that messages about a sample should name."""
    return str(
        sample.get("seg_map_path") or sample.get("img_path") or sample.get("img_id") or "a sample without a path"
    )
