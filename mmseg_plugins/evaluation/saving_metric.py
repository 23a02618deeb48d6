"""A metric that only saves: for test sets without ground truth, and for runs whose scoring is done offline."""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.dist import all_reduce, barrier, is_main_process
from mmengine.evaluator import BaseMetric
from mmseg.registry import METRICS

from mmseg_plugins.evaluation.saving import PredictionSaver


@METRICS.register_module()
class SavePredictions(BaseMetric):
    """Write every prediction below a folder and compute nothing; see `mmseg_plugins.evaluation.saving`.

    Args:
        output_dir: where to write; ``tools/test.py --out DIR`` sets it.
        keep_results: set by mmseg's own tool together with ``output_dir``; files are always kept.
        collect_device: as in every metric; nothing is collected.
        prefix: leading part of the printed key.

    Prints ``saved/images``, the number of images saved by all processes.
    """

    default_prefix = "saved"

    def __init__(
        self,
        *,
        output_dir: str | None = None,
        keep_results: bool = True,
        collect_device: str = "cpu",
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        if not keep_results:
            raise ValueError("SavePredictions keeps what it writes; keep_results=False makes no sense for it.")
        self.output_dir = output_dir
        self._saver: PredictionSaver | None = None
        self._num_saved = 0

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Write the predictions of a batch.

        Raises:
            ValueError: if no folder was given, or a prediction does not fit its image.
        """
        if self.output_dir is None:
            raise ValueError("SavePredictions needs a folder: give output_dir, or --out DIR to tools/test.py.")
        if self._saver is None:
            self._saver = PredictionSaver(self.output_dir, dataset_meta=self.dataset_meta)
        for sample in data_samples:
            self._saver.save(sample)
        self._num_saved += len(data_samples)

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Nothing is computed from gathered results."""
        return {}

    def evaluate(self, size: int) -> dict[str, float]:
        """Join the JSON parts, write the manifest and return the number of images saved."""
        total = torch.tensor(self._num_saved)
        all_reduce(total)
        if is_main_process() and self._saver is not None:
            self._saver.finish(size)
        barrier()
        self._saver, self._num_saved = None, 0
        return {f"{self.prefix}/images": float(total)}
