"""Measure the update of the semantic metric against mmseg's IoUMetric, and the memory of an evaluation.

Both metrics get the same samples in one run; every repeat times one update of each, in turn. Their tables are compared
figure by figure. The memory part counts what the metrics hold after 1, 2, 4, ... images.

    python tools/benchmarks/metrics.py
    python tools/benchmarks/metrics.py --classes 150 847 --size 512 683 --device cuda --json
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from mmengine.logging import MMLogger
from mmseg.evaluation.metrics import IoUMetric

from mmseg_plugins.evaluation.metrics import OpenVocabularyIoUMetric


def make_sample(num_classes: int, size: tuple[int, int], device: str, seed: int) -> dict[str, Any]:
    """Make one image: labels in patches with an ignored border, a prediction that is right at 70 % of the pixels."""
    generator = torch.Generator().manual_seed(seed)
    patches = [side // 32 + 1 for side in size]
    label = torch.randint(0, num_classes, patches, generator=generator)
    label = label.repeat_interleave(32, 0).repeat_interleave(32, 1)[: size[0], : size[1]].contiguous()
    prediction = label.clone()
    wrong = torch.rand(size, generator=generator) < 0.3
    prediction[wrong] = torch.randint(0, num_classes, (int(wrong.sum()),), generator=generator)
    label[:10] = ignore_of(num_classes)
    return {
        "img_path": f"image_{seed}.jpg",
        "pred_sem_seg": {"data": prediction[None].to(device)},
        "gt_sem_seg": {"data": label[None].to(device)},
    }


def ignore_of(num_classes: int) -> int:
    """Return the ignore value of label maps with this many classes."""
    return 255 if num_classes <= 255 else 65535


def new_metrics(num_classes: int) -> tuple[IoUMetric, OpenVocabularyIoUMetric]:
    """Make mmseg's metric and ours with the same arguments."""
    arguments = {"ignore_index": ignore_of(num_classes), "iou_metrics": ["mIoU", "mDice", "mFscore"]}
    metrics = IoUMetric(**arguments), OpenVocabularyIoUMetric(**arguments)
    for metric in metrics:
        metric.dataset_meta = {"classes": tuple(f"class {index}" for index in range(num_classes))}
    return metrics


def seconds(update: Callable[[], None], device: str) -> float:
    """Time one call, device work included."""
    if device != "cpu":
        torch.cuda.synchronize()
    start = time.perf_counter()
    update()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure_update(num_classes: int, size: tuple[int, int], device: str, repeats: int) -> dict[str, Any]:
    """Time updates of both metrics in turn and compare their tables."""
    samples = [make_sample(num_classes, size, device, seed) for seed in range(4)]
    theirs, ours = new_metrics(num_classes)
    times: dict[str, list[float]] = {"mmseg": [], "ours": []}
    for repeat in range(repeats + 2):
        sample = samples[repeat % len(samples)]
        for name, metric in (("mmseg", theirs), ("ours", ours)):
            elapsed = seconds(lambda metric=metric, sample=sample: metric.process({}, [sample]), device)
            if repeat >= 2:  # the first two warm up
                times[name].append(elapsed)
    return {
        "classes": num_classes,
        "height": size[0],
        "width": size[1],
        "device": device,
        "threads": torch.get_num_threads(),
        "repeats": repeats,
        "mmseg_ms": 1000 * statistics.median(times["mmseg"]),
        "ours_ms": 1000 * statistics.median(times["ours"]),
        "ratio": statistics.median(times["mmseg"]) / statistics.median(times["ours"]),
        "largest_difference": largest_difference(theirs, ours),
    }


def largest_difference(theirs: IoUMetric, ours: OpenVocabularyIoUMetric) -> float:
    """Return the largest difference between the two tables, in percentage points; NaN must stand in the same places."""
    totals = [sum(parts) for parts in zip(*theirs.results, strict=True)]
    table = IoUMetric.total_area_to_metrics(*totals, metrics=theirs.metrics)
    ours.compute_metrics([])
    differences = [abs(100 * float(table.pop("aAcc")) - 100 * ours.summary.figures["aAcc"])]
    for figure, values in table.items():
        mine = ours.summary.per_class[figure]
        if not np.array_equal(np.isnan(values), np.isnan(mine)):
            return float("inf")
        differences.append(100 * float(np.nanmax(np.abs(values - mine))))
    return max(differences)


def held_bytes(metric: object) -> int:
    """Count the bytes of all tensors that a metric holds, in lists and tuples too."""
    total, waiting = 0, list(vars(metric).values())
    while waiting:
        value = waiting.pop()
        if isinstance(value, torch.Tensor):
            total += value.untyped_storage().nbytes()
        elif isinstance(value, (list, tuple)):
            waiting.extend(value)
    return total


def measure_memory(num_classes: int, size: tuple[int, int], device: str, images: int) -> list[dict[str, int]]:
    """Return the bytes that each metric holds after 1, 2, 4, ... images."""
    sample = make_sample(num_classes, size, device, 0)
    theirs, ours = new_metrics(num_classes)
    rows = []
    for done in range(1, images + 1):
        for metric in (theirs, ours):
            metric.process({}, [sample])
        if done & (done - 1) == 0:
            rows.append({"images": done, "mmseg_bytes": held_bytes(theirs), "ours_bytes": held_bytes(ours)})
    return rows


def main() -> int:
    """Measure and print; non-zero when the tables differ or memory grows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, nargs="+", default=[150, 847], help="numbers of classes")
    parser.add_argument("--size", type=int, nargs=2, default=[512, 683], metavar=("H", "W"), help="pixels")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=30, help="timed updates of each (default: %(default)s)")
    parser.add_argument("--images", type=int, default=64, help="images of the memory part (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    options = parser.parse_args()
    MMLogger.get_instance("metrics", log_level="ERROR")  # keeps the per-class tables off the screen
    size = tuple(options.size)
    updates = [measure_update(count, size, options.device, options.repeats) for count in options.classes]
    memory = {count: measure_memory(count, size, options.device, options.images) for count in options.classes}
    if options.json:
        print(json.dumps({"updates": updates, "memory": memory}, indent=1))
    else:
        print_report(updates, memory)
    same = all(update["largest_difference"] < 0.005 for update in updates)
    flat = all(len({row["ours_bytes"] for row in rows}) == 1 for rows in memory.values())
    if not (same and flat):
        print("FAILED: the tables differ" if not same else "FAILED: memory grows with the images", file=sys.stderr)
    return 0 if same and flat else 1


def print_report(updates: list[dict[str, Any]], memory: dict[int, list[dict[str, int]]]) -> None:
    """Print both parts as lines."""
    for update in updates:
        print(
            f"{update['classes']} classes, {update['height']} x {update['width']}, {update['device']}, "
            f"{update['threads']} threads: mmseg {update['mmseg_ms']:.2f} ms, ours {update['ours_ms']:.2f} ms an "
            f"image, {update['ratio']:.1f} times as fast; "
            f"tables differ by at most {update['largest_difference']:.2g} points"
        )
    for count, rows in memory.items():
        for row in rows:
            print(
                f"{count} classes after {row['images']:>3} images: mmseg holds {row['mmseg_bytes'] / 1024:.0f} KiB, "
                f"ours {row['ours_bytes'] / 1024:.0f} KiB"
            )


if __name__ == "__main__":
    sys.exit(main())
