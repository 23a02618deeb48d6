"""Our towers against open_clip's own models, filled with the same weights."""

import logging

import pytest
import torch

from mmseg_plugins.towers.config import ClipConfig
from mmseg_plugins.towers.dense import DenseOptions
from mmseg_plugins.towers.loading import load_clip_weights
from mmseg_plugins.towers.model import Clip

open_clip = pytest.importorskip("open_clip")

_TEXT = {"context_length": 77, "vocab_size": 512, "width": 32, "heads": 4, "layers": 2}
_TIMM_VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 4}

SMALL = {
    "vit": {"image_size": 32, "layers": 3, "width": 48, "head_width": 16, "patch_size": 8},
    "vit, mean pooled": {
        "image_size": 32,
        "layers": 2,
        "width": 32,
        "patch_size": 8,
        "head_width": 8,
        "pool_type": "avg",
    },
    "vit, norm after pool, no first norm": {
        "image_size": [32, 48],
        "layers": 2,
        "width": 32,
        "patch_size": 8,
        "head_width": 16,
        "pool_type": "avg",
        "no_ln_pre": True,
        "final_ln_after_pool": True,
    },
    "vit, layer scale, own epsilon": {
        "image_size": 32,
        "layers": 2,
        "width": 32,
        "patch_size": 16,
        "head_width": 16,
        "ls_init_value": 0.1,
        "mlp_ratio": 3.0,
        "norm_kwargs": {"eps": 1e-3},
        "act_kwargs": {"approximate": "tanh"},
    },
    "resnet": {"image_size": 64, "layers": [1, 2, 1, 1], "width": 8, "head_width": 32, "patch_size": None},
}


def pair(content, draw):
    """The same weights in open_clip's class and in ours."""
    theirs = open_clip.CLIP if not content.get("custom_text") else open_clip.CustomTextCLIP
    options = {name: value for name, value in content.items() if name != "custom_text"}
    model = draw(theirs(**options)).eval()
    config = ClipConfig.from_open_clip(content)
    ours = Clip(config).eval()
    assert set(load_clip_weights(ours, model.state_dict())) >= {"image", "text"}
    return ours, model


def compare(ours, theirs, size, vocab=512, atol=1e-5):
    image = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(5))
    wanted = theirs.encode_image(image)
    torch.testing.assert_close(ours.encode_image(image), wanted, atol=atol * max(1, wanted.abs().max()), rtol=1e-5)
    length = ours.text.context_length
    tokens = torch.randint(1, vocab - 1, (3, length), generator=torch.Generator().manual_seed(6))
    for row, end in zip(tokens, (4, length - 3, length - 1), strict=True):
        row[end], row[end + 1 :] = vocab - 1, 0
    wanted = theirs.encode_text(tokens)
    torch.testing.assert_close(
        ours.text.encode_tokens(tokens), wanted, atol=atol * max(1, wanted.abs().max()), rtol=1e-5
    )


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("name", SMALL)
def test_small_towers_equal_open_clip(name, quick, draw):
    vision = SMALL[name]
    if quick and "act_kwargs" in vision:
        pytest.skip("QuickGELU takes no options")
    ours, theirs = pair({"embed_dim": 24, "vision_cfg": vision, "text_cfg": _TEXT, "quick_gelu": quick}, draw)
    size = vision["image_size"]
    compare(ours, theirs, (size, size) if isinstance(size, int) else size)


@pytest.mark.parametrize(
    ("pool", "bias"), [("last", True), ("argmax", False), ("eos", False), ("first", True)], ids=lambda value: str(value)
)
def test_text_towers_without_causal_mask_equal_open_clip(pool, bias, draw):
    text = _TEXT | {"no_causal_mask": True, "pool_type": pool, "proj_bias": bias, "eos_id": 511}
    ours, theirs = pair(
        {"embed_dim": 24, "vision_cfg": SMALL["vit"], "text_cfg": text, "custom_text": True, "init_logit_bias": -10},
        draw,
    )
    assert not ours.text.is_causal
    compare(ours, theirs, (32, 32))
    torch.testing.assert_close(ours.logit_bias, theirs.logit_bias)


@pytest.fixture
def small_timm(monkeypatch):
    """Make timm build its published models at toy size, whoever asks."""
    import timm

    build = timm.create_model

    def install(**sizes):
        monkeypatch.setattr(timm, "create_model", lambda name, **options: build(name, **{**options, **sizes}))

    return install


@pytest.mark.parametrize(
    ("trunk", "pool", "projection", "sizes"),
    [
        ("eva02_base_patch16_clip_224", "token", None, _TIMM_VIT),
        ("eva02_enormous_patch14_clip_224", "token", None, _TIMM_VIT),
        ("eva_giant_patch14_clip_224", "token", None, _TIMM_VIT),
        ("vit_pe_core_tiny_patch16_384", "map", None, _TIMM_VIT),
        ("vit_base_patch16_siglip_224", "map", "none", {**_TIMM_VIT, "embed_dim": 24}),
        ("vit_medium_patch16_gap_256", "", "linear", _TIMM_VIT),
    ],
)
def test_timm_transformers_equal_open_clip(trunk, pool, projection, sizes, draw, small_timm):
    small_timm(**sizes)
    vision = {"image_size": 32, "timm_model_name": trunk, "timm_pool": pool, "timm_proj": projection}
    ours, theirs = pair({"embed_dim": 24, "vision_cfg": vision, "text_cfg": _TEXT, "custom_text": True}, draw)
    compare(ours, theirs, (32, 32))
    image = torch.randn(2, 3, 32, 32)
    features = ours.forward_dense(image, DenseOptions(rule="qk", ordinary=True))
    torch.testing.assert_close(features.cls, theirs.encode_image(image), atol=1e-5, rtol=1e-5)
    # The dense path takes the blocks apart; put together again they are timm's own.
    torch.testing.assert_close(features.trunk, features.patch_tokens, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("projection", ["linear", "mlp"])
def test_convnext_equals_open_clip(projection, draw, small_timm):
    small_timm(depths=[1, 1, 2, 1], dims=[8, 12, 16, 20])
    vision = {"image_size": 64, "timm_model_name": "convnext_base", "timm_pool": "", "timm_proj": projection}
    ours, theirs = pair({"embed_dim": 24, "vision_cfg": vision, "text_cfg": _TEXT}, draw)
    compare(ours, theirs, (64, 64))


def test_mobileclip_equals_open_clip_and_its_mean_is_the_embedding(draw):
    # FastViT's sizes are not options of its builder, so this one is real (11 M parameters) at a small image.
    vision = {"image_size": 64, "timm_model_name": "fastvit_mci0", "timm_pool": "avg", "timm_proj": None}
    content = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": _TEXT, "custom_text": True}
    theirs = open_clip.CustomTextCLIP(24, vision, _TEXT).eval()
    ours = Clip(ClipConfig.from_open_clip(content)).eval()
    load_clip_weights(ours, theirs.state_dict())
    compare(ours, theirs, (64, 96))
    image = torch.randn(1, 3, 64, 96)
    features = ours.forward_dense(image, DenseOptions(taps=("stage/1", "stage/4")))
    assert features.grid == (2, 3)
    assert features.extras["stage/1"].shape[-2:] == (16, 24)
    torch.testing.assert_close(features.pixels.mean((-2, -1)), ours.encode_image(image), atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="no transformer blocks"):
        ours.forward_dense(image, DenseOptions(rule="qq"))
    with pytest.raises(ValueError, match="leave out qkv"):
        ours.forward_dense(image, DenseOptions(qkv=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["RN50", "ViT-B-32-quickgelu", "EVA02-B-16"])
def test_real_sizes_equal_open_clip(name, draw, caplog):
    caplog.set_level(logging.ERROR)
    theirs = draw(open_clip.create_model(name, load_weights=False), scale=0.05).eval()
    ours = Clip(ClipConfig.from_open_clip(name)).eval()
    load_clip_weights(ours, theirs.state_dict())
    compare(ours, theirs, ours.config.vision.image_size, vocab=49408)
