"""How the reference cases of AnoVL run: ``pipeline``."""

import tempfile
from typing import Any

import torch
from torch import Tensor

from mmseg_plugins.cases import Case
from mmseg_plugins.methods.anovl.adaptation import adapt
from mmseg_plugins.methods.anovl.maps import abnormal_probability, smooth_map
from mmseg_plugins.methods.anovl.model import AnoVL
from mmseg_plugins.towers.clip import build_clip
from mmseg_plugins.towers.config import ClipConfig, VisionConfig
from mmseg_plugins.towers.files import unwrap_state_dict
from mmseg_plugins.towers.position import Grid


def run(case: Case, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """Return the output stages of a case.

    Raises:
        ValueError: if the kind of case is not known.
    """
    if case.kind != "pipeline":
        raise ValueError(f"{case.path}: AnoVL has no runner for cases of kind {case.kind!r}. Known: pipeline.")
    model = _build(case).to(device, dtype)
    model.set_sentences(case.tensor("prompt_embeddings", device, torch.float32))
    image = case.tensor("image", device, dtype)
    tokens, grid = model.tokens(image)
    probability = abnormal_probability(tokens, model.states)
    patches = probability[:, 1:].unflatten(1, grid)
    return {
        "text_features": model.states.T,
        "tokens": tokens,
        "patch_tokens": tokens[:, 1:],
        "image_score": probability[:, 0].mean()[None],
        "anomaly_prob": patches,
        "anomaly_smooth": smooth_map(patches),
        "anomaly_map": model.map_of(tokens[:, 1:], grid, tuple(image.shape[2:])),
        **_adapted(case, model, tokens[0, 1:].float(), grid),
    }


def _build(case: Case) -> AnoVL:
    config = case.config
    vision = VisionConfig(
        image_size=(config["image_size"], config["image_size"]),
        width=config["width"],
        layers=config["layers"],
        heads=config["heads"],
        patch=config["patch_size"],
        act="gelu",
    )
    with tempfile.TemporaryDirectory() as folder:
        path = case.write_file("clip", folder)
        settings = ClipConfig(name="anovl", embed_dim=config["embed_dim"], vision=vision)
        return AnoVL(build_clip(settings, pretrained=path, text=False)).eval()


def _adapted(case: Case, model: AnoVL, tokens_ND: Tensor, grid: Grid) -> dict[str, Any]:
    """Adapt to the first image with the fixture's initial weights and noise."""
    adapter = model.new_adapter()
    tensors = unwrap_state_dict(case.file_content("adapter"))
    adapter.load_state_dict({key.removeprefix("adapter."): value for key, value in tensors.items()})
    noise = case.tensor("noise", tokens_ND.device, torch.float32).reshape(case.config["epochs"], *tokens_ND.shape)
    losses = adapt(adapter, tokens_ND, model.states, list(noise), lr=case.config["learning_rate"])
    with torch.no_grad():
        adapted = adapter(tokens_ND)
    size = tuple(case.arrays["image"].shape[2:])
    return {
        "tta_losses": torch.tensor(losses),
        "tta_weight": adapter.ad.weight.detach(),
        "tta_bias": adapter.ad.bias.detach(),
        "tta_tokens": adapted.unflatten(0, grid),
        "tta_map": model.map_of(adapted[None], grid, size)[0],
    }
