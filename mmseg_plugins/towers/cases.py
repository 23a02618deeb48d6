"""How the reference cases of the encoder drop-ins run: Long-CLIP's text tower, CLIP-MoE's image tower."""

import torch
from torch import Tensor

from mmseg_plugins.cases import Case
from mmseg_plugins.towers.config import ClipConfig, TextConfig, VisionConfig
from mmseg_plugins.towers.loading import load_clip_weights
from mmseg_plugins.towers.model import Clip
from mmseg_plugins.towers.position import stretch_positions


def run(case: Case, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Compute every output stage of a case.

    Raises:
        KeyError: if the kind of the case is not known.
    """
    kinds = {"long_clip": _long_clip, "clip_moe": _clip_moe}
    if case.kind not in kinds:
        raise KeyError(f"Unknown kind {case.kind!r} of a backbones case. Known: {', '.join(kinds)}.")
    return kinds[case.kind](case, device, dtype)


def _long_clip(case: Case, device: str, dtype: torch.dtype) -> dict[str, Tensor]:
    config = case.config
    text = TextConfig(
        context_length=config["context_length"],
        vocab_size=config["vocab"],
        width=config["text_width"],
        heads=config["text_heads"],
        layers=config["text_layers"],
        act="quick_gelu",
        kept_positions=config["keep"],
    )
    clip = Clip(ClipConfig(name="long_clip", embed_dim=config["embed_dim"], text=text), image=False)
    load_clip_weights(clip, case.file_content("clip"))
    tower = clip.text.eval().to(device, dtype)
    return {
        "position_248": stretch_positions(case.tensor("position_77", device, dtype), config["keep"]),
        "text": tower.encode_tokens(case.tensor("tokens", device)),
    }


def _clip_moe(case: Case, device: str, dtype: torch.dtype) -> dict[str, Tensor]:
    config = case.config
    vision = VisionConfig(
        image_size=(config["image_size"], config["image_size"]),
        width=config["width"],
        layers=config["layers"],
        heads=config["heads"],
        patch=config["patch_size"],
        act="quick_gelu",
        experts=config["experts"],
        experts_per_token=config["top_k"],
        expert_layers=config["moe_layers"],
    )
    clip = Clip(ClipConfig(name="clip_moe", embed_dim=config["embed_dim"], vision=vision), text=False)
    load_clip_weights(clip, case.file_content("clip"))
    tower = clip.visual.eval().to(device, dtype)
    router_logits: list[Tensor] = []
    for block in tower.blocks:
        if hasattr(block, "gate"):
            block.gate.register_forward_hook(lambda _module, _inputs, output: router_logits.append(output))
    patches, grid = tower.embed_patches(case.tensor("image", device, dtype))
    tokens = tower.transformer(tower.add_class_token(patches, tower.positions(grid)))
    return {
        "router_logits": torch.stack(router_logits),
        "tokens": tower.finish(tokens),
        "embedding": tower.pool(tokens),
    }
