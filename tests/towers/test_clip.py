import pytest
import torch

from mmseg_plugins.towers.clip import build_clip, find_clip
from mmseg_plugins.towers.config import ClipConfig, TextConfig, VisionConfig
from mmseg_plugins.towers.dense import DenseOptions
from mmseg_plugins.towers.files import write_safetensors
from mmseg_plugins.towers.model import Clip
from tests.towers.published import openai_layout

_NUMBERS = {"embed_dim": 12, "image_resolution": 32, "vision_layers": 2, "vision_width": 64, "vision_patch_size": 8}
_NUMBERS |= {"vocab_size": 300, "transformer_width": 64, "transformer_heads": 1, "transformer_layers": 1}


@pytest.fixture
def file(draw, tmp_path):
    clip = draw(Clip(ClipConfig.from_openai_numbers(_NUMBERS)))
    return write_safetensors(tmp_path / "clip.safetensors", openai_layout(clip))


def test_the_embedded_model_is_built_with_its_own_weights():
    clip = build_clip("shapesworld")
    assert (clip.visual.width, clip.visual.stride, clip.visual.config.pool) == (96, 8, "avg")
    assert clip.text.is_causal
    assert clip.text.known_ids is not None
    text = torch.nn.functional.normalize(clip.encode_text(["a photo of a red thing.", "a photo of grass."]), dim=-1)
    assert float(text[0] @ text[1]) < 0.9
    features = clip.forward_dense(torch.zeros(1, 3, 48, 64), DenseOptions(ordinary=True))
    assert features.pixels.shape == (1, 96, 6, 8)
    torch.testing.assert_close(features.cls, clip.encode_image(torch.zeros(1, 3, 48, 64)), atol=1e-5, rtol=1e-5)


def test_sizes_can_be_read_off_the_file(file):
    clip = build_clip("auto", pretrained=file)
    assert clip.visual.config.layers == 2
    assert clip.text.config.vocab_size == 300
    assert not clip.training
    with pytest.raises(ValueError, match="pass pretrained=PATH"):
        find_clip("auto")


def test_arithmetic_of_the_image_tower_can_be_overridden(file):
    plain = build_clip("auto", pretrained=file)
    released = build_clip("auto", pretrained=file, act="gelu", norm_eps=1e-6)
    assert (plain.visual.config.act, plain.visual.ln_post.eps) == ("quick_gelu", 1e-5)
    assert (released.visual.config.act, released.visual.ln_post.eps) == ("gelu", 1e-6)
    assert released.text.config.act == "quick_gelu"
    with pytest.raises(ValueError, match="this one is a 'resnet'"):
        find_clip("RN50", act="gelu")


def test_towers_can_be_left_out_and_are_missed_by_name(file):
    image_only = build_clip("auto", pretrained=file, text=False)
    with pytest.raises(ValueError, match="Build it with text=True"):
        image_only.encode_text(["a"])
    text_only = build_clip("auto", pretrained=file, image=False)
    with pytest.raises(ValueError, match="Build it with image=True"):
        text_only.forward_dense(torch.zeros(1, 3, 8, 8))


def test_looking_up_a_model_fetches_nothing(monkeypatch):
    from mmseg_plugins.towers import weights

    monkeypatch.setattr(weights, "resolve", lambda record: pytest.fail("fetched"))
    source = find_clip("ViT-B-16", pretrained="openai")
    assert source.weights.name == "ViT-B-16/openai"
    assert source.config.vision.act == "quick_gelu"
    assert find_clip("ViT-B-16").path() is None


def test_long_clip_is_a_model_by_its_records_name():
    source = find_clip("longclip_b")
    assert (source.config.text.context_length, source.config.text.kept_positions) == (248, 20)
    assert source.config.vision.act == "quick_gelu"
    assert source.weights.repo == "BeichenZhang/LongCLIP-B"


def test_a_file_can_stand_for_a_records_own(file):
    assert find_clip("longclip_b", pretrained=file).weights == file
    assert find_clip("ViT-B-16", pretrained=str(file)).path() == file


@pytest.mark.parametrize(
    ("model", "pretrained", "message"),
    [
        ("ViT-B16", None, "Did you mean 'ViT-B-16"),
        ("ViT-B-16", "open_ai", "Its tags: openai"),
        ("ViT-B16", "openai", "Did you mean 'ViT-B-16"),
    ],
)
def test_unknown_models_and_tags_get_help(model, pretrained, message):
    with pytest.raises(KeyError, match=message):
        build_clip(model, pretrained=pretrained)


def test_a_missing_file_is_not_taken_for_a_tag(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.pth does not exist"):
        build_clip("ViT-B-16", pretrained=tmp_path / "none.pth")


def test_forward_gives_unit_vectors_of_both_towers():
    config = ClipConfig(
        embed_dim=8,
        vision=VisionConfig(image_size=(16, 16), width=16, layers=1, heads=2, patch=8),
        text=TextConfig(width=16, heads=2, layers=1, vocab_size=50),
    )
    image, text = Clip(config).eval()(torch.randn(2, 3, 16, 16), torch.randint(1, 50, (3, 77)))
    assert (image.shape, text.shape) == ((2, 8), (3, 8))
    torch.testing.assert_close(image.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(text.norm(dim=1), torch.ones(3))
