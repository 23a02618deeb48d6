"""Runners of the cases that change nothing but attention: SCLIP, ClearCLIP, NACLIP, GEM, CLIP Surgery, ResCLIP."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmseg_plugins.cases import Case
from mmseg_plugins.methods.training_free.cases_model import (
    build_model,
    enlarge,
    harness_stages,
    image_of,
    last_block,
    pamr_settings,
    text_embeddings,
)
from mmseg_plugins.methods.training_free.model import TrainingFree
from mmseg_plugins.methods.training_free.resclip import ResCLIP
from mmseg_plugins.methods.training_free.surgery import feature_surgery, redundant_surgery, scale_maps
from mmseg_plugins.towers.attention import gaussian_neighbourhood, rule_weights
from mmseg_plugins.towers.dense import DenseFeatures
from mmseg_plugins.towers.position import to_map

_TAPS = ("q", "k", "v", "attention", "stream", "tokens")
_CLEARCLIP_RULES = {"vanilla": "qk", "maskclip": "value", "sclip": "qq+kk", "clearclip": "qq"}
_NACLIP_RULES = {"naclip": "kk", "nonly": "neighbourhood", "kk": "kk", "vanilla": "qk", "csa": "qq+kk"}
_RESCLIP_PRESETS = {"resclip": "naclip", "clearclip": "clearclip", "sclip": "sclip", "vanilla": "clip"}


def _logits(case: Case, model: TrainingFree, features: DenseFeatures) -> Tensor:
    text = text_embeddings(case, str(features.pixels.device))
    return enlarge(model.score(features, text), tuple(case.arrays["image"].shape[2:]))


def run_sclip(case: Case, device: str, dtype: torch.dtype) -> dict[str, Any]:
    """Sum of two self-attentions, residual and MLP kept."""
    model = build_model(
        case, "TrainingFree", device, dtype, method="sclip", dense={"taps": _TAPS}, pamr=pamr_settings(case)
    )
    features = model.dense_features(image_of(case, model))
    return {
        **last_block(features),
        "attention": features.extras["attention"][0],
        "features": features.extras["tokens"],
        "logits": _logits(case, model, features),
        **harness_stages(case, model),
    }


def run_clearclip(case: Case, device: str, dtype: torch.dtype) -> dict[str, Any]:
    """Four rules, each with and without residual and MLP; windows padded to whole patches."""
    config, is_kept = case.config, not case.config["ignore_residual"]
    stages: dict[str, Any] = {}
    for name, rule in _CLEARCLIP_RULES.items():
        dense = {"rule": rule, "residual": is_kept, "mlp": is_kept, "taps": _TAPS}
        model = build_model(
            case, "TrainingFree", device, dtype, method="clearclip", dense=dense, pamr=pamr_settings(case)
        )
        features = model.dense_features(image_of(case, model))
        stages[f"features_{name}"] = features.extras["tokens"][:, 1:]
        if name == config["model_type"].lower():
            stages |= last_block(features)
            stages["attention"] = features.extras["attention"][0]
            stages["logits"] = _logits(case, model, features)
            stages |= harness_stages(case, model)
    return stages


def run_naclip(case: Case, device: str, dtype: torch.dtype) -> dict[str, Any]:
    """Five strategies in two architectures."""
    config, is_kept = case.config, case.config["arch"] == "vanilla"
    stages: dict[str, Any] = {}
    for name, rule in _NACLIP_RULES.items():
        std = config["gaussian_std"] if name in ("naclip", "nonly") else None
        dense = {"rule": rule, "gaussian_std": std, "residual": is_kept, "mlp": is_kept, "taps": _TAPS}
        model = build_model(case, "TrainingFree", device, dtype, method="naclip", dense=dense, pamr=pamr_settings(case))
        features = model.dense_features(image_of(case, model))
        stages[f"attention_{name}"] = features.extras["attention"][0]
        if name == config["attn_strategy"]:
            stages |= last_block(features)
            stages["gaussian"] = gaussian_neighbourhood(features.grid, config["gaussian_std"])
            stages["features"] = features.extras["tokens"]
            stages["logits"] = _logits(case, model, features)
            stages |= harness_stages(case, model, divide_by_sum=True)
    return stages


def run_gem(case: Case, device: str, dtype: torch.dtype) -> dict[str, Any]:
    """Self-self attention beside the ordinary stream."""
    config = case.config
    temperature = "norm" if config["ss_attn_temp"] is None else float(config["ss_attn_temp"])
    dense = {
        "first_block": -min(config["depth"] - 1, config["clip"]["vision_layers"]),
        "iterations": config["ss_attn_iter"],
        "temperature": temperature,
        "taps": (*_TAPS, "tokens_ordinary", "temperature"),
    }
    model = build_model(case, "TrainingFree", device, dtype, method="gem", dense=dense)
    features = model.dense_features(image_of(case, model))
    extras = features.extras
    logits = _logits(case, model, features)
    text = text_embeddings(case, device)
    ordinary = F.normalize(extras["tokens_ordinary"][:, 1:].float(), dim=-1) @ text.rows.T
    stages = {
        **last_block(features),
        "inverse_temperature": extras["temperature"][0],
        "features": extras["tokens"],
        "features_ordinary": extras["tokens_ordinary"],
        "logits": logits,
        "logits_ordinary": enlarge(to_map(ordinary, features.grid), tuple(logits.shape[2:])),
        "heatmap": scale_maps(logits, (2, 3)),
    }
    for name in "vkq":
        weights = rule_weights(
            2 * name,
            extras["q"],
            extras["k"],
            extras["v"],
            temperature=extras["temperature"],
            unit_rows=True,
            iterations=config["ss_attn_iter"],
        )
        stages[f"attention_{name}"] = weights[0]
    return stages


def run_clip_surgery(case: Case, device: str, dtype: torch.dtype) -> dict[str, Any]:
    """Value-value attention beside the ordinary stream, and feature surgery."""
    config = case.config
    dense = {"first_block": -config["surgery_blocks"], "taps": (*_TAPS, "attention/-1")}
    model = build_model(
        case,
        "TrainingFree",
        device,
        dtype,
        method="clip_surgery",
        dense=dense,
        surgery_temperature=config["temperature"],
    )
    features, text = model.dense_features(image_of(case, model)), text_embeddings(case, device)
    redundant = case.tensor("redundant_row", device, torch.float32)
    unit = F.normalize(features.extras["tokens"].float(), dim=-1)
    stages = {
        **last_block(features),
        "attention": features.extras["attention"][0],
        "attention_ordinary": features.extras["attention/-1"][0],
        "features": features.extras["tokens"],
        "cosine": unit @ text.rows.T,
        "surgery": feature_surgery(unit, unit[:, 0], text.rows, config["temperature"]),
        "surgery_redundant": redundant_surgery(unit, text.rows, redundant),
        "similarity_map": _similarity_map(case, model, features),
    }
    model.surgery, model.fixed_redundant = "empty_text", redundant
    return {**stages, "similarity_map_redundant": _similarity_map(case, model, features)}


def _similarity_map(case: Case, model: TrainingFree, features: DenseFeatures) -> Tensor:
    scores = model.score(features, text_embeddings(case, str(features.pixels.device)))
    return enlarge(scores, tuple(case.config["output_size"])).permute(0, 2, 3, 1)


def run_resclip(case: Case, device: str, dtype: torch.dtype) -> dict[str, Any]:
    """Residual attention and feedback of the first answer, together and each alone."""
    model = _build_resclip(case, device, dtype)
    image, text = image_of(case, model), text_embeddings(case, device)
    first = model.first_pass(image)
    probabilities = model.first_probabilities(first, image, text)
    labels = model.first_labels(probabilities)
    attention = model.label_attention(labels)
    features = model.second_pass(first, attention)
    return {
        **last_block(features),
        "ordinary_attention": first.mean_attention[0],
        "attention_rcs": first.features.extras["attention"][0],
        "features_rcs": first.features.extras["tokens"],
        "first_prob": probabilities,
        "patch_labels": labels[0],
        "label_attention": attention,
        "attention": features.extras["attention"][0],
        "features": features.extras["tokens"],
        "features_sfr": _feedback_alone(case, device, dtype),
        "logits": _logits(case, model, features),
        **harness_stages(case, model, divide_by_sum=True),
    }


def _feedback_alone(case: Case, device: str, dtype: torch.dtype) -> Tensor:
    model = _build_resclip(case, device, dtype, residual=False)
    image = image_of(case, model)
    first = model.first_pass(image)
    labels = model.first_labels(model.first_probabilities(first, image, text_embeddings(case, device)))
    return model.second_pass(first, model.label_attention(labels)).extras["tokens"]


def _build_resclip(case: Case, device: str, dtype: torch.dtype, **changes: Any) -> ResCLIP:
    config, is_kept = case.config, case.config["arch"] == "w_resi"
    dense = {"residual": is_kept, "mlp": is_kept, "taps": _TAPS}
    if config["attn_strategy"] == "resclip":
        dense["gaussian_std"] = config["gaussian_std"]
    residual = {
        "temperature": config["attn_rcs_weights"][0],
        "share": config["attn_rcs_weights"][1],
        "blocks": [block - 1 for block in config["rcs_blocks"]],
    }
    feedback = {
        "temperature": config["attn_sfr_weights"][0],
        "share": config["attn_sfr_weights"][1],
        "threshold": config["temp_thd"],
        "gaussian_std": config["gaussian_std"],
        "delete_same_entity": config["delete_same_entity"],
        "pamr": {"steps": config["feedback_pamr_steps"], "dilations": config["feedback_pamr_dilations"]},
    }
    method = _RESCLIP_PRESETS[config["attn_strategy"]]
    options = {
        "method": method,
        "dense": dense,
        "residual": residual,
        "feedback": feedback,
        "pamr": pamr_settings(case),
    }
    return build_model(case, "ResCLIP", device, dtype, **{**options, **changes})
