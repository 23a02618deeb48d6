"""Small models of CLIP-DINOiser for its tests."""

import torch

from mmseg_plugins.methods.clip_dinoiser.model import CLIPDINOiser
from mmseg_plugins.towers.config import ClipConfig, TextConfig, VisionConfig

SIZES = ClipConfig(
    name="small",
    embed_dim=16,
    vision=VisionConfig(image_size=(32, 32), width=24, layers=4, heads=3, patch=8),
    text=TextConfig(width=16, heads=2, layers=1),
)
TEACHER = {
    "type": "DinoFoundTeacher",
    "dino": {"patch": 8, "width": 16, "layers": 2, "heads": 2, "image_size": 32},
    "found_dino": {"patch": 4, "width": 12, "layers": 2, "heads": 2, "image_size": 32},
    "dino_pretrained": None,
    "found_pretrained": None,
    "found_decoder": None,
}


def build(model=CLIPDINOiser, seed=0, **options):
    """A model with random weights whose probabilities are not all alike."""
    torch.manual_seed(seed)
    defaults = {"vocabulary": {"source": "background; cat; dog, puppy", "templates": ["a {}."]}, "text_cache": False}
    if issubclass(model, CLIPDINOiser):
        defaults |= {"proj_channels": 8, "gamma": 0.3}
    built = model(clip={"model": SIZES}, **{**defaults, **options})
    return built.eval()
