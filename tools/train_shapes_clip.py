"""Train the embedded ShapesWorld CLIP, or score it on fresh scenes.

The recipe counts steps, not seconds: seed, steps and thread count decide the weights (up to the rounding of the
machine's matrix products). An interrupted run goes on from its last checkpoint with ``--resume``.
"""

import argparse
import dataclasses
import json
import logging
import os
import platform
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD, OPENAI_IMAGENET_TEMPLATES
from open_clip.model import CLIP
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mmseg_plugins.datasets.shapesworld import GENERATOR_VERSION, SceneOptions, generate_scene, world
from mmseg_plugins.datasets.shapesworld.captions import NOUNS, SceneWords, full_caption, single_caption
from mmseg_plugins.datasets.shapesworld.scores import confusion_table, control_scores, held_out_both, pair_scores

# B images or captions, N patches or names, D joint width, L tokens, K classes, H W image, h w patch grid
EXAMPLES = """examples:
  python tools/train_shapes_clip.py --out mmseg_plugins/assets/shapes_clip.safetensors
  python tools/train_shapes_clip.py --pairs all --out mmseg_plugins/assets/shapes_clip_all.safetensors
  python tools/train_shapes_clip.py --evaluate mmseg_plugins/assets/shapes_clip.safetensors"""

CONFIG = {
    "embed_dim": 96,
    "vision_cfg": {
        "image_size": 64,
        "layers": 4,
        "width": 96,
        "head_width": 32,
        "patch_size": 8,
        "pool_type": "avg",
    },
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 96, "heads": 3, "layers": 2},
}
FULL_VOCABULARY = 49408
CLOSE_UP = SceneOptions(size=(32, 32), objects=(1, 1), radius=(9.0, 14.0), grounds=2)
FRESH_SEED = 7_001  # scenes for final scores; no choice is ever made on them
VALIDATION_SEED = 5_001  # scenes watched during training
SOFT_POOLING = 10.0
log = logging.getLogger("train_shapes_clip")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """Every number that decides the weights."""

    seed: int = 0
    pairs: str = "seen"
    close_up_steps: int = 1500
    scene_steps: int = 3000
    close_up_scenes: int = 12_000
    scenes: int = 30_000
    batch: int = 64
    lr: float = 2e-3
    weight_decay: float = 0.05
    warm_up: int = 80
    close_up_lr_share: float = 1.0

    @property
    def steps(self) -> int:
        """Steps of both phases."""
        return self.close_up_steps + self.scene_steps


# ---- words -----------------------------------------------------------------------------------------------------------


class Words:
    """CLIP's tokeniser cut down to the tokens that captions can hold, numbered anew in rising order of their ids."""

    def __init__(self) -> None:
        self.tokenizer = SimpleTokenizer()
        self.start, self.end = self.tokenizer.sot_token_id, self.tokenizer.eot_token_id
        names = (*world.COLOURS, *world.TEXTURES, *world.GROUNDS, *NOUNS, "something", "and", ",", "a", "an", "the")
        texts = [template("thing") for template in OPENAI_IMAGENET_TEMPLATES] + list(names)
        # 0 pads; it needs a row although no caption's features depend on it.
        ids = {0, self.start, self.end, *(token for text in texts for token in self.tokenizer.encode(text))}
        self.ids = sorted(ids)
        self.row = {token: row for row, token in enumerate(self.ids)}

    def encode(self, captions: list[str]) -> Tensor:
        """Return (B, L) row numbers, cut to the longest caption."""
        rows = [[self.start, *self.tokenizer.encode(caption), self.end] for caption in captions]
        tokens = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
        for index, row in enumerate(rows):
            tokens[index, : len(row)] = torch.tensor([self.row[token] for token in row])
        return tokens


# ---- model -----------------------------------------------------------------------------------------------------------


class ShapesClip(nn.Module):
    """open_clip's CLIP with only the known token rows, and the patch features that its objective needs."""

    def __init__(self, config: dict, words: Words) -> None:
        super().__init__()
        text = {**config["text_cfg"], "vocab_size": len(words.ids)}
        self.clip = CLIP(config["embed_dim"], vision_cfg=config["vision_cfg"], text_cfg=text)
        with torch.no_grad():
            self.clip.logit_scale.fill_(float(np.log(10.0)))
        self.words = words
        self.register_buffer("mean", torch.tensor(OPENAI_DATASET_MEAN).view(3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(OPENAI_DATASET_STD).view(3, 1, 1) * 255, persistent=False)

    def _tokens(self, images: Tensor, corners: Tensor | None) -> Tensor:
        visual = self.clip.visual
        tokens = visual.conv1((images.float() - self.mean) / self.std)
        grid = tokens.shape[-1]
        table = visual.positional_embedding
        if corners is None:
            places = table[1:][None]
        else:
            # A window of the position grid for each close-up.
            side = int(round((len(table) - 1) ** 0.5))
            steps = torch.arange(grid, device=images.device)
            rows, columns = corners[:, 0, None] + steps, corners[:, 1, None] + steps
            places = table[1:][(rows[:, :, None] * side + columns[:, None]).flatten(1)]
        tokens = tokens.flatten(2).transpose(1, 2) + places
        first = (visual.class_embedding + table[0]).expand(len(images), 1, -1)
        return visual.ln_pre(torch.cat([first, tokens], dim=1))

    def patches(self, images: Tensor, corners: Tensor | None = None) -> Tensor:
        """Return patch embeddings (B, N, D) of uint8 images (B, 3, H, W); ``corners`` (B, 2) for close-ups."""
        visual = self.clip.visual
        tokens = visual.transformer(self._tokens(images, corners))
        return visual.ln_post(tokens[:, 1:]) @ visual.proj

    def value_patches(self, images: Tensor) -> Tensor:
        """Return patch embeddings (B, N, D) with the last block's attention replaced by its values (MaskCLIP)."""
        visual = self.clip.visual
        tokens = self._tokens(images, None)
        *blocks, last = visual.transformer.resblocks
        for block in blocks:
            tokens = block(tokens)
        width = tokens.shape[-1]
        attention = last.attn
        value = F.linear(last.ln_1(tokens), attention.in_proj_weight[2 * width :], attention.in_proj_bias[2 * width :])
        tokens = tokens + attention.out_proj(value)
        tokens = tokens + last.mlp(last.ln_2(tokens))
        return visual.ln_post(tokens[:, 1:]) @ visual.proj

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Return unit text embeddings (B, D) of row numbers (B, L)."""
        clip, length = self.clip, tokens.shape[1]
        hidden = clip.token_embedding(tokens) + clip.positional_embedding[:length]
        hidden = clip.transformer(hidden, attn_mask=clip.attn_mask[:length, :length])
        # The end token has the highest row number.
        ends = clip.ln_final(hidden)[torch.arange(len(tokens)), tokens.argmax(dim=-1)]
        return F.normalize(ends @ clip.text_projection, dim=-1)

    def loss(self, images: Tensor, full: Tensor, single: Tensor, corners: Tensor | None = None) -> Tensor:
        """Return the mean symmetric InfoNCE of a full caption and of each of the single captions per image.

        Args:
            images: (B, 3, H, W) uint8.
            full: (B, L) row numbers.
            single: (S * B, L) row numbers, all images' first captions, then all second ones.
            corners: see ``patches``.
        """
        patches = self.patches(images, corners)
        scale = self.clip.logit_scale.exp()
        logits = [F.normalize(patches.mean(dim=1), dim=-1) @ self.encode_text(full).T]
        unit = F.normalize(patches, dim=-1)
        for text in self.encode_text(single).split(len(images)):
            cosine = torch.einsum("bnd,td->btn", unit, text)
            logits.append((F.softmax(SOFT_POOLING * cosine, dim=-1) * cosine).sum(dim=-1))
        own = torch.arange(len(images), device=images.device)
        losses = [F.cross_entropy(scale * part, own) + F.cross_entropy(scale * part.T, own) for part in logits]
        return torch.stack(losses).mean() / 2


# ---- data ------------------------------------------------------------------------------------------------------------


class ScenePool:
    """Scenes made once and kept in memory, with what can be said about each."""

    def __init__(self, seed: int, count: int, options: SceneOptions) -> None:
        self.images = np.empty((count, 3, *options.size), dtype=np.uint8)
        self.words: list[SceneWords] = []
        for index in range(count):
            scene = generate_scene(seed, index, options=options)
            self.images[index] = scene.image.transpose(2, 0, 1)
            self.words.append(SceneWords.of(scene))

    def batch(self, rng: np.random.Generator, size: int, words: Words) -> tuple[Tensor, Tensor, Tensor]:
        """Draw images (B, 3, H, W) uint8, flipped at random, with full and single captions as row numbers."""
        chosen = rng.integers(0, len(self.images), size)
        images = torch.from_numpy(self.images[chosen])
        for axis in (2, 3):
            flip = torch.from_numpy(rng.random(size) < 0.5)
            images[flip] = images[flip].flip(axis)
        said = [self.words[index] for index in chosen]
        full = [full_caption(rng, item, OPENAI_IMAGENET_TEMPLATES) for item in said]
        single = [single_caption(rng, item, OPENAI_IMAGENET_TEMPLATES) for _ in range(2) for item in said]
        return images, words.encode(full), words.encode(single)


# ---- training --------------------------------------------------------------------------------------------------------


def learning_rate(recipe: Recipe, step: int) -> float:
    """Warm up linearly, then fall along a cosine over both phases."""
    progress = min(1.0, max(0.0, (step - recipe.warm_up) / max(1, recipe.steps - recipe.warm_up)))
    return recipe.lr * min(1.0, (step + 1) / recipe.warm_up) * 0.5 * (1 + float(np.cos(np.pi * progress)))


def make_optimizer(model: ShapesClip, recipe: Recipe) -> torch.optim.Optimizer:
    """Build AdamW with weight decay on matrices only."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.98), fused=True)


class Trainer:
    """Holds a run: model, optimiser, step, and the record that ends up beside the weights."""

    def __init__(self, recipe: Recipe, work_dir: Path, device: str) -> None:
        self.recipe, self.work_dir, self.device = recipe, work_dir, device
        torch.manual_seed(recipe.seed)
        self.words = Words()
        self.model = ShapesClip(CONFIG, self.words).to(device)
        self.optimizer = make_optimizer(self.model, recipe)
        self.step, self.seconds, self.history = 0, 0.0, []

    @property
    def checkpoint(self) -> Path:
        """Where the run can be resumed from."""
        return self.work_dir / "last.pt"

    def save(self) -> None:
        """Write the checkpoint, whole or not at all."""
        state = {
            "recipe": dataclasses.asdict(self.recipe),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "history": self.history,
        }
        temporary = self.checkpoint.with_suffix(".tmp")
        torch.save(state, temporary)
        os.replace(temporary, self.checkpoint)

    def resume(self) -> None:
        """Go on from the checkpoint; the recipe must be the same."""
        state = torch.load(self.checkpoint, weights_only=True, map_location=self.device)
        if state["recipe"] != dataclasses.asdict(self.recipe):
            raise ValueError(
                f"{self.checkpoint} was made with {state['recipe']}, not {self.recipe}. Use another --work-dir."
            )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds, self.history = state["step"], state["seconds"], state["history"]
        log.info("resumed at step %d", self.step)

    def run(self, *, validate_every: int, save_every: int, out: Path) -> None:
        """Train to the end of the recipe."""
        recipe, started = self.recipe, time.perf_counter() - self.seconds
        pool, is_close = None, None
        while self.step < recipe.steps:
            if is_close != (self.step < recipe.close_up_steps):
                is_close = self.step < recipe.close_up_steps
                pool = self._make_pool(is_close)
            loss = self._train_step(pool, is_close)
            self.step += 1
            self.seconds = time.perf_counter() - started
            if self.step % 50 == 0:
                log.info("step %5d  loss %.4f  %.0f s", self.step, loss, self.seconds)
            if self.step % validate_every == 0:
                scores = evaluate(self.model, VALIDATION_SEED, 100, "validation")["scores"]
                self.history.append({"step": self.step, "seconds": round(self.seconds), **_rounded(scores)})
                log.info("validation %s", self.history[-1])
            if self.step % save_every == 0:
                self.save()
                write_asset(self, out, final=False)
        self.save()

    def _make_pool(self, is_close: bool) -> ScenePool:
        recipe = self.recipe
        options = CLOSE_UP if is_close else SceneOptions()
        options = dataclasses.replace(options, pairs=recipe.pairs)
        count = recipe.close_up_scenes if is_close else recipe.scenes
        log.info("making %d scenes of %d px", count, options.size[0])
        return ScenePool(2 * recipe.seed + is_close, count, options)

    def _train_step(self, pool: ScenePool, is_close: bool) -> float:
        recipe = self.recipe
        # A generator per step makes a resumed run continue with the same batches.
        rng = np.random.Generator(np.random.PCG64([recipe.seed, 11, self.step]))
        batch = [part.to(self.device) for part in pool.batch(rng, recipe.batch, self.words)]
        corners = torch.from_numpy(rng.integers(0, 5, (recipe.batch, 2))).to(self.device) if is_close else None
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(recipe, self.step)
        self.model.train()
        loss = self.model.loss(*batch, corners=corners)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return float(loss.detach())


# ---- the asset -------------------------------------------------------------------------------------------------------


def _rounded(scores: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 2) for name, value in scores.items()}


def asset_tensors(model: ShapesClip) -> dict[str, Tensor]:
    """Return the weights in open_clip's layout and half precision, the token table cut to its known rows."""
    tensors = {
        name: value.detach().to("cpu", torch.float16).contiguous() for name, value in model.clip.state_dict().items()
    }
    tensors["token_embedding.rows"] = tensors.pop("token_embedding.weight")
    tensors["token_embedding.ids"] = torch.tensor(model.words.ids, dtype=torch.int64)
    return tensors


def load_asset(path: Path) -> ShapesClip:
    """Build the model of an asset file."""
    record = json.loads(path.with_suffix(".json").read_text())
    model = ShapesClip(record["config"], Words())
    tensors = load_file(path)
    if tensors.pop("token_embedding.ids").tolist() != model.words.ids:
        raise ValueError(f"{path} knows other tokens than this script's captions; train it again.")
    tensors["token_embedding.weight"] = tensors.pop("token_embedding.rows")
    model.clip.load_state_dict({name: value.float() for name, value in tensors.items()})
    return model.eval()


def write_asset(trainer: Trainer, path: Path, *, final: bool) -> None:
    """Write weights and record, each whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    save_file(asset_tensors(trainer.model), temporary, metadata={"format": "pt"})
    os.replace(temporary, path)
    record = make_record(trainer)
    if final:
        model, fresh = load_asset_with(path, record), {}
        for size, count in ((64, 300), (96, 150)):
            fresh[f"{size} px"] = evaluate(model, FRESH_SEED, count, "test", size=size)
        record["fresh_scenes"] = fresh
    _write_json(path.with_suffix(".json"), record)


def load_asset_with(path: Path, record: dict) -> ShapesClip:
    """Write the record beside the weights, then load both as a user would."""
    _write_json(path.with_suffix(".json"), record)
    return load_asset(path)


def _write_json(path: Path, content: dict) -> None:
    temporary = path.with_suffix(".json.tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(temporary, path)


def make_record(trainer: Trainer) -> dict:
    """Describe how the weights were made."""
    recipe = trainer.recipe
    device = torch.cuda.get_device_name() if trainer.device.startswith("cuda") else f"CPU {platform.machine()}"
    return {
        "config": CONFIG,
        "image_mean": [255 * value for value in OPENAI_DATASET_MEAN],
        "image_std": [255 * value for value in OPENAI_DATASET_STD],
        "tokenizer": "open_clip SimpleTokenizer",
        "known_token_ids": trainer.words.ids,
        "training": {
            "generator_version": GENERATOR_VERSION,
            "scene_options": dataclasses.asdict(dataclasses.replace(SceneOptions(), pairs=recipe.pairs)),
            "close_up_options": dataclasses.asdict(dataclasses.replace(CLOSE_UP, pairs=recipe.pairs)),
            "recipe": dataclasses.asdict(recipe),
            "held_out_pairs": _pair_names() if recipe.pairs == "seen" else [],
            "device": device,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "steps": trainer.step,
            "images": trainer.step * recipe.batch,
            "seconds": round(trainer.seconds),
            "choices_on_validation_scenes": "none: recipe fixed beforehand, last step taken",
            "validation_history": trainer.history,
        },
    }


def _pair_names() -> list[str]:
    return [f"{world.COLOURS[colour]} {world.TEXTURES[texture]}" for colour, texture in world.HELD_OUT_PAIRS]


# ---- scores ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def embed_names(model: ShapesClip, names: tuple[str, ...] | list[str]) -> Tensor:
    """Return unit text embeddings (N, D): the mean over the 80 ImageNet templates."""
    device = model.mean.device
    rows = []
    for name in names:
        tokens = model.words.encode([template(name) for template in OPENAI_IMAGENET_TEMPLATES])
        rows.append(model.encode_text(tokens.to(device)).mean(dim=0))
    return F.normalize(torch.stack(rows), dim=-1)


@torch.no_grad()
def name_pixels(patches: Tensor, text: Tensor, size: tuple[int, int]) -> Tensor:
    """Return cosines (B, N, H, W), bilinearly enlarged, of patch embeddings (B, h*w, D) with names (N, D)."""
    side = int(round(patches.shape[1] ** 0.5))
    cosine = torch.einsum("bnd,kd->bkn", F.normalize(patches, dim=-1), text).unflatten(2, (side, side))
    return F.interpolate(cosine, size, mode="bilinear", align_corners=False)


def _add_tables(tables: dict[str, np.ndarray], labels: np.ndarray, cosine: dict[str, Tensor]) -> None:
    def count(name: str, truth: np.ndarray, predicted: Tensor, classes: int) -> None:
        table = confusion_table(truth, predicted.cpu().numpy(), classes)
        tables[name] = tables.get(name, 0) + table

    objects = np.where(labels < 32, labels, world.NO_LABEL)
    count("38", labels, cosine["38"].argmax(1), 38)
    for granularity in (14, 10):
        name = str(granularity)
        count(name, world.coarsen(labels, granularity), cosine[name].argmax(1), granularity)
    allowed = [*world.held_out_classes(38), *range(32, 38)]
    best = torch.tensor(allowed, device=cosine["38"].device)[cosine["38"][:, allowed].argmax(1)]
    count("unseen14", np.where(np.isin(labels, allowed), labels, world.NO_LABEL), best, 38)
    count("objects", objects, cosine["38"][:, :32].argmax(1), 32)
    count("separate", objects, cosine["14"][:, :8].argmax(1) * 4 + cosine["10"][:, :4].argmax(1), 32)


def evaluate(
    model: ShapesClip, seed: int, count: int, split: str, *, size: int = 64, rule: str = "value", controls: bool = True
) -> dict:
    """Score the model on generated scenes with all 32 pairs.

    Args:
        model: trained or not.
        seed: of the scenes.
        count: of the scenes.
        split: of the scenes.
        size: side of the scenes in pixels; larger ones than 64 are cut into overlapping 64 px windows.
        rule: "value" (MaskCLIP) or "qk" (the block as trained).
        controls: also compute what guessers reach.

    Returns:
        ``scores`` (percent), ``held_out_both`` and, if asked for, ``controls``.
    """
    model.eval()
    text = {str(granularity): embed_names(model, world.class_names(granularity)) for granularity in (38, 14, 10)}
    options, tables = SceneOptions(size=(size, size)), {}
    for first in range(0, count, 50):
        scenes = [generate_scene(seed, i, split=split, options=options) for i in range(first, min(first + 50, count))]
        images = torch.from_numpy(np.stack([scene.image for scene in scenes]).transpose(0, 3, 1, 2).copy())
        cosine = _cosines(model, images.to(model.mean.device), text, rule)
        _add_tables(tables, np.stack([scene.labels(38) for scene in scenes]), cosine)
    result = {"scores": _rounded(pair_scores(tables)), "held_out_both": _rounded(held_out_both(tables))}
    if controls:
        result["controls"] = _rounded(control_scores(tables))
    return {"scenes": count, "split": split, "seed": seed, "rule": rule, **result}


@torch.no_grad()
def _cosines(model: ShapesClip, images: Tensor, text: dict[str, Tensor], rule: str) -> dict[str, Tensor]:
    """Cosines per label set, averaged over 64 px windows that overlap by half."""
    side, total = images.shape[-1], {}
    starts = sorted({*range(0, side - 63, 32), side - 64})
    hits = torch.zeros(side, side, device=images.device)
    for top in starts:
        for left in starts:
            window = images[:, :, top : top + 64, left : left + 64]
            patches = model.value_patches(window) if rule == "value" else model.patches(window)
            hits[top : top + 64, left : left + 64] += 1
            for name, rows in text.items():
                part = name_pixels(patches, rows, (64, 64))
                full = total.setdefault(name, part.new_zeros(len(images), len(rows), side, side))
                full[:, :, top : top + 64, left : left + 64] += part
    return {name: value / hits for name, value in total.items()}


# ---- command line ----------------------------------------------------------------------------------------------------


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = Recipe()
    parser.add_argument("--out", type=Path, default=Path("work_dirs/shapes_clip/shapes_clip.safetensors"))
    parser.add_argument("--work-dir", type=Path, default=Path("work_dirs/shapes_clip"), help="for the checkpoint")
    parser.add_argument("--pairs", choices=["seen", "all"], default=default.pairs, help="pairs that training shows")
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--close-up-steps", type=int, default=default.close_up_steps)
    parser.add_argument("--steps", type=int, default=default.scene_steps, help="steps on whole scenes")
    parser.add_argument("--scenes", type=int, default=default.scenes, help="distinct training scenes")
    parser.add_argument("--batch", type=int, default=default.batch)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: %(default)s)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--validate-every", type=int, default=500, metavar="STEPS")
    parser.add_argument("--save-every", type=int, default=250, metavar="STEPS")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in the work directory")
    parser.add_argument("--evaluate", type=Path, metavar="ASSET", help="only score this asset on fresh scenes")
    parser.add_argument("--count", type=int, default=300, help="scenes to score (default: %(default)s)")
    return parser.parse_args()


def main() -> int:
    """Train, or score."""
    options = parse_options()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    torch.set_num_threads(options.threads)
    if options.evaluate:
        model = load_asset(options.evaluate)
        report = {rule: evaluate(model, FRESH_SEED, options.count, "test", rule=rule) for rule in ("value", "qk")}
        torch.manual_seed(0)
        untrained = ShapesClip(CONFIG, Words()).eval()
        report["untrained"] = evaluate(untrained, FRESH_SEED, options.count, "test", controls=False)
        sys.stdout.write(json.dumps(report, indent=1) + "\n")
        return 0
    recipe = Recipe(
        seed=options.seed,
        pairs=options.pairs,
        close_up_steps=options.close_up_steps,
        scene_steps=options.steps,
        scenes=options.scenes,
        batch=options.batch,
    )
    options.work_dir.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(recipe, options.work_dir, options.device)
    if options.resume and trainer.checkpoint.is_file():
        trainer.resume()
    trainer.run(validate_every=options.validate_every, save_every=options.save_every, out=options.out)
    write_asset(trainer, options.out, final=True)
    log.info("wrote %s after %.0f s", options.out, trainer.seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
