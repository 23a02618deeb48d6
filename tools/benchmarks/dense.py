"""Measure dense prediction: what CLIP-DINOiser adds to MaskCLIP, windows in batches, bfloat16 against float32.

Three parts, each with its target:

* ``addition``: time from image to label map at 448 x 597, a ViT-B/16, random weights;
* ``windows``: the same windows in batches of eight and one by one;
* ``precision``: how many pixels of generated scenes keep their label in bfloat16, with every ShapesWorld config of the
  methods without a trained head. No photographs, no downloads.

On the CPU, times are the processor time of this process with one thread, variants in turn, medians: other programs
hardly change their ratios. On a GPU they are the clock's.

    python tools/benchmarks/dense.py
    python tools/benchmarks/dense.py --only addition --classes 20 150 --repeats 7
    python tools/benchmarks/dense.py --only precision --scenes 300 --json results.json
    python tools/benchmarks/dense.py --device cuda
"""

import argparse
import json
import logging
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS, MODELS
from mmseg.structures import SegDataSample
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import mmseg_plugins.register
from mmseg_plugins.cli.main import main as command_line
from mmseg_plugins.methods.clip_dinoiser.model import CLIPDINOiser
from mmseg_plugins.methods.maskclip.model import MaskCLIP
from mmseg_plugins.segmentors.pixel import PixelSegmentor
from mmseg_plugins.vocabulary.embed import TextEmbeddings

_ = mmseg_plugins.register  # imported for its effect
CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SIZE = (448, 597)  # a 3:4 photograph at the published scale
MOST_ADDED, LEAST_AGREEMENT = 0.15, 0.995
# A training config; its model with trained layers is another one.
_SKIPPED = {"clip-dinoiser_shapes-vit_1xb32-300_shapesworld-64x64"}


@dataclass
class Row:
    """One measurement.

    Args:
        part: ``addition``, ``windows`` or ``precision``.
        what: what was compared.
        base_ms, ours_ms: milliseconds per image of the two variants, medians.
        ratio: ours / base.
        agreement: share of pixels with the same label; None where it is not asked.
        target: what is to be reached, empty where nothing is.
        is_met: whether it is; None without a target.
        base_gmacs, ours_gmacs: multiply-adds of the two networks in billions; None where they are not asked.
    """

    part: str
    what: str
    base_ms: float
    ours_ms: float
    ratio: float
    agreement: float | None = None
    target: str = ""
    is_met: bool | None = None
    base_gmacs: float | None = None
    ours_gmacs: float | None = None


def clock(device: str) -> float:
    """Seconds: of this process on the CPU, of the wall clock once the GPU has finished."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def in_turn(variants: Sequence[Callable[[], Any]], repeats: int, device: str) -> list[float]:
    """Return the median milliseconds of each variant; they run in turn, after one round that does not count."""
    times: list[list[float]] = [[] for _ in variants]
    for repeat in range(repeats + 1):
        for kept, variant in zip(times, variants, strict=True):
            start = clock(device)
            variant()
            if repeat:
                kept.append(1000 * (clock(device) - start))
    return [statistics.median(kept) for kept in times]


# --- models with random weights ---------------------------------------------------------------------------------------


def random_model(kind: type[PixelSegmentor], classes: int, device: str, **options: Any) -> PixelSegmentor:
    """Build a method on a ViT-B/16 with random weights and random text embeddings."""
    torch.manual_seed(0)
    names = [f"class {index}" for index in range(classes)]
    clip = {"model": "ViT-B-16", "text": False}
    model = kind(clip=clip, vocabulary={"source": names, "templates": ["{}"]}, text_cache=False, **options)
    rows = F.normalize(torch.randn(classes, model.clip.visual.embed_dim), dim=1)
    model.set_text_embeddings(TextEmbeddings(rows, torch.arange(classes), classes))
    return model.eval().to(device)


def labels_of(model: PixelSegmentor, image: Tensor, ori_shape: tuple[int, int]) -> Tensor:
    """From a normalised image to its label map, as in a test."""
    with torch.no_grad():
        [sample] = model.predict(image, [SegDataSample(metainfo={"ori_shape": ori_shape})])
    return sample.pred_sem_seg.data[0]


def gmacs(model: PixelSegmentor, image: Tensor) -> float:
    """Multiply-adds of the network for one image in billions, windows apart, by PyTorch's counter.

    Attention is written out: the counter does not know every fused kernel.
    """
    text = model.text_embeddings
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.row_logits(image, text)
    return counter.get_total_flops() / 2e9


def measure_addition(options: argparse.Namespace) -> list[Row]:
    """Compare CLIP-DINOiser with MaskCLIP, image to label map, whole and in the published windows."""
    image = torch.randn(1, 3, *SIZE, device=options.device)
    modes = {
        "whole": {"mode": "whole"},
        "windows of 448": {"mode": "slide", "crop_size": (448, 448), "stride": (224, 224)},
    }
    rows = []
    for classes in options.classes:
        for name, test_cfg in modes.items():
            models = [
                random_model(kind, classes, options.device, test_cfg=test_cfg) for kind in (MaskCLIP, CLIPDINOiser)
            ]
            variants = [lambda model=model: labels_of(model, image, (480, 640)) for model in models]
            base, ours = in_turn(variants, options.repeats, options.device)
            what = f"CLIP-DINOiser against MaskCLIP, {SIZE[0]} x {SIZE[1]}, {name}, {classes} classes"
            is_met = ours / base - 1 < MOST_ADDED
            macs = [gmacs(model, image) for model in models] if name == "whole" else [None, None]
            rows.append(Row("addition", what, base, ours, ours / base, None, "less than 15 % more", is_met, *macs))
    return rows


def measure_windows(options: argparse.Namespace) -> list[Row]:
    """Compare batches of windows with single ones: a large tower, where a window fills the processor, and a small."""
    rows = []
    large = {"crop_size": (224, 224), "stride": (112, 112)}
    small = {"crop_size": (64, 64), "stride": (32, 32)}
    for name, size, windows in (("ViT-B/16", (448, 448), large), ("embedded ViT", (256, 256), small)):
        image = torch.randn(1, 3, *size, device=options.device)
        models = [_windowed(name, options.device, {"mode": "slide", "window_batch": n, **windows}) for n in (1, 8)]
        variants = [partial(labels_of, model, image, size) for model in models]
        one, batch = (variant() for variant in variants)
        base, ours = in_turn(variants, options.repeats, options.device)
        agreement = (one == batch).double().mean().item()
        what = f"batches of 8 windows against one by one, MaskCLIP, {name}, {size[0]} x {size[1]}, "
        what += f"windows of {windows['crop_size'][0]} every {windows['stride'][0]}"
        is_met = agreement >= 0.999 and ours / base <= 1.05
        target = "at least 99.9 % of the labels, not slower"
        rows.append(Row("windows", what, base, ours, ours / base, agreement, target, is_met))
    return rows


def _windowed(name: str, device: str, test_cfg: Mapping[str, Any]) -> PixelSegmentor:
    if name == "ViT-B/16":
        return random_model(MaskCLIP, 20, device, test_cfg=test_cfg)
    model = MaskCLIP(clip={"model": "shapesworld"}, vocabulary={"source": "shapesworld_38"}, test_cfg=test_cfg)
    return model.eval().to(device)


# --- precision --------------------------------------------------------------------------------------------------------


def shapes_configs() -> list[Path]:
    """Return the configs that run on generated scenes without labels of their own and without a trained head."""
    folders = ("maskclip", "clip_dinoiser", "training_free")
    found = [path for folder in folders for path in sorted((CONFIGS / folder).glob("*_shapesworld-64x64.py"))]
    return [path for path in found if path.stem not in _SKIPPED]


def measure_precision(options: argparse.Namespace) -> list[Row]:
    """Compare label maps of bfloat16 autocast with those of float32, pixel by pixel."""
    init_default_scope("mmseg")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "scenes"
        arguments = ["shapes", "--out", str(data), "--split", "test", "--count", str(options.scenes), "--seed", "731"]
        if command_line(arguments):
            raise RuntimeError("generating the scenes failed")
        for path in shapes_configs():
            if options.configs and not any(part in path.stem for part in options.configs):
                continue
            rows.append(_measure_one(path, data, options))
    return rows


def _measure_one(path: Path, data: Path, options: argparse.Namespace) -> Row:
    config = Config.fromfile(path)
    model = MODELS.build(config.model).eval().to(options.device)
    scenes = DATASETS.build({**config.test_dataloader.dataset, "data_root": str(data), "split": "test"})
    same = total = 0
    spent = [0.0, 0.0]
    for start in range(0, len(scenes), options.batch):
        batch = [scenes[index] for index in range(start, min(start + options.batch, len(scenes)))]
        maps = []
        for index, is_reduced in enumerate((False, True)):
            begin = clock(options.device)
            with torch.no_grad(), torch.autocast(options.device, torch.bfloat16, enabled=is_reduced):
                samples = model.test_step(pseudo_collate(batch))
            if start:  # the first batch encodes the words
                spent[index] += clock(options.device) - begin
            maps.append(torch.stack([sample.pred_sem_seg.data[0] for sample in samples]))
        same += (maps[0] == maps[1]).sum().item()
        total += maps[0].numel()
    base, ours = (1000 * value / max(len(scenes) - options.batch, 1) for value in spent)
    agreement = same / total
    what = f"bfloat16 against float32, {path.stem}, {len(scenes)} scenes"
    ratio = ours / base if base else float("nan")
    return Row("precision", what, base, ours, ratio, agreement, "at least 99.5 % of the labels",
               agreement >= LEAST_AGREEMENT)  # fmt: skip


# --- report -----------------------------------------------------------------------------------------------------------


def machine(device: str) -> dict[str, Any]:
    """Describe what the numbers were measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    return {
        "device": torch.cuda.get_device_name() if device != "cpu" else model,
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
    }


def print_row(row: Row) -> None:
    """Print one measurement."""
    verdict = {True: "met", False: "NOT MET", None: ""}[row.is_met]
    same = "" if row.agreement is None else f"   same labels {100 * row.agreement:.2f} %"
    print(f"  {row.what}")
    if row.base_gmacs is not None:
        print(f"    {row.base_gmacs:.1f} GMACs -> {row.ours_gmacs:.1f} GMACs")
    print(f"    {row.base_ms:.1f} ms -> {row.ours_ms:.1f} ms   x {row.ratio:.3f}{same}   {row.target}: {verdict}")


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ["addition", "windows", "precision"]
    parser.add_argument("--only", nargs="+", choices=parts, default=parts, help="what to measure (default: all)")
    parser.add_argument("--classes", nargs="+", type=int, default=[20, 150], help="of the addition (default: 20 150)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds that count (default: %(default)s)")
    parser.add_argument("--scenes", type=int, default=300, help="generated scenes (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=16, help="scenes at once (default: %(default)s)")
    parser.add_argument("--configs", nargs="+", help="only configs with one of these in their names")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU (default: %(default)s)")
    parser.add_argument("--json", metavar="FILE", help="also write the rows as JSON")
    return parser.parse_args()


def main() -> int:
    """Measure and print; 1 when a target is missed."""
    options = parse_args()
    logging.getLogger("mmseg_plugins").setLevel(logging.ERROR)  # random weights are meant here
    torch.set_num_threads(options.threads)
    about = machine(options.device)
    print("   ".join(f"{key}: {value}" for key, value in about.items()))
    measures = {"addition": measure_addition, "windows": measure_windows, "precision": measure_precision}
    rows = []
    for part in options.only:
        for row in measures[part](options):
            print_row(row)
            sys.stdout.flush()
            rows.append(row)
    if options.json:
        content = {"machine": about, "rows": [asdict(row) for row in rows]}
        Path(options.json).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return int(any(row.is_met is False for row in rows))


if __name__ == "__main__":
    sys.exit(main())
