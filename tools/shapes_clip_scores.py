"""Scores of the embedded CLIP on generated scenes, by dense naming of every pixel."""

import numpy as np
import torch
import torch.nn.functional as F
from open_clip import OPENAI_IMAGENET_TEMPLATES
from shapes_clip_model import ShapesClip
from torch import Tensor

from mmseg_plugins.datasets.shapesworld import SceneOptions, generate_scene, world
from mmseg_plugins.datasets.shapesworld.scores import control_scores, count_answers, held_out_both, pair_scores

# B images, N names, D joint width, K classes, H W image, h w patch grid

FRESH_SEED = 7_001  # scenes for final scores; no choice is ever made on them
VALIDATION_SEED = 5_001  # scenes watched during training


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
    side = round(patches.shape[1] ** 0.5)
    cosine = torch.einsum("bnd,kd->bkn", F.normalize(patches, dim=-1), text).unflatten(2, (side, side))
    return F.interpolate(cosine, size, mode="bilinear", align_corners=False)


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
        count_answers(tables, np.stack([scene.labels(38) for scene in scenes]), cosine)
    result = {"scores": rounded(pair_scores(tables)), "held_out_both": rounded(held_out_both(tables))}
    if controls:
        result["controls"] = rounded(control_scores(tables))
    return {"scenes": count, "split": split, "seed": seed, "rule": rule, **result}


@torch.no_grad()
def _cosines(model: ShapesClip, images: Tensor, text: dict[str, Tensor], rule: str) -> dict[str, np.ndarray]:
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
    return {name: (value / hits).cpu().numpy() for name, value in total.items()}


def rounded(scores: dict[str, float]) -> dict[str, float]:
    """Round scores to two decimals for the record."""
    return {name: round(value, 2) for name, value in scores.items()}
