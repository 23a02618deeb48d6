"""Other people's encoders as their files are published, with tiny weights: read, run, and used by a dense rule."""

from dataclasses import replace

import pytest
import torch

from mmseg_plugins.towers.affinity import ClipAffinity
from mmseg_plugins.towers.clip import build_clip, find_clip
from mmseg_plugins.towers.config import ClipConfig, TextConfig, VisionConfig
from mmseg_plugins.towers.dense import DenseOptions
from mmseg_plugins.towers.files import write_safetensors
from mmseg_plugins.towers.model import Clip
from mmseg_plugins.towers.weights import find_record, list_records
from tests.towers.published import hugging_face_layout, openai_layout, slip_layout

_VISION = VisionConfig(image_size=(32, 32), width=64, layers=2, heads=1, patch=8, act="quick_gelu")
_TEXT = TextConfig(width=64, heads=1, layers=2, vocab_size=300, act="quick_gelu")
_SLIP = {"norm_before": False, "patch_bias": True, "act": "gelu", "norm_eps": 1e-6}


def draw_clip(draw, vision=None, text=None):
    config = ClipConfig(embed_dim=12, vision=replace(_VISION, **(vision or {})), text=replace(_TEXT, **(text or {})))
    return draw(Clip(config)).eval()


def refine_layout(clip):
    """CLIP-Refine's trainer: the model as ``backbone`` of a module with a temperature of its own."""
    inner = {f"backbone.{key}": value for key, value in openai_layout(clip).items()}
    return {**inner, "backbone.logit_scale": torch.tensor(1.0), "logit_scale": clip.logit_scale.detach()}


def trainer_layout(clip):
    return {"epoch": 32, "state_dict": {f"module.{key}": value for key, value in openai_layout(clip).items()}}


def slip_trainer_layout(clip):
    return {"epoch": 25, "state_dict": {f"module.{key}": value for key, value in slip_layout(clip).items()}}


_LONG = {"context_length": 24, "kept_positions": 20}
_EXPERTS = {"experts": 4, "expert_layers": 2}
FILES = {
    "long-clip": (openai_layout, {}, _LONG),
    "clip-moe": (openai_layout, _EXPERTS, {**_LONG, **_EXPERTS}),
    "metaclip": (openai_layout, {}, {}),
    "metaclip, hugging face": (hugging_face_layout, {}, {}),
    "hq-clip": (openai_layout, {"act": "gelu"}, {"act": "gelu"}),
    "laclip": (slip_trainer_layout, _SLIP, {}),
    "laclip, laion": (trainer_layout, {"act": "gelu"}, {"act": "gelu"}),
    "clip-refine": (refine_layout, {}, {}),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_published_files_fill_the_model_they_come_from(name, suffix, draw, tmp_path):
    write, vision, text = FILES[name]
    source, path = draw_clip(draw, vision, text), tmp_path / f"weights{suffix}"
    content = write(source)
    if suffix == ".pt":
        torch.save(content, path)
    else:
        tensors = content.get("state_dict", content)
        write_safetensors(path, {key: value.contiguous().clone() for key, value in tensors.items()})
    loaded = build_clip(source.config, pretrained=path)
    image, tokens = torch.randn(2, 3, 40, 24), torch.randint(1, 299, (2, source.config.text.context_length))
    for ours, theirs in zip(loaded(image, tokens), source(image, tokens), strict=True):
        assert torch.equal(ours, theirs)
    assert float(loaded.logit_scale) == float(source.logit_scale)
    for rule in ("value", "qq+kk"):
        options = DenseOptions(rule=rule, padding="floor")
        assert torch.equal(loaded.forward_dense(image, options).pixels, source.forward_dense(image, options).pixels)


@pytest.mark.parametrize("name", [name for name in FILES if "gelu" not in FILES[name][2].values()])
def test_sizes_are_read_off_the_file(name, draw, tmp_path):
    """What no file tells is the activation: OpenAI's is taken, but for SLIP's image tower."""
    write, vision, text = FILES[name]
    source, path = draw_clip(draw, vision, text), tmp_path / "weights.pt"
    torch.save(write(source), path)
    config = build_clip("auto", pretrained=path).config
    assert (config.vision, config.embed_dim) == (source.config.vision, 12)
    assert replace(config.text, expert_layers=0) == replace(source.config.text, expert_layers=0)


def test_long_descriptions_fit_long_clip_alone(draw):
    tower = draw(Clip(ClipConfig(embed_dim=12, text=replace(_TEXT, vocab_size=49408, **_LONG)), image=False)).text
    long = " ".join(["red"] * 20)
    assert tower.tokenize([long]).shape[1] <= 24
    short = draw(Clip(ClipConfig(embed_dim=12, text=replace(_TEXT, vocab_size=49408, context_length=12)), image=False))
    with pytest.raises(ValueError, match="12"):
        short.text.tokenize([long])


def test_experts_are_used_by_the_dense_path(draw):
    clip = draw_clip(draw, _EXPERTS)
    image = torch.randn(1, 3, 32, 32)
    before = clip.forward_dense(image, DenseOptions(residual=False, mlp=False)).pixels
    clip.visual.blocks[0].experts[0].c_proj.bias.data += 1
    clip.visual.blocks[0].experts[1].c_proj.bias.data += 1
    assert not torch.equal(before, clip.forward_dense(image, DenseOptions(residual=False, mlp=False)).pixels)


@torch.no_grad()
@pytest.mark.parametrize("feature", ["norm", "qk"])
def test_mlcds_image_tower_says_what_belongs_together(feature, draw, tmp_path):
    source, path = draw_clip(draw), tmp_path / "model.safetensors"
    state = {key: value for key, value in hugging_face_layout(source).items() if key.startswith("vision_model.")}
    write_safetensors(path, {key: value.contiguous().clone() for key, value in state.items()})
    vfm = ClipAffinity({"model": "auto", "pretrained": str(path)}, feature=feature).eval()
    vfm.ensure_weights()
    same = ClipAffinity({"model": source.config}, feature=feature).eval()
    same.clip.visual.load_state_dict(source.visual.state_dict())
    image = torch.randn(1, 3, 32, 40)
    assert torch.equal(vfm(image), same(image))
    assert vfm(image).shape == (1, 64, 4, 5)


@torch.no_grad()
def test_mlcd_can_be_named_by_its_record(draw, tmp_path, monkeypatch):
    monkeypatch.setenv("MMSEG_PLUGINS_HOME", str(tmp_path))
    source = draw_clip(draw)
    state = {key: value for key, value in hugging_face_layout(source).items() if key.startswith("vision_model.")}
    folder = find_record("mlcd_vit_b_32_224").folder
    folder.mkdir(parents=True)
    write_safetensors(folder / "model.safetensors", {key: value.contiguous().clone() for key, value in state.items()})
    vfm = ClipAffinity({"model": "auto", "pretrained": "mlcd_vit_b_32_224"}).eval()
    vfm.ensure_weights()
    assert torch.equal(vfm.clip.visual.class_embedding, source.visual.class_embedding)


@pytest.mark.parametrize(
    ("name", "vision", "text"),
    [
        ("longclip_b", {}, {"context_length": 248, "kept_positions": 20}),
        ("longclip_l", {}, {"context_length": 248, "kept_positions": 20}),
        ("clip_moe_l_sharegpt4v", {"experts": 4, "experts_per_token": 2}, {"context_length": 248, "experts": 4}),
        ("clip_moe_l_recap", {"experts": 4}, {"kept_positions": 20, "expert_layers": 12}),
        ("hqclip_b", {"act": "gelu"}, {"act": "gelu"}),
        ("laclip_cc12m_b", {"act": "gelu", "norm_before": False}, {"act": "quick_gelu"}),
        ("laclip_laion400m_b", {"act": "gelu", "norm_before": True}, {"act": "gelu"}),
    ],
)
def test_records_say_what_their_weights_need(name, vision, text):
    config = find_clip(name).config
    assert {key: getattr(config.vision, key) for key in vision} == vision
    assert {key: getattr(config.text, key) for key in text} == text
    assert find_record(name).source_page.startswith("http")


def test_laclips_first_models_were_trained_with_imagenets_statistics():
    assert find_clip("laclip_cc12m_b").config.image_mean == (123.675, 116.28, 103.53)


@pytest.mark.parametrize("family", ["metaclip_", "webli", "merged2b", "laion2b", "datacomp", "dfn"])
def test_open_clips_table_reaches_the_others(family):
    """MetaCLIP, SigLIP, EVA and the rest come under open_clip's tags."""
    tags = [record for record in list_records() if (record.tag or "").startswith(family)]
    assert tags
    assert all(find_clip(record.model, pretrained=record.tag).config.vision for record in tags[:2])
