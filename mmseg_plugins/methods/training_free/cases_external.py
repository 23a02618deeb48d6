"""Runners of the cases with affinities from elsewhere: ProxyCLIP, CorrCLIP, Trident; and of PAMR."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

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
from mmseg_plugins.methods.training_free.guidance import guidance_weights, guide_map, stitch_windows
from mmseg_plugins.prediction.pamr import PAMR, average_neighbours, local_deviation, pamr_affinity, resize_maps
from mmseg_plugins.prediction.windows import Box
from mmseg_plugins.towers.attention import merge_heads
from mmseg_plugins.towers.position import to_map

_TAPS = ("q", "k", "v", "stream", "tokens")


def run_proxyclip(case: Case, device: str, dtype: torch.dtype) -> dict[str, Any]:
    """Attention from DINO's features."""
    config, sizes = case.config, case.config["vfm"]
    vfm = {
        "model": "vit_base_patch8_224.dino",
        "position_resize": "scale_factor",
        "options": {
            "patch_size": sizes["patch_size"],
            "embed_dim": sizes["embed_dim"],
            "depth": sizes["depth"],
            "num_heads": sizes["num_heads"],
            "img_size": sizes["image_size"],
            "norm_layer": partial(nn.LayerNorm, eps=sizes["eps"]),
        },
    }
    model = build_model(
        case,
        "ProxyCLIP",
        device,
        dtype,
        files={"vfm.pretrained": "vfm"},
        vfm=vfm,
        beta=config["beta"],
        gamma=config["gamma"],
        dense={"taps": _TAPS},
        pamr=pamr_settings(case),
    )
    image = image_of(case, model)
    seen, features = model.vfm_features(image), model.dense_features(image)
    logits = model.score(features, text_embeddings(case, device))
    return {
        **last_block(features),
        "vfm_image": model.vfm_image(image),
        "vfm_features": seen,
        "attention": model.attention(seen)[0],
        "v_resized": features.extras["v_resized"][0],
        "features": features.extras["tokens"],
        "logits": enlarge(logits, tuple(image.shape[2:])),
        **harness_stages(case, model),
    }


def run_corrclip(case: Case, device: str, dtype: torch.dtype) -> dict[str, Any]:
    """The region rule: everything behind mask generator and vision model, whose results are inputs."""
    config = case.config
    model = build_model(
        case,
        "CorrCLIP",
        device,
        dtype,
        vfm={"model": "vit_tiny_patch16_224", "options": {"depth": 1}},
        temperature=config["temperature"],
        merge_eps=config["merge_eps"],
        merge_offset=config["merge_offset"],
        spatial_weight=config["alpha"],
        semantic_weight=config["beta"],
        spatial_blocks=config["spatial_blocks"],
        dense={"taps": _TAPS},
    )
    grid = tuple(config["vfm_grid"])
    seen = to_map(case.tensor("vfm_features", device, torch.float32), grid)
    features = model.region_features(image_of(case, model), case.tensor("regions", device)[:, 0], seen)
    extras = features.extras
    return {
        "regions_merged": extras["regions"][0],
        "regions_token": extras["token_regions"][0],
        "attention": extras["region_attention"][0],
        "v_main": merge_heads(extras["v_resized"])[0],
        "v_spatial": merge_heads(extras["v_spatial"])[0],
        "tokens_main": extras["main"][0],
        "tokens_spatial": extras["spatial"][0],
        "tokens_semantic": extras["semantic"][0],
        "features": features.pixels.flatten(2).transpose(1, 2),
    }


def run_trident(case: Case, device: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """Stitching and guidance, whose inputs are those of the networks."""
    config = case.config
    tokens_MnW = case.tensor("window_tokens", device, dtype)
    windows_nWhw = tokens_MnW.permute(1, 2, 0).unflatten(2, tuple(config["vfm_grid"]))
    boxes = [Box(*box) for box in config["window_boxes"]]
    stitched = stitch_windows(windows_nWhw, boxes, tuple(config["token_grid"]), tuple(config["map_size"]))
    values = case.tensor("sam_values", device, dtype)[0]
    grid = (values.shape[1], values.shape[2])
    attention = case.tensor("sam_attention", device, dtype)[0]
    weights, threshold = guidance_weights(
        values.flatten(1, 2), attention, factor=config["cos_fac"], cap=config["threshold_cap"]
    )
    return {
        "stitched": stitched[None],
        "threshold": threshold,
        "attention": weights,
        "tokens_pre": guide_map(stitched, weights, grid),
    }


def run_pamr(case: Case, device: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """Pixel-adaptive refinement; always in float32, each image for itself."""
    settings = PAMR(steps=case.config["steps"], dilations=tuple(case.config["dilations"]))
    images, maps = (case.tensor(name, device, torch.float32) for name in ("image", "maps"))
    stages = [_refine(settings, *pair) for pair in zip(images, maps, strict=True)]
    return {name: torch.stack([single[name] for single in stages]) for name in stages[0]}


def _refine(settings: PAMR, image: Tensor, maps: Tensor) -> dict[str, Tensor]:
    affinity, resized = pamr_affinity(image, settings.dilations), resize_maps(maps, tuple(image.shape[1:]))
    return {
        "maps_resized": resized,
        "std": local_deviation(image, settings.dilations)[:, None],
        "affinity": affinity[None],
        "refined_1": average_neighbours(resized, affinity, settings.dilations),
        "refined": settings.guide(image)(maps),
    }
