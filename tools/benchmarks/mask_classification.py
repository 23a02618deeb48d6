"""Measure what follows a mask decoder on the CPU against the published order of operations, in one run.

From class scores and mask logits to semantic (both orders of resizing), panoptic and instance results, at the size of
the largest published setting. Every row says whether the results are the same, how much faster, and how much memory
each way added at its peak. Masks are made to cover what trained ones do: a picture's worth of segments, several
queries on each, confident inside and outside, and many queries that are void. No weights are needed.

With one thread ratios are of processor time, which holds on a loaded machine too. With several they are of the clock,
because threads that wait for each other burn processor time; on a loaded machine such ratios mean little.

    python tools/benchmarks/mask_classification.py
    python tools/benchmarks/mask_classification.py --only semantic-masks panoptic --threads 1 --repeats 3
    python tools/benchmarks/mask_classification.py --size 512 1024 --classes 150 --json results.json
    python tools/benchmarks/mask_classification.py --network-size 800 1600   # with a second resize
"""

import argparse
import ctypes
import gc
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmseg_plugins.prediction.segments import MaskGeometry, class_weights, semantic_labels
from mmseg_plugins.prediction.segments_instance import Instances, instance_masks
from mmseg_plugins.prediction.segments_panoptic import PanopticMap, panoptic_segments

# Q queries, K classes, H W image, h w mask logits (a quarter of the padded input)

MIB = 2**20
MOST_EXTRA_MIB = 1536  # the aim for our way
STRIDE = 32
_OUTSIDE, _INSIDE = -9.0, 7.0  # typical logits of a trained decoder
_VOID_SHARE = 0.75  # of the queries of a trained decoder, most are void in any one picture


@dataclass(frozen=True)
class Scene:
    """What a decoder gives for one picture.

    Args:
        scores: (Q, K + 1) log scores, void last.
        mask_logits: (Q, h, w).
        geometry: where the masks lie.
        is_thing: K flags.
    """

    scores: Tensor
    mask_logits: Tensor
    geometry: MaskGeometry
    is_thing: tuple[bool, ...]


def make_scene(
    size: tuple[int, int],
    queries: int,
    classes: int,
    *,
    segments: int = 40,
    seed: int = 0,
    network_size: tuple[int, int] | None = None,
) -> Scene:
    """Make masks that cover what trained ones do.

    The picture is divided into as many segments; every query looks at one, with borders of its own, or, every fifth,
    at nothing. Queries that are not void are sure of a class.

    Args:
        size: (H, W) of the picture, which is also the original size.
        queries: Q.
        classes: K; the first half are things.
        segments: how many segments the picture has.
        seed: of the random numbers.
        network_size: (H, W) that the picture is resized to for the network; None: its own.
    """
    generator = torch.Generator().manual_seed(seed)
    network_size = network_size or size
    padded = tuple(side + -side % STRIDE for side in network_size)
    h, w = (side // 4 for side in padded)
    centres = torch.rand(segments, 2, generator=generator) * torch.tensor([h, w])
    rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    distance = torch.stack([((rows - y) ** 2 + (columns - x) ** 2).float().sqrt() for y, x in centres.tolist()])
    nearest, owner = distance.topk(2, 0, largest=False)
    masks = torch.empty(queries, h, w)
    for query in range(queries):
        segment = query % segments
        rest = torch.where(owner[0] == segment, nearest[1], nearest[0])
        margin = (rest - distance[segment]) / 2 + torch.randn((), generator=generator)
        if query % 5 == 4:
            margin = margin.clamp(max=-4)
        noise = F.interpolate(torch.randn(1, 1, h // 4, w // 4, generator=generator), (h, w), mode="bilinear")[0, 0]
        masks[query] = torch.where(margin > 0, _INSIDE, -_OUTSIDE) * (margin / 2).tanh() + noise
    logits = torch.randn(queries, classes + 1, generator=generator)
    named = torch.rand(queries, generator=generator) > _VOID_SHARE
    chosen = torch.randint(classes, (queries,), generator=generator)
    logits[torch.arange(queries), torch.where(named, chosen, classes)] += 12
    probability = logits.softmax(-1)
    geometry = MaskGeometry(output_size=size, padded_size=padded, image_size=network_size)
    return Scene((probability + 1e-8).log(), masks, geometry, tuple(index < classes // 2 for index in range(classes)))


# --- the published order of operations --------------------------------------------------------------------------------


def _full_masks(scene: Scene) -> Tensor:
    """(Q, H, W): to the padded input, cropped, to the original size; the last even where the size is the same."""
    geometry = scene.geometry
    padded = F.interpolate(scene.mask_logits[None], geometry.padded_size, mode="bilinear", align_corners=False)
    inner = padded[..., : geometry.image_size[0], : geometry.image_size[1]]
    return F.interpolate(inner, geometry.output_size, mode="bilinear", align_corners=False)[0]


def usual_semantic_masks(scene: Scene) -> Tensor:
    """Masks at the original size, sigmoid, sum, argmax."""
    masks = _full_masks(scene).sigmoid()
    return torch.einsum("qk,qhw->khw", class_weights(scene.scores), masks).argmax(0)


def usual_semantic_scores(scene: Scene) -> Tensor:
    """Masks at the padded size, sigmoid, sum; the sums are cropped and go to the original size; argmax."""
    geometry = scene.geometry
    padded = F.interpolate(scene.mask_logits[None], geometry.padded_size, mode="bilinear", align_corners=False)[0]
    sums = torch.einsum("qk,qhw->khw", class_weights(scene.scores), padded.sigmoid())
    del padded
    inner = sums[None, :, : geometry.image_size[0], : geometry.image_size[1]]
    return F.interpolate(inner, geometry.output_size, mode="bilinear", align_corners=False)[0].argmax(0)


def usual_panoptic(scene: Scene) -> PanopticMap:
    """All kept masks at the original size; one comparison over them; then segment by segment."""
    masks = _full_masks(scene).sigmoid()
    probability, labels = scene.scores.softmax(-1).max(-1)
    keep = (labels != scene.scores.shape[1] - 1) & (probability > 0)
    probability, labels, masks = probability[keep], labels[keep], masks[keep]
    ids = torch.zeros(scene.geometry.output_size, dtype=torch.int64)
    info: list[dict[str, Any]] = []
    stuff: dict[int, int] = {}
    if not len(labels):
        return PanopticMap(ids, info)
    winner = (probability[:, None, None] * masks).argmax(0)
    for index, label in enumerate(labels.tolist()):
        won, inside = winner == index, masks[index] >= 0.5
        core = won & inside
        if not won.sum() or not inside.sum() or not core.sum() or won.sum().item() / inside.sum().item() < 0.8:
            continue
        thing = scene.is_thing[label]
        if not thing and label in stuff:
            ids[core] = stuff[label]
            continue
        info.append({"id": len(info) + 1, "category_id": label, "isthing": thing})
        ids[core] = info[-1]["id"]
        stuff[label] = info[-1]["id"]
    return PanopticMap(ids, info)


def usual_instance(scene: Scene, top_k: int = 100) -> Instances:
    """All masks at the original size; the best pairs of mask and class take theirs, and its mean probability."""
    masks = _full_masks(scene)
    weights = class_weights(scene.scores)
    scores, place = weights.flatten().topk(top_k)
    labels = place % weights.shape[1]
    things = torch.tensor(scene.is_thing)[labels]
    masks = masks[place // weights.shape[1]]
    masks, labels, scores = masks[things], labels[things], scores[things]
    binary = (masks > 0).float()
    quality = (masks.sigmoid().flatten(1) * binary.flatten(1)).sum(1) / (binary.flatten(1).sum(1) + 1e-6)
    return Instances(binary, labels, scores * quality)


# --- ours -------------------------------------------------------------------------------------------------------------


def _ours_semantic(order: str) -> Callable[[Scene], Tensor]:
    return lambda scene: semantic_labels(scene.scores, scene.mask_logits, scene.geometry, order=order)[0]


def _ours_panoptic(scene: Scene) -> PanopticMap:
    return panoptic_segments(scene.scores, scene.mask_logits, scene.geometry, is_thing=scene.is_thing)


def _ours_instance(scene: Scene) -> Instances:
    return instance_masks(scene.scores, scene.mask_logits, scene.geometry, is_thing=scene.is_thing)


def _same_labels(usual: Tensor, ours: Tensor) -> int:
    return int((usual != ours).sum())


def _same_segments(usual: PanopticMap, ours: PanopticMap) -> int:
    keys = ("id", "category_id", "isthing")
    listed = [[tuple(entry[key] for key in keys) for entry in found.segments_info] for found in (usual, ours)]
    return int((usual.ids != ours.ids).sum()) if listed[0] == listed[1] else usual.ids.numel()


def _same_instances(usual: Instances, ours: Instances) -> int:
    """Pixels in which the masks differ, whichever order equal scores stand in."""
    if len(usual.scores) != len(ours.scores):
        return ours.masks.numel()
    order = torch.sort(usual.labels, stable=True).indices
    order = order[torch.sort(usual.scores[order], descending=True, stable=True).indices]
    if not torch.equal(usual.labels[order], ours.labels):
        return ours.masks.numel()
    return sum(int((usual.masks[one].bool() != mask).sum()) for one, mask in zip(order, ours.masks, strict=True))


CASES: dict[str, tuple[Callable[[Scene], Any], Callable[[Scene], Any], Callable[[Any, Any], int]]] = {
    "semantic-masks": (usual_semantic_masks, _ours_semantic("masks"), _same_labels),
    "semantic-scores": (usual_semantic_scores, _ours_semantic("scores"), _same_labels),
    "panoptic": (usual_panoptic, _ours_panoptic, _same_segments),
    "instance": (usual_instance, _ours_instance, _same_instances),
}


# --- measuring --------------------------------------------------------------------------------------------------------


@dataclass
class Row:
    """One comparison.

    Args:
        what: which result.
        shapes: sizes.
        usual_s: seconds of the published order of operations, median; of the processor with one thread, else of the
            clock.
        ours_s: the same of ours.
        ratio: usual / ours.
        usual_processor_s: processor seconds of all threads, median.
        ours_processor_s: the same of ours.
        usual_mib: peak extra memory of the published order in MiB, results included; None where not measured.
        ours_mib: the same of ours.
        different_pixels: pixels in which the results differ.
    """

    what: str
    shapes: str
    usual_s: float
    ours_s: float
    ratio: float
    usual_processor_s: float
    ours_processor_s: float
    usual_mib: float | None
    ours_mib: float | None
    different_pixels: int

    @property
    def is_met(self) -> bool:
        """Whether results agree, memory stays below the aim, and nothing is slower."""
        return self.different_pixels == 0 and self.ratio >= 1 and (self.ours_mib or 0) < MOST_EXTRA_MIB


def measure(what: str, scene: Scene, repeats: int) -> Row:
    """Run both ways in turn."""
    usual, ours, difference = CASES[what]
    usual_mib, expected, first_usual = _peak_mib(lambda: usual(scene))
    ours_mib, found, first_ours = _peak_mib(lambda: ours(scene))
    different = difference(expected, found)
    del expected, found
    times = {"usual": [first_usual], "ours": [first_ours]}
    for _ in range(repeats - 1):
        times["usual"].append(_timed(lambda: usual(scene))[1])
        times["ours"].append(_timed(lambda: ours(scene))[1])
    clock, processor = ({way: _median(runs, kind) for way, runs in times.items()} for kind in range(2))
    decisive = processor if torch.get_num_threads() == 1 else clock
    queries, classes = scene.scores.shape[0], scene.scores.shape[1] - 1
    return Row(
        what,
        f"Q={queries}, K={classes}, {scene.geometry.output_size[0]}x{scene.geometry.output_size[1]}",
        decisive["usual"],
        decisive["ours"],
        decisive["usual"] / decisive["ours"],
        processor["usual"],
        processor["ours"],
        usual_mib,
        ours_mib,
        different,
    )


def _median(runs: list[tuple[float, float]], kind: int) -> float:
    return statistics.median(run[kind] for run in runs)


def _timed(function: Callable[[], Any]) -> tuple[Any, tuple[float, float]]:
    """The result of a call, and its seconds of the clock and of the processor."""
    clock, processor = time.perf_counter(), time.process_time()
    result = function()
    return result, (time.perf_counter() - clock, time.process_time() - processor)


def _peak_mib(function: Callable[[], Any]) -> tuple[float | None, Any, tuple[float, float]]:
    """Extra memory of a call at its peak, its result, and its seconds; Linux only."""
    gc.collect()
    if platform.libc_ver()[0] == "glibc":  # memory that was freed but kept would hide what the call needs
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        before = _memory_kib("VmRSS")
    except OSError:
        before = None
    result, seconds = _timed(function)
    return None if before is None else (_memory_kib("VmHWM") - before) / 1024, result, seconds


def _memory_kib(key: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def _line(row: Row) -> str:
    seconds = (row.usual_s, row.ours_s, row.ratio, row.usual_processor_s, row.ours_processor_s)
    memory = (f"{value:9.0f}" if value is not None else "?".rjust(9) for value in (row.usual_mib, row.ours_mib))
    numbers = [*(f"{value:9.2f}" for value in seconds), *memory, f"{row.different_pixels:9d}"]
    return f"{row.what:<16} {row.shapes:<27} {' '.join(numbers)}  {'met' if row.is_met else 'NOT MET'}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(CASES), default=list(CASES), help="default: all")
    parser.add_argument("--size", nargs=2, type=int, default=(1024, 2048), metavar=("H", "W"), help="of the picture")
    parser.add_argument("--network-size", nargs=2, type=int, metavar=("H", "W"), help="default: the picture's")
    parser.add_argument("--queries", type=int, default=250, help="default: %(default)s")
    parser.add_argument("--classes", type=int, default=847, help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--repeats", type=int, default=1, help="runs of each way, in turn (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_grad_enabled(False)
    network_size = None if options.network_size is None else tuple(options.network_size)
    scene = make_scene(tuple(options.size), options.queries, options.classes, network_size=network_size)
    load = os.getloadavg()[0] / (os.cpu_count() or 1)
    print(f"torch {torch.__version__}, {options.threads} threads, load {load:.1f} per core at the start, medians")
    print(f"aim: same results, never slower, below {MOST_EXTRA_MIB} MiB extra\n")
    names = ("usual s", "ours s", "ratio", "usual cpu", "our cpu", "usual MiB", "our MiB", "different")
    print(" " * 45 + " ".join(f"{name:>9}" for name in names))
    rows = []
    for what in options.only:
        rows.append(measure(what, scene, options.repeats))
        print(_line(rows[-1]), flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
