"""Says under which settings a result was measured, and what it cost: figures of other settings do not compare."""

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.registry import HOOKS
from torch import nn

_MEBIBYTE = 2**20


def describe_harness(model: nn.Module, pipeline: Sequence[Mapping[str, Any]] = ()) -> dict[str, str]:
    """Describe what a figure depends on besides the weights.

    Args:
        model: a segmentor; what it does not have is left out.
        pipeline: the test pipeline of the config.

    Returns:
        Name of a setting -> value, in words: resize, windows and scores, vocabulary, background, and what the model
        says itself (``harness_settings``).
    """
    settings = {"model": type(model).__name__}
    resizes = [step for step in pipeline if step.get("type") in ("Resize", "TestTimeAug")]
    settings["resize"] = ", ".join(_resize(step) for step in resizes) or "none"
    if getattr(model, "test_cfg", None):
        settings["test_cfg"] = _pairs(model.test_cfg)
    vocabulary = getattr(model, "vocabulary", None)
    if vocabulary is not None:
        settings["vocabulary"] = f"{vocabulary.source}: {vocabulary.num_classes} classes, {len(vocabulary.rows)} names"
        background = vocabulary.background
        settings["background"] = background.kind
        if background.kind != "none":
            words = len(vocabulary.prompts[background.index])
            settings["background"] = f"class {background.index} with {words} names, threshold {background.threshold}"
    if hasattr(model, "harness_settings"):
        settings |= model.harness_settings()
    return settings


def _resize(step: Mapping[str, Any]) -> str:
    if step["type"] != "Resize":
        return "test-time augmentation"
    return f"{step.get('scale') or step.get('scale_factor')}{', ratio kept' if step.get('keep_ratio') else ''}"


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items())


@HOOKS.register_module()
class HarnessHook(Hook):
    """Logs the settings before a test, and again with the result, beside time and peak memory.

    The time is that of the model alone, without loading. The memory is the device's on a GPU (largest allocation), the
    whole process's (largest resident size) on the CPU.
    """

    priority = "VERY_LOW"

    def __init__(self) -> None:
        self._seconds, self._images, self._start = 0.0, 0, 0.0

    def before_test(self, runner: Runner) -> None:
        """Log the settings."""
        self._seconds, self._images = 0.0, 0
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        runner.logger.info("settings: %s", self._settings(runner))

    def before_test_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Start the clock."""
        _wait()
        self._start = time.perf_counter()

    def after_test_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Stop the clock; the first batch, which loads weights and encodes words, does not count if there are more."""
        _wait()
        elapsed = time.perf_counter() - self._start
        if batch_idx == 1:
            self._seconds, self._images = 0.0, 0
        self._seconds += elapsed
        self._images += len(outputs or ())

    def after_test_epoch(self, runner: Runner, metrics: Mapping[str, float] | None = None) -> None:
        """Log the settings again, and the cost."""
        milliseconds = 1000 * self._seconds / max(self._images, 1)
        runner.logger.info(
            "measured with %s; %.1f ms per image, peak memory %.0f MiB",
            self._settings(runner),
            milliseconds,
            peak_memory(),
        )

    def _settings(self, runner: Runner) -> str:
        model = runner.model
        while hasattr(model, "module"):  # data-parallel and test-time-augmentation wrappers
            model = model.module
        pipeline = (runner.cfg.get("test_dataloader") or {}).get("dataset", {}).get("pipeline", ())
        return "; ".join(f"{key}: {value}" for key, value in describe_harness(model, pipeline).items())


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_memory() -> float:
    """Return the peak memory in MiB: of the GPU where there is one, else of this process; NaN where nothing tells."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / _MEBIBYTE
    try:
        import resource  # not on Windows
    except ImportError:
        return float("nan")
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kibibytes elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / _MEBIBYTE
