"""How the reference cases of MaskCLIP run: ``vit``, ``resnet`` and ``text``."""

import re
import tempfile
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.runner.checkpoint import load_checkpoint
from torch import Tensor

from mmseg_plugins.cases import Case
from mmseg_plugins.methods.maskclip.model import MaskCLIP
from mmseg_plugins.methods.maskclip.refine import key_affinity
from mmseg_plugins.prediction.label_map import label_map_from_logits
from mmseg_plugins.towers.config import ClipConfig
from mmseg_plugins.towers.dense import DenseFeatures
from mmseg_plugins.towers.position import to_map
from mmseg_plugins.vocabulary.embed import TextEmbeddings, embed
from mmseg_plugins.vocabulary.templates import load_templates
from mmseg_plugins.vocabulary.vocabulary import Vocabulary

# Switches of a stage that change the features; the others only change what is made of them.
_FEATURE_SWITCHES = ("act", "eps", "attn_pooling")


def run(case: Case, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """Return the output stages of a case.

    Raises:
        ValueError: if the kind of case is not known.
    """
    if case.kind == "text":
        return _run_text(case, device, dtype)
    if case.kind not in ("vit", "resnet"):
        raise ValueError(
            f"{case.path}: MaskCLIP has no runner for cases of kind {case.kind!r}. Known: vit, resnet, text."
        )
    features: dict[tuple, tuple[MaskCLIP, DenseFeatures]] = {}
    stages = {}
    for name, entry in case.outputs.items():
        variant = entry.get("variant") or {}
        key = tuple(variant.get(switch) for switch in _FEATURE_SWITCHES)
        if key not in features:
            model = _build(case, variant).to(device, dtype)
            image = case.tensor("image", device, dtype)
            features[key] = model, model.dense_features(image)
        stages[name] = _stage(case, name, variant, *features[key])
    return stages


def _build(case: Case, variant: Mapping[str, Any], classes: Any = ("any",)) -> MaskCLIP:
    config = ClipConfig.from_openai_numbers(
        case.config["clip"], vision_heads=case.config.get("vision_heads") or case.config.get("attnpool_heads")
    )
    taps = () if case.kind != "resnet" else ("stage/1", "stage/4")
    arithmetic = {"act": variant.get("act"), "norm_eps": variant.get("eps")} if case.kind == "vit" else {}
    dense = {"qkv": True, "taps": taps, "ordinary": True}
    if variant.get("attn_pooling"):
        dense = {"attention_pooling": True}
    model = MaskCLIP(
        clip={"model": config, **arithmetic}, vocabulary={"source": list(classes)}, dense=dense, text_cache=False
    )
    with tempfile.TemporaryDirectory() as folder:
        load_checkpoint(model, str(case.write_file("clip", folder)), logger="silent")
    return model.eval()


def _stage(case: Case, name: str, variant: Mapping[str, Any], model: MaskCLIP, features: DenseFeatures) -> Tensor:
    plain = re.sub(r"_quickgelu$", "", name)
    simple = {
        "patch_tokens": lambda: features.patch_tokens,
        "v_map": lambda: features.trunk,
        "dense_features": lambda: features.pixels,
        "dense_features_norm": lambda: F.normalize(features.pixels, dim=1),
        "key_affinity": lambda: key_affinity(features.key, variant["key_norm"]),
        "layer1": lambda: features.extras["stage/1"],
        "layer4": lambda: features.extras["stage/4"],
        "clip_global": lambda: features.cls,
        "q": lambda: _handed_over(case, features.query, features),
        "k": lambda: _handed_over(case, features.key, features),
        "v": lambda: _handed_over(case, features.value, features),
    }
    if plain in simple:
        return simple[plain]()
    return _logits(case, plain, variant, model)


def _handed_over(case: Case, tokens_BNW: Tensor, features: DenseFeatures) -> Tensor:
    """The release hands q, k and v of a ViT over as tokens, those of a ResNet as maps."""
    return tokens_BNW if case.kind == "vit" else to_map(tokens_BNW, features.grid)


def _logits(case: Case, name: str, variant: Mapping[str, Any], model: MaskCLIP) -> Tensor:
    model.ks_thresh, model.pd_thresh = variant.get("ks_thresh", 0), variant.get("pd_thresh", 0)
    model.key_norm = variant.get("key_norm", "token_axis")
    model.softmax_scale = case.config.get("softmax_scale", 100)
    parameter = next(model.parameters())
    rows = case.tensor("text_embeddings", parameter.device)
    text = TextEmbeddings(rows, torch.arange(len(rows), device=rows.device), len(rows))
    image = case.tensor("image", parameter.device, parameter.dtype)
    logits = model.row_logits(image, text)
    if not name.startswith("seg"):
        return logits
    size = tuple(image.shape[2:])
    return torch.stack([label_map_from_logits(single, input_size=size).labels for single in logits])


def _run_text(case: Case, device: str, dtype: torch.dtype) -> dict[str, Tensor]:
    names = case.config["class_names"]
    model = _build(case, {}, names).to(device, dtype)
    tower, vocabulary = model.clip.text, Vocabulary.parse(list(names))
    templates = load_templates(f"imagenet{case.config['num_templates']}")
    tokens = tower.tokenize([template.format(names[0]) for template in templates])
    return {
        "tokens_class0": tokens,
        "encoded_class0": tower.encode_tokens(tokens.to(device)),
        "text_embeddings": embed(tower, vocabulary, templates).rows,
        "text_embeddings_single": embed(tower, vocabulary, ["a photo of a {}."]).rows,
    }
