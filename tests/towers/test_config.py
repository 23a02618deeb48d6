import pytest

from mmseg_plugins.towers.config import CLIP_MEAN, ClipConfig, list_open_clip_models
from mmseg_plugins.towers.model import Clip


@pytest.mark.parametrize(
    ("name", "family", "heads", "patch", "embed_dim", "text_layers"),
    [
        ("ViT-B-16", "vit", 12, 16, 512, 12),
        ("ViT-H-14", "vit", 16, 14, 1024, 24),
        ("RN50", "resnet", 32, None, 1024, 12),
        ("RN50x64", "resnet", 64, None, 1024, 12),
        ("convnext_large_d_320", "convnext", 0, None, 768, 16),
        ("EVA02-L-14-336", "timm", 0, None, 768, 12),
    ],
)
def test_open_clips_models_are_read(name, family, heads, patch, embed_dim, text_layers):
    config = ClipConfig.from_open_clip(name)
    vision = config.vision
    assert (vision.family, vision.heads, vision.patch, config.embed_dim) == (family, heads, patch, embed_dim)
    assert config.text.layers == text_layers
    assert config.image_mean == CLIP_MEAN


def test_every_model_of_open_clip_is_read_or_says_what_it_lacks():
    refused = {}
    for name in list_open_clip_models():
        try:
            assert ClipConfig.from_open_clip(name).vision is not None
        except ValueError as error:
            refused[name] = str(error)
    assert all("not supported here" in message for message in refused.values())
    assert set(refused) == {"coca_ViT-B-32", "coca_ViT-L-14", "coca_base"}


def test_activation_comes_from_the_model_not_from_the_weights():
    assert ClipConfig.from_open_clip("ViT-B-16").vision.act == "gelu"
    assert ClipConfig.from_open_clip("ViT-B-16-quickgelu").text.act == "quick_gelu"
    assert ClipConfig.from_open_clip("ViT-B-16", quick_gelu=True).vision.act == "quick_gelu"


def test_whether_padding_counts_is_a_field_of_the_text_tower():
    siglip = ClipConfig.from_open_clip("ViT-B-16-SigLIP")
    assert not siglip.text.is_causal
    assert (siglip.text.pool, siglip.text.norm_eps, siglip.logit_bias) == ("last", 1e-6, -10)
    assert ClipConfig.from_open_clip("ViT-B-16").text.is_causal


def test_openais_numbers_are_read():
    numbers = {"embed_dim": 32, "image_resolution": 64, "vision_layers": 3, "vision_width": 128}
    numbers |= {"vision_patch_size": 16, "transformer_width": 64, "transformer_heads": 4, "transformer_layers": 2}
    config = ClipConfig.from_openai_numbers(numbers)
    assert (config.vision.heads, config.vision.act, config.vision.norm_eps) == (2, "quick_gelu", 1e-5)
    assert (config.text.heads, config.text.context_length) == (4, 77)
    assert ClipConfig.from_openai_numbers(numbers, vision_heads=8).vision.heads == 8
    assert ClipConfig.from_openai_numbers({**numbers, "vision_heads": 4, "act": "gelu"}).vision.act == "gelu"
    resnet = {**numbers, "vision_layers": [1, 2, 3, 4], "vision_patch_size": None}
    assert ClipConfig.from_openai_numbers(resnet).vision.layers == (1, 2, 3, 4)


def test_unknown_models_get_a_suggestion():
    with pytest.raises(KeyError, match=r"Unknown CLIP model 'ViT-B/16'.*Did you mean 'ViT-B-16'"):
        ClipConfig.from_open_clip("ViT-B/16")


def test_a_missing_tower_is_named():
    with pytest.raises(ValueError, match=r"no image tower.*image=False"):
        Clip(ClipConfig())
    roberta = ClipConfig.from_open_clip("roberta-ViT-B-32")
    with pytest.raises(ValueError, match=r"no text tower that is supported.*text=False"):
        Clip(roberta, image=False)
