"""The presets on EVA and SigLIP through open_clip's layout, and DINO's successors as vision models."""

import pytest
import torch
import torch.nn.functional as F

from mmseg_plugins.methods.training_free.model import TrainingFree
from mmseg_plugins.methods.training_free.presets import PRESETS
from mmseg_plugins.methods.training_free.proxyclip import ProxyCLIP
from mmseg_plugins.towers.config import ClipConfig, VisionConfig
from mmseg_plugins.vocabulary.embed import TextEmbeddings

SIZES = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "num_heads": 4}
TOWERS = {
    "eva": ("eva02_base_patch16_clip_224", "token", None, 16),
    "siglip": ("vit_base_patch16_siglip_224", "map", "none", 32),
}
DINOS = {
    "vit_base_patch8_224.dino": {**SIZES, "depth": 2},
    "vit_base_patch14_reg4_dinov2.lvd142m": {**SIZES, "depth": 2},
    "vit_small_patch16_dinov3.lvd1689m": {"img_size": 32, "depth": 2},
}


def build(kind, tower, depth=12, **options):
    name, pool, projection, width = TOWERS[tower]
    vision = VisionConfig(
        family="timm", timm_name=name, timm_pool=pool, timm_proj=projection, timm_options={**SIZES, "depth": depth}
    )
    model = kind(
        clip={"model": ClipConfig(name=tower, embed_dim=width, vision=vision), "text": False},
        vocabulary={"source": ["a", "b", "c"]},
        text_cache=False,
        **options,
    )
    torch.manual_seed(0)
    for parameter in model.clip.parameters():
        if parameter.ndim > 1:  # attention that is not nearly even
            parameter.data = 0.3 * torch.randn_like(parameter)
    model.set_text_embeddings(TextEmbeddings(F.normalize(torch.randn(3, width), dim=1), torch.arange(3), 3))
    return model.eval()


@torch.no_grad()
@pytest.mark.parametrize("tower", TOWERS)
@pytest.mark.parametrize("method", [name for name in PRESETS if name != "reduced"])
def test_presets_run_on_other_towers(tower, method):
    model, images = build(TrainingFree, tower, method=method), torch.randn(2, 3, 32, 40)
    text = model.text_embeddings
    together = model.row_logits(images, text)
    assert together.shape == (2, 3, 4, 5)
    assert together.isfinite().all()
    alone = torch.cat([model.row_logits(image[None], text) for image in images])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("tower", TOWERS)
def test_their_rules_differ(tower):
    found, image = {}, torch.randn(1, 3, 32, 40)
    for method in ("clip", "maskclip", "sclip", "clearclip", "naclip"):
        model = build(TrainingFree, tower, method=method)
        found[method] = model.row_logits(image, model.text_embeddings)
    for first in found:
        assert not any(torch.allclose(found[first], found[other]) for other in found if other != first)


@torch.no_grad()
@pytest.mark.parametrize("name", DINOS)
def test_proxyclip_takes_any_dino(name):
    model = build(ProxyCLIP, "eva", 2, vfm={"model": name, "options": DINOS[name]})
    stride = model.vfm.stride
    logits = model.row_logits(torch.randn(1, 3, 32, 48), model.text_embeddings)
    assert logits.shape == (1, 3, 32 // stride, 48 // stride)
    assert logits.isfinite().all()
