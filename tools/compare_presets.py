"""Test several configs, each in a process of its own, and print one table: score, time, memory, and the settings.

Results are kept in a file, so that the table can grow over several calls. The time is that of the model alone, in the
batches that the config asks for; the memory is the largest resident size of the process (of the GPU where there is
one), and beside it what it was before the first batch.

Examples:
  mmseg-plugins shapes --out data/shapesworld --split validation
  python tools/compare_presets.py --out presets.json
  python tools/compare_presets.py --out presets.json configs/training_free/gem_shapes-vit_shapesworld-64x64.py
  python tools/compare_presets.py --out presets.json --print-only
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
DEFAULT = sorted((ROOT / "configs/training_free").glob("*_shapes-vit_*.py"))


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="*", type=Path, help="config files (default: the presets on generated scenes)")
    parser.add_argument("--out", required=True, type=Path, metavar="JSON", help="where the results are kept")
    parser.add_argument(
        "--data-root", default="data/shapesworld", metavar="DIR", help="data set (default: %(default)s)"
    )
    parser.add_argument("--print-only", action="store_true", help="run nothing, print what the file holds")
    parser.add_argument("--repeats", type=int, default=1, help="runs of each config; the least time counts")
    return parser.parse_args(arguments)


def measure(config: Path, data_root: str) -> dict[str, Any]:
    """Run ``tools/test.py`` on a config.

    Returns:
        What :class:`mmseg_plugins.engine.harness.HarnessHook` wrote down, with the machine.

    Raises:
        RuntimeError: with the end of the output, if the run fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, ROOT / "tools/test.py", config, "--work-dir", folder]
        command += ["--cfg-options", f"test_dataloader.dataset.data_root={data_root}"]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{config} failed:\n{(done.stdout + done.stderr)[-2000:]}")
        [path] = Path(folder).rglob("harness.json")
        result = json.loads(path.read_text(encoding="utf-8"))
    return {**result, "machine": machine()}


def machine() -> str:
    """Return processor, threads and PyTorch's version."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        models = [line for line in info.read_text(encoding="utf-8").splitlines() if line.startswith("model name")]
        name = models[0].partition(":")[2].strip() if models else name
    return f"{name}, {torch.get_num_threads()} threads, PyTorch {torch.__version__}"


def as_table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the results as Markdown: the table, then the settings of each row."""
    lines = [
        "| config | mIoU | ms per image | of processor time | peak memory, MiB | before the first batch |",
        "|---|---|---|---|---|---|",
    ]
    for name, result in results.items():
        times = f"{result['ms_per_image']:.1f} | {result['process_ms_per_image']:.1f}"
        memory = f"{result['peak_memory_mib']:.0f} | {result['memory_before_mib']:.0f}"
        lines.append(f"| {name} | {result['figures']['mIoU']:.1f} | {times} | {memory} |")
    lines += ["", "Settings:", ""]
    for name, result in results.items():
        lines.append(f"- {name}: " + "; ".join(f"{key} {value}" for key, value in result["settings"].items()))
    machines = sorted({f"{result['machine']} ({result['device']})" for result in results.values()})
    return "\n".join([*lines, "", "Machine: " + "; ".join(machines)])


def add_results(args: argparse.Namespace) -> dict[str, Any]:
    """Measure what is asked for, write it to the file after each config, and return all the file holds."""
    results = json.loads(args.out.read_text(encoding="utf-8")) if args.out.is_file() else {}
    for config in [] if args.print_only else args.configs or DEFAULT:
        runs = [measure(config, args.data_root) for _ in range(args.repeats)]
        results[config.stem] = min(runs, key=lambda run: run["process_ms_per_image"])
        temporary = args.out.with_suffix(".part")
        temporary.write_text(json.dumps(results, indent=1), encoding="utf-8")
        os.replace(temporary, args.out)
        print(f"{config.stem}: {results[config.stem]['figures']['mIoU']:.1f}", file=sys.stderr)
    return results


def main() -> None:
    """Measure and print."""
    print(as_table(add_results(parse_args())))


if __name__ == "__main__":
    main()
