"""Measure prediction on the CPU: windows, label maps and text embeddings, each against the usual way, in one run.

Every row says whether the results are identical, how much faster, and how much memory the call added at its peak. Times
are the best of several; a loaded machine is pointed out, since its numbers mean little. No weights are needed.

    python tools/benchmarks/prediction.py
    python tools/benchmarks/prediction.py --only windows labels --threads 1 2
    MMSEG_PLUGINS_OPS=eager python tools/benchmarks/prediction.py --only labels    # without the compiled ops
    python tools/benchmarks/prediction.py --json results.json
"""

import argparse
import copy
import ctypes
import gc
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmseg_plugins.ops import upsample_argmax
from mmseg_plugins.ops._load import STATUS
from mmseg_plugins.prediction.label_map import predict_label_map
from mmseg_plugins.prediction.windows import Windows, accumulate_windows, window_grid

MIB = 2**20


@dataclass
class Row:
    """One comparison.

    Args:
        what: what was compared.
        shapes: sizes and precision.
        usual_s: seconds of the usual way.
        ours_s: seconds of ours.
        ratio: usual / ours.
        usual_mib: peak extra memory of the usual way in MiB; None where it was not measured.
        ours_mib: the same of ours.
        identical: whether the results are equal to the bit; None where that is not asked.
        target: what is to be reached.
        is_met: whether it is.
        note: how it was measured, where that needs saying.
    """

    what: str
    shapes: str
    usual_s: float
    ours_s: float
    ratio: float
    usual_mib: float | None
    ours_mib: float | None
    identical: bool | None
    target: str
    is_met: bool | None
    note: str = ""


def best_of(function: Callable[[], Any], repeats: int) -> float:
    """Return the shortest time of several calls, in seconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def peak_mib(function: Callable[[], Any]) -> tuple[float | None, Any]:
    """Return how much memory a call added at its peak, results included, and what it returned.

    Linux only: the kernel's high-water mark of this process is reset before the call.
    """
    gc.collect()
    if platform.libc_ver()[0] == "glibc":  # memory that was freed but kept would hide what the call needs
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None, function()
    before = _memory_kib("VmRSS")
    result = function()
    return (_memory_kib("VmHWM") - before) / 1024, result


def _memory_kib(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


# --- windows ----------------------------------------------------------------------------------------------------------


class StubbedSegmentor:
    """What mmseg's ``slide_inference`` asks of a segmentor; the network's answers lie ready."""

    def __init__(self, answers: list[Tensor], crop: int, stride: int) -> None:
        from mmengine.config import ConfigDict

        self.answers = answers
        self.out_channels = answers[0].shape[1]
        self.test_cfg = ConfigDict(mode="slide", crop_size=(crop, crop), stride=(stride, stride))

    def slide(self, image: Tensor) -> Tensor:
        """Run mmseg's own code."""
        from mmseg.models.segmentors import EncoderDecoder

        answers = iter(self.answers)
        self.encode_decode = lambda crops, metas: next(answers)
        return EncoderDecoder.slide_inference(self, image, [{}])


def measure_windows(repeats: int) -> list[Row]:
    """Window accumulation at K = 150, 560 x 1120, crop 336, stride 112, and label maps of it."""
    classes, size, crop, stride = 150, (560, 1120), 336, 112
    windows = Windows((crop, crop), (stride, stride))
    image = torch.zeros(1, 3, *size)
    number = len(window_grid(size, windows.crop, windows.stride))
    low = torch.randn(number, 1, classes, crop // 16, crop // 16, generator=torch.Generator().manual_seed(0))
    shapes = f"K=150, 560x1120, crop 336, stride 112, {number} windows, float32"
    return [
        _measure_accumulation(low, image, windows, repeats, shapes),
        _measure_window_labels(low, image, windows, (1024, 2048), shapes),
    ]


def _measure_accumulation(low: Tensor, image: Tensor, windows: Windows, repeats: int, shapes: str) -> Row:
    answers = [F.interpolate(part, windows.crop, mode="bilinear") for part in low]
    size = tuple(image.shape[-2:])
    boxes = window_grid(size, windows.crop, windows.stride)
    stubbed = StubbedSegmentor(answers, windows.crop[0], windows.stride[0])
    usual_mib, expected = peak_mib(lambda: stubbed.slide(image))
    ours_mib, result = peak_mib(lambda: accumulate_windows(answers, boxes, size))
    identical = torch.equal(expected, result)
    usual_s = best_of(lambda: stubbed.slide(image), max(2, repeats // 2))
    ours_s = best_of(lambda: accumulate_windows(answers, boxes, size), repeats)
    return Row(
        "window accumulation against mmseg's slide_inference, network stubbed", shapes, usual_s, ours_s,
        usual_s / ours_s, usual_mib, ours_mib, identical, "5x, identical", identical and usual_s / ours_s >= 5,
    )  # fmt: skip


def _measure_window_labels(
    low: Tensor, image: Tensor, windows: Windows, ori_shape: tuple[int, int], shapes: str
) -> Row:
    """From the windows' small logits to labels at the original size: everything behind the network."""

    def usual() -> Tensor:
        answers = [F.interpolate(part, windows.crop, mode="bilinear") for part in low]
        logits = StubbedSegmentor(answers, windows.crop[0], windows.stride[0]).slide(image)
        return F.interpolate(logits, ori_shape, mode="bilinear").argmax(1)[0]

    def ours() -> Tensor:
        answers = iter(low)

        def network(crops: Tensor) -> Tensor:
            return torch.cat([next(answers) for _ in crops])

        return predict_label_map(network, image, windows=windows, ori_shape=ori_shape)[0].labels

    usual_mib, expected = peak_mib(usual)
    ours_mib, result = peak_mib(ours)
    identical = torch.equal(expected, result)
    usual_s, ours_s = best_of(usual, 1), best_of(ours, 1)
    return Row(
        "label map from windows against mmseg's slide_inference, resize and argmax",
        f"{shapes}, 21x21 logits per window, labels at {ori_shape[0]}x{ori_shape[1]}",
        usual_s, ours_s, usual_s / ours_s, usual_mib, ours_mib, identical, "", None,
    )  # fmt: skip


# --- label maps -------------------------------------------------------------------------------------------------------


def smooth_logits(classes: int, h: int, w: int) -> Tensor:
    """Logits that vary slowly with some noise, as a network's do."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.randn(1, classes, max(2, h // 6), max(2, w // 6), generator=generator)
    smooth = F.interpolate(coarse, (h, w), mode="bicubic")
    return smooth + 0.1 * torch.randn(1, classes, h, w, generator=generator)


def measure_labels(repeats: int) -> list[Row]:
    """upsample_argmax at K = 847, 512 x 683 against interpolate + argmax."""
    classes, size = 847, (512, 683)
    whole = classes * size[0] * size[1] * 4 / MIB
    noise = torch.randn(1, classes, 32, 43, generator=torch.Generator().manual_seed(0))
    cases = {
        "noise, 32x43": noise,
        "smooth, 32x43": smooth_logits(classes, 32, 43),
        "smooth, 128x171": smooth_logits(classes, 128, 171),
    }
    upsample_argmax(noise[:, :50, :4, :4], (64, 80))  # thread pools and libraries come up outside the measurement
    rows = []
    for name, logits in cases.items():

        def usual(logits: Tensor = logits) -> Tensor:
            return F.interpolate(logits, size, mode="bilinear", align_corners=False).argmax(1)

        def ours(logits: Tensor = logits) -> Tensor:
            return upsample_argmax(logits, size)

        ours_mib, result = peak_mib(ours)
        usual_mib, expected = peak_mib(usual)
        identical = torch.equal(result, expected)
        usual_s, ours_s = best_of(usual, max(2, repeats // 2)), best_of(ours, repeats)
        is_met = identical and usual_s / ours_s >= 1.5 and (ours_mib is None or ours_mib <= 0.05 * whole)
        rows.append(
            Row(
                "upsample_argmax against interpolate + argmax", f"K=847, {name} to 512x683, float32", usual_s, ours_s,
                usual_s / ours_s, usual_mib, ours_mib, identical,
                f"1.5x, identical, at most {0.05 * whole:.0f} MiB (5 % of K*H*W*4)", is_met,
            )
        )  # fmt: skip
    return rows


# --- text -------------------------------------------------------------------------------------------------------------


def measure_text(sample: int) -> list[Row]:
    """Text embeddings of 150 names x 80 templates with a tower of ViT-B-16's size, and from the cache."""
    from mmseg_plugins.towers.clip import build_clip
    from mmseg_plugins.vocabulary.cache import TextCache
    from mmseg_plugins.vocabulary.embed import embed, encode_prompts
    from mmseg_plugins.vocabulary.templates import fill, load_templates
    from mmseg_plugins.vocabulary.vocabulary import Vocabulary

    torch.manual_seed(0)
    tower = build_clip("ViT-B-16", image=False).text.eval()
    words = Vocabulary.from_benchmark("ade20k_150")
    templates = load_templates("imagenet80")
    prompts = [fill(template, name) for name in words.rows for template in templates]
    some = prompts[::sample]

    @torch.no_grad()
    def uncut() -> Tensor:
        return torch.cat([tower.encode_tokens(part) for part in tower.tokenize(some).split(128)])

    encode_prompts(tower, some[:16])
    start = time.perf_counter()
    expected = uncut()
    usual_s = (time.perf_counter() - start) * len(prompts) / len(some)
    difference = (encode_prompts(tower, some) - expected).abs().max() / expected.abs().max()
    with tempfile.TemporaryDirectory() as folder:
        cache = TextCache(folder)
        start = time.perf_counter()
        first = embed(tower, words, templates, cache=cache)
        ours_s = time.perf_counter() - start
        loaded = copy.deepcopy(tower)  # a tower as after loading: the hash of its weights is not there yet
        start = time.perf_counter()
        again = embed(loaded, words, templates, cache=cache)
        hashed_s = time.perf_counter() - start
        cached_s = best_of(lambda: embed(loaded, words, templates, cache=cache), 3)
    shapes = "150 names x 80 templates, text tower of ViT-B-16 (random weights), float32"
    note = (
        f"uncut timed on {len(some)} of {len(prompts)} prompts and scaled; largest relative difference {difference:.1e}"
    )
    return [
        Row(
            "text embeddings against the uncut form of 77 tokens", shapes, usual_s, ours_s, usual_s / ours_s,
            None, None, None, "4x", usual_s / ours_s >= 4, note,
        ),
        Row(
            "text embeddings from the cache, tower just loaded", shapes, ours_s, hashed_s, ours_s / hashed_s,
            None, None, torch.equal(first.rows, again.rows), "0.2 s", hashed_s < 0.2, "hashing the weights included",
        ),
        Row(
            "text embeddings from the cache, once more", shapes, ours_s, cached_s, ours_s / cached_s, None, None, True,
            "0.2 s", cached_s < 0.2,
        ),
    ]  # fmt: skip


# --- report -----------------------------------------------------------------------------------------------------------


def machine() -> dict[str, Any]:
    """Describe what the numbers were measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "ops": "compiled" if STATUS["cpu"].loaded else "plain PyTorch",
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
    }


def print_row(row: Row) -> None:
    """Print one comparison."""
    same = {True: "identical", False: "DIFFERENT", None: ""}[row.identical]
    verdict = {True: "met", False: "NOT MET", None: ""}[row.is_met]
    print(f"  {row.what}\n    {row.shapes}")
    memory = "" if row.ours_mib is None else f"   extra memory {row.usual_mib:.0f} -> {row.ours_mib:.0f} MiB"
    print(f"    {row.usual_s:.3f} s -> {row.ours_s:.3f} s   {row.ratio:.1f}x   {same}{memory}")
    if row.target:
        print(f"    target: {row.target}: {verdict}")
    if row.note:
        print(f"    ({row.note})")


def main() -> int:
    """Measure and print; 1 when results differ from the usual way's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ["windows", "labels", "text"]
    parser.add_argument("--only", nargs="+", choices=parts, default=parts, help="what to measure (default: all)")
    parser.add_argument("--threads", nargs="+", type=int, default=None, help="thread counts (default: all cores)")
    parser.add_argument("--repeats", type=int, default=5, help="the best of this many counts (default: %(default)s)")
    parser.add_argument(
        "--text-sample",
        type=int,
        default=20,
        help="time the uncut text form on every Nth prompt (default: %(default)s)",
    )
    parser.add_argument("--json", metavar="FILE", help="also write the rows as JSON")
    options = parser.parse_args()
    about = machine()
    print("   ".join(f"{key}: {value}" for key, value in about.items()))
    if about["load"] and about["load"] > 0.5 * (about["cores"] or 1):
        print("the machine is busy: do not quote these numbers")
    measures = {
        "windows": lambda: measure_windows(options.repeats),
        "labels": lambda: measure_labels(options.repeats),
        "text": lambda: measure_text(options.text_sample),
    }
    report = []
    for threads in options.threads or [torch.get_num_threads()]:
        torch.set_num_threads(threads)
        print(f"{threads} thread(s)")
        for part in options.only:
            for row in measures[part]():
                print_row(row)
                report.append({"threads": threads, **asdict(row)})
    if options.json:
        Path(options.json).write_text(json.dumps({"machine": about, "rows": report}, indent=1) + "\n")
    return 1 if any(row["identical"] is False for row in report) else 0


if __name__ == "__main__":
    raise SystemExit(main())
