"""Measure mask pooling and label maps in every tier, against the usual way to compute them, in one run.

Ratios compare times of the same run: the variants of a shape take turns, so that whatever else the machine does
touches all of them. On the CPU one thread is measured in processor time, more threads by the clock; on CUDA by events,
once with what the caches hold and once after writing 256 MB in between. Results are compared before anything is timed.

    python tools/benchmarks/mask_pool.py --threads 1 2
    python tools/benchmarks/mask_pool.py --shapes out-vocab labels --backward --compile
    python tools/benchmarks/mask_pool.py --device cuda --json mask_pool.json
"""

import argparse
import ctypes
import gc
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from mask_pool_shapes import SHAPES, Shape, Work

from mmseg_plugins.ops import _load

MIB = 2**20
FLUSH_BYTES = 256 * MIB
# A loaded machine measures the load.
QUIET_LOAD = 0.5


@dataclass
class Timing:
    """Times of one variant of one shape.

    Args:
        shape: name of the shape.
        dtype: dtype of features and masks.
        threads: CPU threads; 0 on CUDA.
        variant: what computed it.
        direction: "forward" or "forward+backward".
        cache: "warm" or "cold".
        milliseconds: median.
        spread: distance between the quartiles, milliseconds.
        peak_mib: memory that the call added at its peak; None if not measured.
        ratio: time of the fastest usual way divided by this one; None for the usual ways.
        target: ratio to reach; None if none is stated.
        bound_share: time that least traffic and arithmetic need, as a share of this time.
    """

    shape: str
    dtype: str
    threads: int
    variant: str
    direction: str
    cache: str
    milliseconds: float
    spread: float
    peak_mib: float | None = None
    ratio: float | None = None
    target: float | None = None
    bound_share: float | None = None


def variants(work: Work, device: torch.device, with_compile: bool) -> dict[str, Callable[[], object]]:
    """Return every way to compute a shape here, the usual ones first."""
    found: dict[str, Callable[[], object]] = dict(work.baselines)
    if with_compile:
        name = next(iter(work.baselines))
        found[f"torch.compile({name})"] = torch.compile(work.baselines[name])
    found["eager"] = lambda: work.ours("eager")
    if device.type == "cuda" and _load.triton_reason() is None:
        found["triton"] = lambda: work.ours("triton")
    if _load.STATUS[device.type].loaded:
        found["compiled"] = lambda: work.ours(device.type)
    if not work.leaves:
        # Label maps choose their tier themselves.
        found = dict(work.baselines) | {"auto": lambda: work.ours("auto")}
    return found | work.extra


def check(work: Work, functions: dict[str, Callable[[], object]]) -> None:
    """Compare every variant with the first usual way, where the two are the same function entry by entry."""
    if not work.same:
        return
    want = next(iter(functions.values()))()
    for name, function in functions.items():
        if not torch.allclose(function().double(), want.double(), rtol=1e-2, atol=1e-2):
            raise RuntimeError(f"{name} computes something else than the usual way.")


def with_backward(function: Callable[[], torch.Tensor], leaves: list[torch.Tensor]) -> Callable[[], object]:
    """Return forward and backward of a computation in one call."""

    def run() -> object:
        result = function()
        return torch.autograd.grad(result, leaves, torch.ones_like(result), allow_unused=True)

    return run


def without_backward(function: Callable[[], torch.Tensor]) -> Callable[[], object]:
    """Return the forward alone, as inference runs it."""

    def run() -> object:
        with torch.no_grad():
            return function()

    return run


def _seconds_on_cpu(function: Callable[[], object], threads: int) -> float:
    clock = time.process_time if threads == 1 else time.perf_counter
    start = clock()
    function()
    return clock() - start


def _seconds_on_cuda(function: Callable[[], object], flush: torch.Tensor | None) -> float:
    if flush is not None:
        flush.zero_()
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    function()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1e3


def take_turns(functions: dict[str, Callable[[], object]], measure: Callable, repeats: int, budget: float) -> dict:
    """Time every function ``repeats`` times in turns, fewer (but three) for those that would take over ``budget``."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for function in functions.values():
        function()
    for _ in range(repeats):
        for name, function in functions.items():
            if len(seconds[name]) < 3 or sum(seconds[name]) < budget:
                seconds[name].append(measure(function))
    return seconds


def peak_mib(function: Callable[[], object], device: torch.device) -> float | None:
    """Return the memory that a call adds at its peak, in MiB; None where the system does not tell."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / MIB
    try:
        # Give back what earlier calls freed, or this one reuses it unseen; then forget the highest size so far.
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        before = _resident("VmRSS")
        function()
        return max(0.0, _resident("VmHWM") - before)
    except (OSError, AttributeError):
        return None


def _resident(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise OSError(f"no {field} in /proc/self/status")


def limits(device: torch.device) -> tuple[float, float]:
    """Measure bytes per second of a copy and float operations per second of a product, in float32."""
    side = 8192 if device.type == "cuda" else 1024
    source = torch.ones(FLUSH_BYTES // 4, device=device)
    target, matrix = torch.empty_like(source), torch.ones(side, side, device=device)
    calls = {"copy": lambda: target.copy_(source), "product": lambda: matrix @ matrix}
    measure = _measure(device, torch.get_num_threads(), None)
    best = {name: min(times) for name, times in take_turns(calls, measure, 5, 5.0).items()}
    return 2 * FLUSH_BYTES / best["copy"], 2 * side**3 / best["product"]


def _measure(device: torch.device, threads: int, flush: torch.Tensor | None) -> Callable:
    if device.type == "cuda":
        return lambda function: _seconds_on_cuda(function, flush)
    return lambda function: _seconds_on_cpu(function, threads)


def measure_shape(
    shape: Shape, dtype: str, device: torch.device, bounds: tuple[float, float], options: argparse.Namespace
) -> Iterator[Timing]:
    """Measure every variant of a shape: forward, and forward with backward where asked for."""
    work = shape.make(device, getattr(torch, dtype))
    functions = variants(work, device, options.compile)
    check(work, functions)
    directions = {"forward": {name: without_backward(function) for name, function in functions.items()}}
    if options.backward and work.leaves:
        usual = [name for name in functions if name != "bincount"]  # which has no gradient
        directions["forward+backward"] = {name: with_backward(functions[name], work.leaves) for name in usual}
    caches = {"warm": None}
    if device.type == "cuda":
        caches["cold"] = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device=device)
    least = max(work.bytes / bounds[0], work.flops / bounds[1])
    threads = torch.get_num_threads() if device.type == "cpu" else 0
    target = shape.cpu_target if device.type == "cpu" else shape.cuda_target
    for direction, calls in directions.items():
        for cache, flush in caches.items():
            seconds = take_turns(calls, _measure(device, threads, flush), options.repeats, options.budget)
            medians = {name: statistics.median(times) for name, times in seconds.items()}
            for name in work.baselines:
                medians[name] = medians.get(name, float("inf")) * work.scale
            usual_best = min(medians[name] for name in work.baselines)
            for name, times in seconds.items():
                quarters = statistics.quantiles(times, n=4) if len(times) > 1 else [0, 0, 0]
                is_ours = name not in work.baselines
                is_last = name in ("compiled", "auto") and direction == "forward"
                yield Timing(
                    shape.name,
                    dtype,
                    threads,
                    name,
                    direction,
                    cache,
                    medians[name] * 1e3,
                    (quarters[2] - quarters[0]) * 1e3,
                    peak_mib(calls[name], device) if cache == "warm" else None,
                    usual_best / medians[name] if is_ours else None,
                    target if is_last else None,
                    least / medians[name] if direction == "forward" else None,
                )


def line_of(timing: Timing) -> str:
    """Return one line of the table."""
    peak = f"{timing.peak_mib:8.1f}" if timing.peak_mib is not None else f"{'-':>8}"
    ratio = f"{timing.ratio:7.2f}x" if timing.ratio is not None else " " * 8
    verdict = ""
    if timing.target is not None and timing.ratio is not None:
        verdict = f"target {timing.target:g}x: {'met' if timing.ratio >= timing.target else 'MISSED'}"
    where = f"{timing.threads} thr" if timing.threads else timing.cache
    return (
        f"{timing.shape:<29} {timing.dtype:<9} {where:<6} {timing.direction:<17} {timing.variant:<34} "
        f"{timing.milliseconds:9.3f} ms ±{timing.spread:<8.3f} {peak} MiB {ratio} {verdict}"
    )


def describe_machine(device: torch.device) -> dict[str, object]:
    """Return what the numbers were taken on."""
    name = platform.processor() or platform.machine()
    cpu_info = Path("/proc/cpuinfo")
    if cpu_info.is_file():
        lines = [line for line in cpu_info.read_text().splitlines() if line.startswith("model name")]
        name = lines[0].partition(":")[2].strip() if lines else name
    return {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else name,
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "library": _load.STATUS[device.type].reason,
        "load": os.getloadavg()[0],
    }


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="where to run (default: %(default)s)")
    parser.add_argument("--shapes", nargs="+", default=[""], help="beginnings of shape names (default: all)")
    parser.add_argument("--dtype", nargs="+", default=["float32"], help="of features and masks (default: float32)")
    parser.add_argument("--threads", nargs="+", type=int, default=[1], help="CPU threads, one pass each (default: 1)")
    parser.add_argument("--repeats", type=int, default=20, help="runs of each variant (default: %(default)s)")
    parser.add_argument("--budget", type=float, default=3.0, help="seconds for one variant (default: %(default)s)")
    parser.add_argument("--backward", action="store_true", help="measure forward with backward as well")
    parser.add_argument("--compile", action="store_true", help="measure torch.compile of the usual way as well")
    parser.add_argument("--json", type=Path, help="write all timings to this file")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; non-zero when a target is missed."""
    options = parse(arguments)
    device = torch.device(options.device)
    machine = describe_machine(device)
    for key, value in machine.items():
        print(f"{key}: {value}")
    if machine["load"] > QUIET_LOAD:
        print(
            f"NOTE: the machine is busy (load {machine['load']:.1f}): read the ratios, not the times", file=sys.stderr
        )
    timings = []
    for threads in options.threads if device.type == "cpu" else [1]:
        torch.set_num_threads(threads)
        bounds = limits(device)
        print(f"\ncopy {bounds[0] / 1e9:.1f} GB/s, product {bounds[1] / 1e9:.0f} GFLOP/s, threads {threads}")
        for shape in SHAPES:
            if device.type not in shape.devices or not shape.name.startswith(tuple(options.shapes)):
                continue
            for dtype in [name for name in options.dtype if name in shape.dtypes]:
                for timing in measure_shape(shape, dtype, device, bounds, options):
                    print(line_of(timing), flush=True)
                    timings.append(timing)
    if options.json:
        content = {"machine": machine, "timings": [asdict(timing) for timing in timings]}
        options.json.write_text(json.dumps(content, indent=1), encoding="utf-8")
    missed = [t for t in timings if t.target is not None and t.ratio is not None and t.ratio < t.target]
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
