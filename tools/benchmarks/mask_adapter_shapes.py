"""What a trained mask adapter is worth on generated scenes: annotated masks named by it and by mask pooling, per seed.

The scenes are crowded (6 to 9 objects of 4 to 9 px radius in 64 px; the embedded CLIP has 8 px patches), since with one
to three large objects pooling names nearly every mask. Every seed has scenes of its own, training masks of the 30 seen
classes only, and new scenes for the scores. Prints the share of masks whose best of 38 classes is right.

    python tools/benchmarks/mask_adapter_shapes.py --work-dir work_dirs/mask_adapter_shapes --seeds 1 2 3

With --base, a checkpoint of fcclip_shapes-vit_1xb16-300_shapesworld-seen-64x64.py, every adapter also goes through the
second phase on its scenes, and masks of the decoder are named too, where they overlap annotated ones by more than half.
"""

import argparse
import json
import logging
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor, nn

import mmseg_plugins.register  # noqa: F401  (registers)
from mmseg_plugins.classify.classifier import MaskClassifier
from mmseg_plugins.classify.features import EncodedImages
from mmseg_plugins.classify.pooling import MaskPoolingClassifier
from mmseg_plugins.datasets.shapesworld import SceneOptions, generate_scene
from mmseg_plugins.datasets.shapesworld.coco import segment_map
from mmseg_plugins.datasets.shapesworld.world import held_out_classes
from mmseg_plugins.masks.targets import SegmentTargets
from mmseg_plugins.towers.files import read_tensors, write_safetensors
from mmseg_plugins.vocabulary.class_logits import class_logits

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs/mask_adapter/mask-adapter_shapes-vit_1xb16-400_shapesworld-64x64.py"
SECOND = ROOT / "configs/mask_adapter/mask-adapter_shapes-vit_1xb16-200-mixed_shapesworld-64x64.py"
CROWDED, USUAL = SceneOptions(objects=(6, 9), radius=(4.0, 9.0)), SceneOptions()
UNSEEN = held_out_classes(38)
SEEN = [index for index in range(38) if index not in UNSEEN]
FIRST_GROUND = 32
CLASSIFIERS = {
    "pool": "mask pooling",
    "pool-features": "pooling at mask resolution",
    "adapter": "Mask-Adapter",
    "mixed": "after the second phase",
}
GROUPS = ("seen", "unseen", "seen objects", "grounds")

logger = logging.getLogger(__name__)

Scenes = list[tuple[Tensor, Tensor, Tensor]]  # image (3, H, W) normalised, masks (n, H, W) bool, labels (n,)


def make_scenes(count: int, *, seed: int, split: str, options: SceneOptions, mean: Tensor, std: Tensor) -> Scenes:
    """Generate scenes with the masks and classes of all their segments."""
    scenes = []
    for index in range(count):
        scene = generate_scene(seed=seed, index=index, split=split, options=options)
        segments, labels = segment_map(scene), scene.labels(38)
        numbers = np.unique(segments)
        image = torch.from_numpy(scene.image.copy()).permute(2, 0, 1).float()
        masks = torch.from_numpy(segments == numbers[:, None, None])
        classes = torch.tensor([int(labels[segments == number][0]) for number in numbers])
        scenes.append(((image - mean) / std, masks, classes))
    return scenes


def build_model(seed: int, config: Path = CONFIG, **changes: Any) -> nn.Module:
    """Build a config's model on the embedded CLIP, with a new adapter."""
    init_default_scope("mmseg")
    torch.manual_seed(seed)
    return MODELS.build({**Config.fromfile(config).model, **changes})


def training_sample(masks: Tensor, labels: Tensor) -> SegDataSample:
    """Keep the segments of seen classes, labels counted among these."""
    place = {label: index for index, label in enumerate(SEEN)}
    seen = torch.tensor([int(label) in place for label in labels])
    kept = torch.tensor([place[int(label)] for label in labels[seen]], dtype=torch.int64)
    sample = SegDataSample()
    sample.gt_instances = InstanceData(labels=kept, masks=masks[seen])
    return sample


def train(
    model: nn.Module,
    scenes: Scenes,
    *,
    steps: int,
    seed: int,
    batch: int = 16,
    lr: float = 3e-3,
    change: Callable[[Tensor], Tensor] | None = None,
) -> None:
    """Train the adapter on annotated masks with the config's optimiser, like its schedule.

    Args:
        model: learns.
        scenes: to draw from.
        steps: optimiser steps.
        seed: of the order and the flips.
        batch: scenes per step.
        lr: highest learning rate.
        change: what is done to the masks of every other scene; None: nothing.
    """
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.05)
    generator = torch.Generator().manual_seed(seed)
    model.train()
    for step in range(steps):
        chosen = [scenes[index] for index in torch.randint(len(scenes), (batch,), generator=generator).tolist()]
        flips = torch.rand(batch, generator=generator) < 0.5
        images = torch.stack([x.flip(-1) if flip else x for (x, _, _), flip in zip(chosen, flips, strict=True)])
        samples = [
            training_sample(masks.flip(-1) if flip else masks, labels)
            for (_, masks, labels), flip in zip(chosen, flips, strict=True)
        ]
        for sample in samples[::2] if change is not None else ():
            sample.gt_instances.masks = change(sample.gt_instances.masks)
        loss = sum(model.loss(images, samples).values())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 49:
            logger.info("step %d: loss %.3f", step + 1, loss.item())
    model.eval()


def second_phase(model: nn.Module, base: Path, scenes: Scenes, *, steps: int, seed: int) -> nn.Module:
    """Go on with a model's adapter in the second phase, with the decoder of a checkpoint; returns the new model."""
    mixed = build_model(seed, SECOND, base_checkpoint=None)
    mixed.load_state_dict(read_tensors(base))
    mixed.mask_classifier.load_state_dict(model.mask_classifier.state_dict())
    train(mixed, scenes, steps=steps, seed=seed, lr=1e-3)
    return mixed


@torch.no_grad()
def score(
    model: nn.Module,
    classifier: MaskClassifier,
    scenes: Scenes,
    change: Callable[[Tensor], Tensor] | None = None,
    *,
    predicted: bool = False,
) -> dict[str, float]:
    """Return the share of rightly named masks in percent, for each group of classes.

    Args:
        model: gives features and text, and predictions.
        classifier: what embeds the masks.
        scenes: with all their segments.
        change: what is done to the masks in front; None: nothing.
        predicted: name in each mask's place the prediction that overlaps it best, if by more than half.
    """
    model.eval()
    text = model.text_embeddings
    right: dict[str, list[bool]] = {group: [] for group in GROUPS}
    for image, masks, labels in scenes:
        encoded = model.encode(image[None])
        logits = (masks if change is None else change(masks)).float() * 40 - 20
        if predicted:
            logits, labels = best_predictions(model, encoded, SegmentTargets(labels, masks))
        embeddings = classifier(encoded.features, logits[None])
        best = class_logits(embeddings, text.rows, text.row_class, text.num_classes)[0].argmax(-1)
        for label, hit in zip(labels.tolist(), (best == labels).tolist(), strict=True):
            kind = "grounds" if label >= FIRST_GROUND else "seen objects"
            for group in ["unseen"] if label in UNSEEN else ["seen", kind]:
                right[group].append(hit)
    return {group: 100 * statistics.mean(hits) if hits else float("nan") for group, hits in right.items()}


def best_predictions(model: nn.Module, encoded: EncodedImages, targets: SegmentTargets) -> tuple[Tensor, Tensor]:
    """Return the (n, h, w) logits of predictions that overlap annotated masks by more than half, and the classes."""
    mask_logits = model.decode(encoded.stages, model.classifier_text(), all_predictions=False)[-1].mask_logits[0]
    overlap, query = model.overlaps(mask_logits, targets).max(0)
    return mask_logits[query[overlap > 0.5]], targets.labels[overlap > 0.5]


def save(model: nn.Module, path: Path) -> None:
    """Write the trained tensors under the model's names, floating ones in half precision."""
    state = {key: value for key, value in model.state_dict().items() if key.startswith("mask_classifier.")}
    tensors = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
    write_safetensors(path, tensors, {"what": "Mask-Adapter on the embedded CLIP, trained on generated scenes"})


def dilate(masks: Tensor) -> Tensor:
    """Grow masks by 2 px."""
    return F.max_pool2d(masks[:, None].float(), 5, stride=1, padding=2)[:, 0] > 0


def run_seed(
    seed: int, *, steps: int, train_count: int, test_count: int, keep: Path | None = None, base: Path | None = None
) -> dict[str, Any]:
    """Train one adapter and score it beside pooling: setting -> classifier -> group -> percent.

    Args:
        seed: of scenes and training.
        steps: optimiser steps.
        train_count: scenes to train on.
        test_count: scenes to score, of each kind.
        keep: where the trained tensors go, in half precision; None: nowhere.
        base: checkpoint with a decoder, for the second phase of half as many steps; None: the first phase alone.
    """
    model = build_model(seed)
    tower = model.clip.visual
    mean, std = (torch.tensor(numbers, dtype=torch.float32)[:, None, None] for numbers in (tower.mean, tower.std))
    options = {"seed": 1000 + seed, "mean": mean, "std": std}
    scenes = make_scenes(train_count, split="train", options=CROWDED, **options)
    train(model, scenes, steps=steps, seed=seed)
    if keep is not None:
        save(model, keep)
    crowded = make_scenes(test_count, split="test", options=CROWDED, **options)
    usual = make_scenes(test_count, split="test", options=USUAL, **options)
    classifiers = {
        "pool": MaskPoolingClassifier(),
        "pool-features": MaskPoolingClassifier(resize="features"),
        "adapter": model.mask_classifier,
    }
    settings = {
        "crowded": (crowded, None, False),
        "crowded, masks grown by 2 px": (crowded, dilate, False),
        "usual": (usual, None, False),
    }
    if base is not None:
        model = second_phase(model, base, scenes, steps=steps // 2, seed=seed)
        classifiers["mixed"] = model.mask_classifier
        settings |= {"crowded, predicted masks": (crowded, None, True), "usual, predicted masks": (usual, None, True)}
    return {
        name: {
            key: score(model, classifier, some, change, predicted=predicted) for key, classifier in classifiers.items()
        }
        for name, (some, change, predicted) in settings.items()
    }


def as_table(results: dict[str, dict[str, Any]]) -> str:
    """Return all seeds' scores as a Markdown table, with the adapter's lead over mask pooling and its spread."""
    seeds = sorted(results, key=int)
    lines = ["| scenes | classes | named by | " + " | ".join(f"seed {seed}" for seed in seeds) + " | mean |"]
    lines.append("|---" * (len(seeds) + 4) + "|")
    for setting in results[seeds[0]]:
        for group in GROUPS:
            known = [key for key in CLASSIFIERS if key in results[seeds[0]][setting]]
            rows = {key: [results[seed][setting][key][group] for seed in seeds] for key in known}
            for key, values in rows.items():
                lines.append(_row(setting, group, CLASSIFIERS[key], values, ""))
            for key in sorted(rows.keys() & {"adapter", "mixed"}):
                lead = [a - b for a, b in zip(rows[key], rows["pool"], strict=True)]
                lines.append(_row(setting, group, f"{CLASSIFIERS[key]} - mask pooling", lead, "+"))
    return "\n".join(lines)


def _row(setting: str, group: str, name: str, values: Sequence[float], sign: str) -> str:
    shown = " | ".join(f"{value:{sign}.1f}" for value in values)
    return f"| {setting} | {group} | {name} | {shown} | {statistics.mean(values):{sign}.1f} |"


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", type=Path, required=True, help="where scores go, one file per seed")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=400, help="of 16 scenes (default: %(default)s)")
    parser.add_argument("--train-scenes", type=int, default=400)
    parser.add_argument("--test-scenes", type=int, default=150)
    parser.add_argument("--base", type=Path, help="checkpoint with a decoder: score the second phase too")
    return parser.parse_args()


def main() -> None:
    """Score what is missing, keep every seed's scores in a file, and print the table."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    args = parse_args()
    args.work_dir.mkdir(parents=True, exist_ok=True)
    for seed in args.seeds:
        path = args.work_dir / f"seed_{seed}.json"
        if not path.exists():
            counts = {"train_count": args.train_scenes, "test_count": args.test_scenes, "base": args.base}
            result = run_seed(seed, steps=args.steps, keep=args.work_dir / f"adapter_{seed}.safetensors", **counts)
            path.write_text(json.dumps(result, indent=1), encoding="utf-8")
    found = {path.stem.split("_")[1]: json.loads(path.read_text("utf-8")) for path in args.work_dir.glob("seed_*.json")}
    print(as_table(found))


if __name__ == "__main__":
    main()
