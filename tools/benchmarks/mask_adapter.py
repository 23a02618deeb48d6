"""Mask-Adapter's folded and chunked form against the published one, at ConvNeXt-L's sizes, on the CPU.

Both get the same random weights and masks, each in a process of its own, in turns. Time is processor time, memory the
growth of the process's peak. At 250 masks and 896 x 896 one pass takes about a minute on one core.

    python tools/benchmarks/mask_adapter.py                        # 250 masks, and 60 that skipping would leave
    python tools/benchmarks/mask_adapter.py --masks 16 --left 4    # quick
"""

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmseg_plugins.classify.features import ClipMaskFeatures
from mmseg_plugins.methods.mask_adapter.adapter import AdapterBlock
from mmseg_plugins.methods.mask_adapter.classifier import MaskAdapterClassifier

CHANNELS, EMBED_DIM, STRIDE, MASK_STRIDE = 1536, 768, 32, 4
FORMS = ("published", "ours")
_MEBIBYTE = 2**20

logger = logging.getLogger(__name__)


class Head(nn.Module):
    """ConvNeXt-L's head into the joint space."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(CHANNELS, eps=1e-6)
        self.fc1, self.fc2 = nn.Linear(CHANNELS, CHANNELS), nn.Linear(CHANNELS, EMBED_DIM, bias=False)

    def forward(self, vectors: Tensor) -> Tensor:
        """Project (..., C) vectors."""
        return self.fc2(F.gelu(self.fc1(self.norm(vectors))))


def published_form(classifier: MaskAdapterClassifier, features: ClipMaskFeatures, masks: Tensor) -> Tensor:
    """Embed masks as published: a copy of the dense embedding for every mask, all masks at once."""
    adapter, (batch, count) = classifier.adapter, masks.shape[:2]
    height, width = features.grid
    resized = F.interpolate(masks.float(), (4 * height, 4 * width), mode="bilinear", align_corners=False)
    embedded = adapter.mask_downscaling(resized.flatten(0, 1)[:, None])
    dense = features.joint()
    dense = dense[:, None].expand(-1, count, -1, -1, -1).reshape(batch * count, *dense.shape[1:])
    maps = adapter.fuse(dense + embedded)
    for block in adapter.blocks:
        maps = published_block(block, maps)
    maps = adapter.final(adapter.norm(maps)).reshape(batch, -1, height, width)
    weights = F.softmax(F.logsigmoid(maps).flatten(2), dim=-1)
    pooled = torch.einsum("bmp,bcp->bmc", weights, features.dense.flatten(2))
    return features.project(pooled).unflatten(1, (count, -1)).mean(2)


def published_block(block: AdapterBlock, maps: Tensor) -> Tensor:
    """ConvNeXt's block, one step after the other."""
    inner = block.norm(block.dwconv(maps).permute(0, 2, 3, 1))
    inner = block.pwconv2(F.gelu(block.pwconv1(inner)))
    return maps + (block.gamma * inner).permute(0, 3, 1, 2)


def make_inputs(masks: int, size: int) -> tuple[MaskAdapterClassifier, ClipMaskFeatures, Tensor]:
    """Make the module, one image's features and its masks, the same in every process."""
    torch.manual_seed(0)
    classifier = MaskAdapterClassifier(embed_dim=EMBED_DIM).eval()
    for block in classifier.adapter.blocks:
        nn.init.normal_(block.gamma, std=0.1)  # otherwise 1e-6, and the blocks do nothing
    grid = size // STRIDE
    features = ClipMaskFeatures(dense=torch.randn(1, CHANNELS, grid, grid), project=Head().eval())
    coarse = torch.randn(1, masks, 8, 8)
    side = size // MASK_STRIDE
    return classifier, features, F.interpolate(coarse, (side, side), mode="bilinear") > 0


def peak_memory() -> float:
    """Return this process's largest resident size in MiB."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / _MEBIBYTE


@torch.no_grad()
def measure(form: str, masks: int, size: int, output: Path) -> dict[str, float]:
    """Run one form once in this process: seconds of processor time, MiB that the peak grew by."""
    classifier, features, binary = make_inputs(masks, size)
    run = (
        (lambda given: published_form(classifier, features, given))
        if form == "published"
        else (lambda given: classifier.embed(features, given))
    )
    run(binary[:, :1])  # libraries load, threads start
    before, start = peak_memory(), time.process_time()
    embeddings = run(binary)
    seconds = time.process_time() - start
    torch.save(embeddings, output)
    return {"seconds": seconds, "mebibytes": peak_memory() - before}


def in_own_process(form: str, masks: int, size: int, threads: int, output: Path) -> dict[str, float]:
    """Run :func:`measure` in a new process.

    Raises:
        RuntimeError: with the last lines, if it fails.
    """
    command = [sys.executable, __file__, "--worker", form, "--masks", masks, "--size", size, "--output", output]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the {form} form failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def compare(masks: int, left: int, size: int, repeats: int, threads: int = 1) -> dict[str, float]:
    """Measure both forms in turns, and ours on the masks that skipping would leave.

    Args:
        masks: masks of the image.
        left: masks that remain; 0 leaves this out.
        size: side of the image.
        repeats: runs of each form; medians count.
        threads: of torch.

    Returns:
        Medians: ``published_seconds``, ``ours_seconds``, ``published_mebibytes``, ``ours_mebibytes``,
        ``largest_difference`` of the embeddings, and ``left_seconds``.
    """
    results: dict[str, list[dict[str, float]]] = {form: [] for form in FORMS}
    with tempfile.TemporaryDirectory() as folder:
        outputs = {form: Path(folder) / f"{form}.pt" for form in FORMS}
        for repeat in range(repeats):
            for form in FORMS if repeat % 2 == 0 else reversed(FORMS):
                results[form].append(in_own_process(form, masks, size, threads, outputs[form]))
                logger.info("%s: %s", form, results[form][-1])
        one, other = (torch.load(path, weights_only=True) for path in outputs.values())
        summary = {"largest_difference": float((one - other).abs().max())}
        for form, runs in results.items():
            summary |= {f"{form}_{key}": statistics.median(run[key] for run in runs) for key in runs[0]}
        if left:
            summary["left_seconds"] = in_own_process("ours", left, size, threads, Path(folder) / "left.pt")["seconds"]
    return summary


def report(summary: dict[str, float], masks: int, left: int) -> str:
    """Put the figures into words."""
    times = summary["published_seconds"] / summary["ours_seconds"]
    memory = summary["ours_mebibytes"] / summary["published_mebibytes"]
    lines = [
        f"published form: {summary['published_seconds']:.1f} s, {summary['published_mebibytes']:.0f} MiB",
        f"folded, chunked: {summary['ours_seconds']:.1f} s, {summary['ours_mebibytes']:.0f} MiB",
        f"{times:.3f} times as fast, {100 * memory:.1f} % of the memory",
        f"largest difference of the embeddings: {summary['largest_difference']:.2e}",
    ]
    if left:
        share = summary["ours_seconds"] / summary["left_seconds"]
        what = f"{left} of {masks} masks left take {summary['left_seconds']:.1f} s"
        lines.append(f"skipping, apart: {what}, {share:.1f} times as fast")
    return "\n".join(lines)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--masks", type=int, default=250)
    parser.add_argument("--left", type=int, default=60, help="masks that skipping would leave, 0: do not measure")
    parser.add_argument("--size", type=int, default=896, help="side of the image (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=1, help="runs of each form, in turns; medians count")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--worker", choices=FORMS, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    args = parse_args()
    if args.worker:
        print(json.dumps(measure(args.worker, args.masks, args.size, args.output)))
        return
    summary = compare(args.masks, args.left, args.size, args.repeats, args.threads)
    if args.json:
        args.json.write_text(json.dumps(summary, indent=1), encoding="utf-8")
    print(report(summary, args.masks, args.left))


if __name__ == "__main__":
    main()
