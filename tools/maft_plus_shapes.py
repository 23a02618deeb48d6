"""What MAFT+'s fine-tuning does to CLIP on generated scenes, with ground-truth masks and nothing else to learn.

CLIP knows all colour-texture pairs; masks of 24 of them and of the grounds are known in training, the other eight pairs
are in the pictures without a mask. Objects are small, since CLIP names larger ones without a mistake. Prints the share
of test masks whose class is right, all 38 classes competing, for CLIP as it is, fine-tuned without and with
representation compensation, per seed and as mean and spread:

    python tools/maft_plus_shapes.py --seeds 0 1 2
"""

import argparse
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.structures import InstanceData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor

import mmseg_plugins.register  # noqa: F401  (registers)
from mmseg_plugins.datasets.semantic_masks import masks_of_label_map
from mmseg_plugins.datasets.shapesworld import SceneOptions, generate_scene
from mmseg_plugins.datasets.shapesworld.world import NO_LABEL, held_out_classes
from mmseg_plugins.engine.parameter_groups import parameter_groups
from mmseg_plugins.masks.proposals import MaskProposals, ProposalRequest, ProposalSource
from mmseg_plugins.methods.maft_plus.model import MAFTPlus

UNSEEN = held_out_classes(38)
RADIUS = (5.0, 8.0)
LEAST_PIXELS = 30
_INSIDE = 10.0  # logit of a ground-truth mask


@MODELS.register_module()
class GroundTruthMasks(ProposalSource):
    """Proposes the masks in the samples' ``gt_instances``."""

    def propose(self, request: ProposalRequest) -> list[MaskProposals]:
        """Return the ground truth as logits."""
        return [
            MaskProposals(mask_logits=(sample.gt_instances.masks.float() * 2 - 1) * _INSIDE)
            for sample in request.data_samples
        ]


def build_model(*, variant: str, compensation: float, token_order: str = "channels_last") -> MAFTPlus:
    """Return MAFT+ on the embedded CLIP, which knows all classes, with ground-truth masks."""
    model = MAFTPlus(
        clip={"model": "shapesworld_all"},
        dense={"rule": "qk"},
        vocabulary={"source": "shapesworld_38", "templates": "imagenet80"},
        variant=variant,
        token_order=token_order,
        teacher=True,
        compensation_weight=compensation,
        proposals={"type": "GroundTruthMasks"},
        scoring={"rule": "clip"},
    )
    model.ensure_weights("visual")
    return model


Scene = tuple[Tensor, InstanceData]


def make_scenes(split: str, *, seed: int, count: int, seen_only: bool) -> list[Scene]:
    """Return pictures (3, 64, 64) RGB 0..255 with one mask per class that they show.

    Args:
        split: of the generator.
        seed: of the generator.
        count: how many.
        seen_only: leave out the masks of unseen classes; their pixels stay in the pictures.
    """
    scenes = []
    for index in range(count):
        scene = generate_scene(seed=seed, index=index, split=split, options=SceneOptions(radius=RADIUS))
        labels = scene.labels(38).astype(np.int64)
        if seen_only:
            labels[np.isin(labels, UNSEEN)] = NO_LABEL
        image = torch.from_numpy(scene.image.transpose(2, 0, 1).astype(np.float32))
        scenes.append((image, masks_of_label_map(labels, NO_LABEL)))
    return scenes


def collate(model: MAFTPlus, scenes: Sequence[Scene]) -> tuple[Tensor, list[SegDataSample]]:
    """Return a normalised batch and its samples."""
    mean, std = (torch.tensor(value)[:, None, None] for value in (model.clip.visual.mean, model.clip.visual.std))
    samples = []
    for _, instances in scenes:
        sample = SegDataSample()
        sample.gt_instances = instances
        samples.append(sample)
    return torch.stack([(image - mean) / std for image, _ in scenes]), samples


def train(model: MAFTPlus, scenes: Sequence[Scene], *, steps: int, seed: int, rate: float, batch: int = 16) -> None:
    """Train as published but for rate, length and data: AdamW, poly decay, gradients clipped at 0.01."""
    generator = torch.Generator().manual_seed(seed)
    groups = parameter_groups(model, lr=rate, weight_decay=2e-5, lr_mult={}, norm_decay_mult=0.0, embed_decay_mult=0.0)
    optimizer = torch.optim.AdamW(groups)
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=steps, power=0.9)
    trained = [parameter for group in groups for parameter in group["params"]]
    model.train()
    for _ in range(steps):
        chosen = torch.randint(len(scenes), (batch,), generator=generator).tolist()
        losses = model.loss(*collate(model, [scenes[index] for index in chosen]))
        optimizer.zero_grad()
        sum(losses.values()).backward()
        torch.nn.utils.clip_grad_norm_(trained, 0.01)
        optimizer.step()
        schedule.step()
    model.eval()


@torch.no_grad()
def accuracy(model: MAFTPlus, scenes: Sequence[Scene], *, is_tuned: bool, batch: int = 50) -> dict[str, float]:
    """Return the share, in percent, of seen and of unseen masks whose class is right.

    Args:
        model: the model.
        scenes: with the masks of all classes.
        is_tuned: False scores with the untouched text rows, as CLIP with mask pooling does.
        batch: scenes at once.
    """
    text, model.is_transferring = model.classifier_text(), is_tuned
    right: dict[str, list[bool]] = {"seen": [], "unseen": []}
    for start in range(0, len(scenes), batch):
        inputs, samples = collate(model, scenes[start : start + batch])
        features = model.encode(inputs).features
        for index, sample in enumerate(samples):
            instances = sample.gt_instances
            large = instances.masks.flatten(1).sum(1) >= LEAST_PIXELS
            masks = (instances.masks[large].float()[None] * 2 - 1) * _INSIDE
            if not large.any():
                continue
            found = model.out_vocabulary_logits(features.image(index), masks, text)[0].argmax(-1)
            for label, guess in zip(instances.labels[large].tolist(), found.tolist(), strict=True):
                right["unseen" if label in UNSEEN else "seen"].append(label == guess)
    model.is_transferring = True
    return {name: 100 * sum(values) / len(values) for name, values in right.items()}


def run_seed(
    seed: int,
    *,
    variant: str,
    steps: int,
    train_count: int,
    test_count: int,
    rate: float,
    test_split: str = "test",
    with_mixed: bool = True,
) -> dict[str, dict[str, float]]:
    """Return the accuracies of one seed.

    ``frozen`` is CLIP as it is, ``tuned`` without and ``compensated`` with compensation; ``_mixed`` takes half of each
    mask's probabilities from the original CLIP.
    """
    scenes = make_scenes("train", seed=seed, count=train_count, seen_only=True)
    tests = make_scenes(test_split, seed=seed, count=test_count, seen_only=False)
    results = {}
    for name, compensation in (("tuned", 0.0), ("compensated", 0.1)):
        torch.manual_seed(seed)
        model = build_model(variant=variant, compensation=compensation)
        if "frozen" not in results:
            results["frozen"] = accuracy(model, tests, is_tuned=False)
        train(model, scenes, steps=steps, seed=seed, rate=rate)
        results[name] = accuracy(model, tests, is_tuned=True)
        if with_mixed:
            model.original_share, model.original_mixing = 0.5, "probabilities"
            results[f"{name}_mixed"] = accuracy(model, tests, is_tuned=True)
    return results


def table(results: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Return the Markdown table of {seed: results}, with means and standard deviations over the seeds."""
    rows = [
        "| | " + " | ".join(f"seed {seed}" for seed in results) + " | mean ± sd |",
        "|---" * (len(results) + 2) + "|",
    ]
    lines = [
        (f"{kind}: {label}", [runs[name][kind] - (runs[base][kind] if base else 0) for runs in results.values()], base)
        for kind in ("seen", "unseen")
        for label, name, base in (
            ("CLIP as it is", "frozen", None),
            ("fine-tuned", "tuned", None),
            ("fine-tuned with compensation", "compensated", None),
            ("fine-tuned, half the original's", "tuned_mixed", None),
            ("with compensation, half the original's", "compensated_mixed", None),
            ("compensated - frozen", "compensated", "frozen"),
            ("compensated - uncompensated", "compensated", "tuned"),
        )
    ]
    for label, values, base in lines:
        sign = "+" if base else ""
        shown = " | ".join(f"{value:{sign}.1f}" for value in values)
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        rows.append(f"| {label} | {shown} | {statistics.mean(values):{sign}.1f} ± {spread:.1f} |")
    return "\n".join(rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the seeds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--variant", choices=("semantic", "panoptic"), default="panoptic")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--train-count", type=int, default=1000)
    parser.add_argument("--test-count", type=int, default=400)
    parser.add_argument("--split", choices=("validation", "test"), default="test")
    parser.add_argument("--json", type=Path, help="read earlier seeds from this file, and write all of them to it")
    options = parser.parse_args(arguments)
    results: dict[str, Any] = json.loads(options.json.read_text()) if options.json and options.json.exists() else {}
    for seed in options.seeds:
        start = time.process_time()
        results[str(seed)] = run_seed(
            seed,
            variant=options.variant,
            steps=options.steps,
            train_count=options.train_count,
            test_count=options.test_count,
            rate=options.rate,
            test_split=options.split,
        )
        print(f"seed {seed}: {results[str(seed)]}, {time.process_time() - start:.0f} s of CPU time", flush=True)
        if options.json:
            options.json.write_text(json.dumps(results, indent=1))
    print(table(results))


if __name__ == "__main__":
    main()
