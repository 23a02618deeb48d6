from dataclasses import replace

import pytest
import torch

from mmseg_plugins.towers.config import ClipConfig, TextConfig, VisionConfig
from mmseg_plugins.towers.layouts import (
    compare_keys,
    detect_layout,
    infer_clip_config,
    part_of,
    to_openai_layout,
)
from mmseg_plugins.towers.loading import load_clip_weights
from mmseg_plugins.towers.model import Clip
from tests.towers.published import hugging_face_layout, openai_layout, slip_layout

_VISION = VisionConfig(image_size=(32, 32), width=64, layers=2, heads=1, patch=8, act="quick_gelu")
_TEXT = TextConfig(width=64, heads=1, layers=2, vocab_size=300, act="quick_gelu")


@pytest.fixture
def clip(draw):
    return draw(Clip(ClipConfig(embed_dim=12, vision=_VISION, text=_TEXT))).eval()


def same(ours, theirs):
    image, tokens = torch.randn(1, 3, 32, 32), torch.tensor([[5, 7, 299, 0]])
    for a, b in zip(ours(image, tokens), theirs(image, tokens), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(("write", "name"), [(openai_layout, "openai_clip"), (hugging_face_layout, "hf_clip")])
def test_published_layouts_load_and_describe_themselves(clip, write, name):
    state = write(clip)
    assert detect_layout(state) == name
    config = infer_clip_config(state)
    assert (config.vision, config.text, config.embed_dim) == (_VISION, replace(_TEXT, vocab_size=300), 12)
    other = Clip(config).eval()
    assert load_clip_weights(other, state) == ("image", "text", "logits")
    same(clip, other)


def test_slip_files_have_a_patch_bias_and_no_first_norm(draw):
    vision = replace(_VISION, norm_before=False, patch_bias=True, act="gelu", norm_eps=1e-6)
    clip = draw(Clip(ClipConfig(embed_dim=12, vision=vision, text=_TEXT))).eval()
    state = slip_layout(clip)
    assert detect_layout(state) == "slip"
    config = infer_clip_config(state)
    assert (config.vision, config.text) == (vision, _TEXT)
    other = Clip(config).eval()
    load_clip_weights(other, state)
    same(clip, other)


def test_resnet_sizes_are_read_off_the_tensors(draw):
    vision = VisionConfig(family="resnet", image_size=(96, 96), width=8, layers=(1, 2, 1, 3), heads=4)
    clip = Clip(ClipConfig(embed_dim=12, vision=vision, text=_TEXT))
    config = infer_clip_config(openai_layout(clip))
    assert (config.vision.layers, config.vision.width, config.vision.image_size) == ((1, 2, 1, 3), 8, (96, 96))
    assert config.embed_dim == 12


def test_one_tower_alone_is_recognised_with_and_without_its_prefix(clip):
    state = openai_layout(clip)
    visual = {key: value for key, value in state.items() if key.startswith("visual.")}
    bare = {key.removeprefix("visual."): value for key, value in visual.items()}
    text = {key: value for key, value in state.items() if part_of(key) == "text"}
    assert detect_layout(visual) == detect_layout(bare) == "vision_only"
    assert set(to_openai_layout(bare)[0]) == set(visual)
    assert detect_layout(text) == "text_only"
    nested = visual | {f"text.{key}": value for key, value in text.items()}
    assert detect_layout(nested) == "open_clip"
    assert set(to_openai_layout(nested)[0]) == set(visual) | set(text)


def test_hugging_face_image_tower_without_projection(clip):
    state = {key: value for key, value in hugging_face_layout(clip).items() if key.startswith("vision_model.")}
    config = infer_clip_config(state)
    assert config.embed_dim == 0
    assert config.text is None
    tower = Clip(config, text=False).eval()
    load_clip_weights(tower, state)
    image = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(tower.encode_image(image) @ clip.visual.proj, clip.encode_image(image))


def test_long_clip_and_experts_are_read_off_the_tensors():
    text = replace(_TEXT, context_length=24, kept_positions=20)
    vision = replace(_VISION, experts=3, expert_layers=1)
    clip = Clip(ClipConfig(embed_dim=12, vision=vision, text=text))
    config = infer_clip_config(openai_layout(clip))
    assert config.vision == replace(vision, experts_per_token=2)
    assert (config.text.context_length, config.text.kept_positions) == (24, 20)


def test_foreign_files_are_refused_with_their_keys():
    with pytest.raises(ValueError, match=r"no known CLIP file.*backbone\.layer1"):
        detect_layout(["backbone.layer1.weight", "decode_head.conv_seg.bias"])


def test_a_timm_trunk_cannot_be_read_off_its_tensors():
    with pytest.raises(ValueError, match="give the model's name"):
        infer_clip_config({"visual.trunk.stem.0.weight": torch.zeros(1)})


def test_incomplete_hugging_face_attention_is_named(clip):
    state = hugging_face_layout(clip)
    del state["vision_model.encoder.layers.1.self_attn.k_proj.bias"]
    with pytest.raises(ValueError, match=r"resblocks\.1\.attn\.in_proj_bias needs q, k and v"):
        to_openai_layout(state)


def test_keys_that_do_not_fit_are_counted_and_named():
    wanted = {f"layer.{index}.weight": torch.zeros(2) for index in range(5)} | {"scale": torch.zeros(1)}
    given = {"scale": torch.zeros(3), "layers.0.weight": torch.zeros(2)}
    with pytest.raises(ValueError, match="the decoder") as caught:
        compare_keys(wanted, given, what="the decoder")
    message = str(caught.value)
    assert "5 missing (layer.0.weight, layer.1.weight, layer.2.weight, ...)" in message
    assert "1 unexpected (layers.0.weight)" in message
    assert "1 of another shape (scale: (3,) in the file, (1,) in the model)" in message
    assert "'layers.0.weight' in the file resembles the missing 'layer.0.weight'" in message
    compare_keys(wanted, wanted, what="itself")
