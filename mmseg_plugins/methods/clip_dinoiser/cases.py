"""How the reference cases of CLIP-DINOiser run: ``model``, ``student_layers`` and ``found_decoder``."""

import tempfile
from pathlib import Path
from typing import Any

import torch
from mmengine.runner.checkpoint import load_checkpoint
from torch import Tensor

from mmseg_plugins.cases import Case
from mmseg_plugins.methods.clip_dinoiser.dino_clip import DinoCLIP
from mmseg_plugins.methods.clip_dinoiser.layers import LearntLayers
from mmseg_plugins.methods.clip_dinoiser.losses import correlation_loss, foreground_loss
from mmseg_plugins.methods.clip_dinoiser.model import CLIPDINOiser
from mmseg_plugins.methods.clip_dinoiser.pooling import class_probabilities, correlate, cut_below, force_background
from mmseg_plugins.methods.clip_dinoiser.segmentor import CorrelationPooling, Guidance
from mmseg_plugins.prediction.label_map import label_map_from_logits
from mmseg_plugins.towers.config import ClipConfig
from mmseg_plugins.towers.dense import DenseOptions
from mmseg_plugins.towers.files import read_tensors, unwrap_state_dict
from mmseg_plugins.towers.found import FoundDecoder

_PENULTIMATE = "block/-2"  # tapped for its stage only
# Prompts of the release with its template ensemble switched off.
_PLAIN_LAION, _PLAIN = ("a photo of a {}", "a photo of an {}"), ("a {}",)


def run(case: Case, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """Return the output stages of a case.

    Raises:
        ValueError: if the kind of case is not known.
    """
    kinds = {"model": _run_model, "student_layers": _run_layers, "found_decoder": _run_found_decoder}
    if case.kind not in kinds:
        raise ValueError(f"{case.path}: no runner for cases of kind {case.kind!r}. Known: {', '.join(kinds)}.")
    with tempfile.TemporaryDirectory() as folder:
        return kinds[case.kind](case, Path(folder), device, dtype)


def _run_layers(case: Case, folder: Path, device: str, dtype: torch.dtype) -> dict[str, Tensor]:
    features = case.tensor("inter_features", device, dtype)
    layers = LearntLayers(features.shape[1], **_layer_options(case))
    layers.load_state_dict(unwrap_state_dict(read_tensors(case.write_file("student", folder))))
    layers.to(device, dtype).eval()
    return {
        "obj_proj_out": layers.obj_proj(features),
        "correlations": correlate(layers.describe(features)),
        "bkg_logits": layers.foreground_logits(features),
    }


def _run_found_decoder(case: Case, folder: Path, device: str, dtype: torch.dtype) -> dict[str, Tensor]:
    keys = case.tensor("keys", device, dtype)
    decoder = FoundDecoder(keys.shape[1])
    decoder.load_published(case.write_file("teacher_found_decoder", folder))
    return {"prob": decoder.to(device, dtype)(keys)}


def _run_model(case: Case, folder: Path, device: str, dtype: torch.dtype) -> dict[str, Tensor]:
    model = CLIPDINOiser(**_model_options(case), **_layer_options(case), feature_block=case.config["feats_idx"])
    model.dense = DenseOptions(taps=(*model.dense.taps, _PENULTIMATE))
    for role in ("clip", "student"):
        load_checkpoint(model, str(case.write_file(role, folder)), logger="silent")
    model.to(device, dtype).eval()
    image = case.tensor("image", device, dtype)
    padded = model.pad(_normalise(model, image))
    features = model.dense_features(padded)
    intermediate = model.intermediate(features)
    correlations = correlate(model.layers.describe(intermediate))
    logits = model.layers.foreground_logits(intermediate)
    text = model.text_embeddings
    stages = {
        "class_embeddings": text.rows,
        "image_padded": model.unit_range(padded),
        "inter_features": intermediate,
        "penultimate_tokens": features.extras[_PENULTIMATE],
        "v_map": features.trunk,
        "dense_features": features.pixels,
        "maskclip_prob": class_probabilities(features.pixels, text.rows.to(dtype), model.softmax_scale),
        "proj_features": model.layers.describe(intermediate),
        "correlations": correlations,
        "correlations_thresholded": cut_below(correlations, model.gamma),
        "bkg_logits": logits,
        "pooled_features": model.pool(features.pixels, model.layers.describe(intermediate)),
    }
    stages |= _results(case, model, _normalise(model, image), padded)
    if case.config.get("teachers"):
        stages |= _teacher_stages(case, folder, model, padded, correlations, logits)
    return stages


def _results(case: Case, model: CLIPDINOiser, image: Tensor, padded: Tensor) -> dict[str, Tensor]:
    """What the model gives for images, without and with the background step."""
    text = model.text_embeddings
    guidance = model.guide(padded, model.dense_features(padded), with_foreground=True)
    model.use_background = False
    plain = model.row_logits(image, text)
    row = text.row_class.tolist().index(0)  # of class 0, whatever it is called
    forced = force_background(plain, guidance.is_foreground, row=row, delta=model.delta)
    if model.vocabulary.background.index == 0:
        model.use_background = True
        forced = model.row_logits(image, text)
    size = tuple(image.shape[2:])
    return {
        "foreground_mask": guidance.is_foreground.to(torch.uint8),
        "prob": plain,
        "prob_with_background": forced,
        "seg_full": torch.stack([label_map_from_logits(single, input_size=size).labels for single in forced]),
    }


def _teacher_stages(
    case: Case, folder: Path, model: CLIPDINOiser, padded: Tensor, correlations: Tensor, logits: Tensor
) -> dict[str, Tensor]:
    upper = DinoCLIP(teacher=_teacher_options(case, folder), **_model_options(case))
    load_checkpoint(upper, str(case.write_file("clip", folder)), logger="silent")
    upper.to(padded).eval()
    upper.use_background = False
    teacher, grid = upper.teacher, tuple(logits.shape[2:])
    teacher.get_ready(padded)
    picture = upper.unit_range(padded)
    targets = teacher.targets(picture, grid)
    unit, features = teacher.descriptors(picture), upper.dense_features(padded)
    return {
        "teacher_dino_values": unit,
        "teacher_correlations": teacher.correlations(picture, grid),
        "teacher_found_prob": teacher.foreground_probability(picture),
        "teacher_found_prob_resized": teacher.foreground_probability(picture, grid),
        "loss_corr": correlation_loss(correlations, targets.belongs_together),
        "loss_bkg": foreground_loss(logits, targets.is_foreground),
        "teacher_pooled": upper.pool(features.pixels, unit),
        "teacher_prob": upper.probabilities(features.pixels, Guidance(unit), model.text_embeddings),
    }


def _model_options(case: Case) -> dict[str, Any]:
    config = case.config
    sizes = ClipConfig.from_open_clip(config["clip"], quick_gelu=config.get("quick_gelu"))
    templates = "imagenet80"
    if not config.get("use_templates", True):
        templates = _PLAIN_LAION if "laion" in config.get("pretrained_tag", "laion") else _PLAIN
    return {
        "clip": {"model": sizes, "norm_eps": config.get("norm_eps")},
        "vocabulary": {"source": list(config["class_names"]), "templates": templates},
        "gamma": config["gamma"],
        "delta": config["delta"],
        "softmax_scale": config.get("softmax_scale", 100),
        "text_cache": False,
    }


def _layer_options(case: Case) -> dict[str, Any]:
    config = case.config
    return {
        "proj_channels": config["in_dim"],
        "kernel_size": config.get("conv_kernel", 3),
        "padding_mode": config.get("padding_mode", "replicate"),
    }


def _teacher_options(case: Case, folder: Path) -> dict[str, Any]:
    sizes = {
        role: {
            "patch": numbers["patch_size"],
            "width": numbers["embed_dim"],
            "layers": numbers["depth"],
            "heads": numbers["num_heads"],
            "image_size": _table_side(case, layout) * numbers["patch_size"],
        }
        for role, layout, numbers in (
            ("dino", "layout_teacher_dino", case.config["teachers"]["dino"]),
            ("found_dino", "layout_teacher_found_vit", case.config["teachers"]["found"]),
        )
    }
    files = {
        "dino_pretrained": "teacher_dino",
        "found_pretrained": "teacher_found_vit",
        "found_decoder": "teacher_found_decoder",
    }
    return sizes | {name: str(case.write_file(role, folder)) for name, role in files.items()}


def _table_side(case: Case, layout: str) -> int:
    return round((case.spec[layout]["pos_embed"][1] - 1) ** 0.5)


def _normalise(model: CorrelationPooling, image: Tensor) -> Tensor:
    """What the data preprocessor makes of RGB in [0, 1]."""
    tower = model.clip.visual
    mean, std = (torch.tensor(value).to(image)[:, None, None] for value in (tower.mean, tower.std))
    return (255 * image - mean) / std
