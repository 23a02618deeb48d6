"""Says under which settings a result was measured, and what it cost: figures of other settings do not compare."""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.registry import HOOKS
from torch import nn

from mmseg_plugins.engine.bare_model import bare_model

RESULT_FILE = "harness.json"
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
    resizes = [step for step in pipeline if step.get("type") in ("Resize", "TestTimeAug", "MultiScaleFlip")]
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
    if step["type"] == "MultiScaleFlip":
        return f"test-time augmentation of {step['scale']}"
    if step["type"] != "Resize":
        return "test-time augmentation"
    return f"{step.get('scale') or step.get('scale_factor')}{', ratio kept' if step.get('keep_ratio') else ''}"


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items())


@HOOKS.register_module()
class HarnessHook(Hook):
    """Logs the settings before a test, and again with the result, beside time and peak memory.

    The same goes into ``harness.json`` in the run's log folder: ``settings``, ``figures``, ``images`` and
    ``ms_per_image`` (of the batches whose time counts), ``process_ms_per_image`` (the processor time of this process,
    all threads, which other programs do not lengthen), ``peak_memory_mib``, ``memory_before_mib``, ``device``.

    The time is that of the model alone, without loading. The memory is the device's on a GPU (largest allocation), the
    whole process's (largest resident size) on the CPU; what it was before the first batch tells how much of it are
    libraries.
    """

    priority = "VERY_LOW"

    def __init__(self) -> None:
        self._seconds, self._images, self._start, self._memory = (0.0, 0.0), 0, (0.0, 0.0), 0.0

    def before_test(self, runner: Runner) -> None:
        """Log the settings."""
        self._seconds, self._images = (0.0, 0.0), 0
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        self._memory = peak_memory()
        runner.logger.info("settings: %s", _words(harness_of(runner)))

    def before_test_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Start the clock."""
        _wait()
        self._start = _clocks()

    def after_test_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Stop the clock; the first batch, which loads weights and encodes words, does not count if there are more."""
        _wait()
        now = _clocks()
        if batch_idx == 1:
            self._seconds, self._images = (0.0, 0.0), 0
        self._seconds = tuple(
            total + end - start for total, end, start in zip(self._seconds, now, self._start, strict=True)
        )
        self._images += len(outputs or ())

    def after_test_epoch(self, runner: Runner, metrics: Mapping[str, float] | None = None) -> None:
        """Log the settings again, and the cost; write both down beside the figures."""
        settings = harness_of(runner)
        memory = peak_memory()
        milliseconds, process = (1000 * seconds / max(self._images, 1) for seconds in self._seconds)
        runner.logger.info(
            "measured with %s; %.1f ms per image, peak memory %.0f MiB", _words(settings), milliseconds, memory
        )
        result = {
            "settings": settings,
            "figures": {key: float(value) for key, value in (metrics or {}).items() if isinstance(value, Real)},
            "images": self._images,
            "ms_per_image": milliseconds,
            "process_ms_per_image": process,
            "peak_memory_mib": memory,
            "memory_before_mib": self._memory,
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        }
        if is_main_process():
            path = Path(runner.log_dir) / RESULT_FILE
            path.write_text(json.dumps(result, indent=1), encoding="utf-8")


def harness_of(runner: Runner) -> dict[str, str]:
    """Describe what the figures of a runner's test depend on, see :func:`describe_harness`."""
    model = bare_model(runner.model)
    pipeline = (runner.cfg.get("test_dataloader") or {}).get("dataset", {}).get("pipeline", ())
    return describe_harness(model, pipeline)


def _words(settings: Mapping[str, str]) -> str:
    return "; ".join(f"{key}: {value}" for key, value in settings.items())


def _clocks() -> tuple[float, float]:
    """Seconds that have passed, and that this process has worked."""
    return time.perf_counter(), time.process_time()


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
