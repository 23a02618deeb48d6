import pytest
import torch
import torch.nn.functional as F

from mmseg_plugins.towers.affinity import ClipAffinity, TimmAffinity
from mmseg_plugins.towers.config import ClipConfig
from mmseg_plugins.towers.dino import DinoViT, dino_state, infer_dino_config
from mmseg_plugins.towers.files import read_tensors, write_safetensors
from mmseg_plugins.towers.position import resize_positions
from mmseg_plugins.towers.vit import DenseViT

SMALL = {"embed_dim": 24, "depth": 2, "num_heads": 3}
MODELS = [
    ("vit_base_patch8_224.dino", {**SMALL, "img_size": 32}),
    ("vit_base_patch14_dinov2.lvd142m", {**SMALL, "img_size": 56}),
    ("vit_base_patch14_reg4_dinov2.lvd142m", {**SMALL, "img_size": 56}),
    ("vit_small_patch16_dinov3.lvd1689m", {**SMALL, "img_size": 64}),
    ("vit_base_patch16_224.mae", {**SMALL, "img_size": 64}),
]


@torch.no_grad()
@pytest.mark.parametrize(("model", "options"), MODELS)
def test_norm_is_what_timm_gives(model, options):
    source = TimmAffinity(model, options=options).eval()
    image = torch.randn(2, 3, 4 * source.stride + 3, 6 * source.stride)
    tokens = source.trunk.forward_features(image[:, :, : 4 * source.stride])[:, source.prefix :]
    got = source(image)
    assert got.shape == (2, 24, 4, 6)
    torch.testing.assert_close(got.flatten(2).transpose(1, 2), tokens, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("feature", ["q", "k", "v", "qk"])
def test_members_of_the_last_attention_stand_head_by_head(feature):
    model, options = MODELS[0]
    source, stacked = TimmAffinity(model, options=options, feature=feature).eval(), {}
    source.trunk.blocks[-1].attn.qkv.register_forward_hook(lambda *call: stacked.update(qkv=call[2]))
    image = torch.randn(1, 3, 32, 40)
    source.trunk.forward_features(image)
    q, k, v = stacked["qkv"][:, 1:].chunk(3, dim=-1)
    expected = {"q": q, "k": k, "v": v, "qk": q + k}[feature]
    torch.testing.assert_close(source(image).flatten(2).transpose(1, 2), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_position_rule_is_dinos_where_it_is_asked_for():
    model, options = MODELS[0]
    source = TimmAffinity(model, options=options, position_resize="scale_factor").eval()
    image = torch.randn(1, 3, 40, 56)
    own = resize_positions(source.trunk.pos_embed[0], (4, 4), (5, 7), "scale_factor")
    patches = source.trunk.patch_embed.proj(image).flatten(2).transpose(1, 2)
    x = torch.cat([source.trunk.cls_token, patches], dim=1) + own
    for block in source.trunk.blocks:
        x = block(x)
    torch.testing.assert_close(
        source(image).flatten(2).transpose(1, 2), source.trunk.norm(x)[:, 1:], atol=1e-5, rtol=1e-5
    )


@torch.no_grad()
@pytest.mark.parametrize("rule", ["antialias", "scale_factor"])
def test_registers_stand_between_class_token_and_patches(rule):
    model, options = MODELS[2]
    source = TimmAffinity(model, options=options, position_resize=rule).eval()
    plain = TimmAffinity(model, options=options).eval()
    plain.load_state_dict(source.state_dict())
    image = torch.randn(1, 3, 56, 56)  # the trained grid: nothing is resized
    torch.testing.assert_close(source(image), plain(image), atol=1e-5, rtol=1e-5)


def training_checkpoint(state):
    """As a self-supervised training writes it: student and teacher, each with a projection head."""
    teacher = {f"backbone.{key}": value for key, value in state.items()} | {"head.mlp.0.weight": torch.zeros(2, 2)}
    student = {f"module.{key}": torch.zeros_like(value) for key, value in teacher.items()}
    return {"student": student, "teacher": teacher, "epoch": 3}


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model", "training"])
def test_weights_come_from_a_file(tmp_path, wrapper):
    model, options = MODELS[0]
    source, path = TimmAffinity(model, options=options), tmp_path / "dino.pth"
    state = source.trunk.state_dict()
    contents = {None: state, "training": training_checkpoint(state)}
    torch.save(contents.get(wrapper, {wrapper: state}), path)
    target = TimmAffinity(model, options=options, pretrained=str(path))
    target.ensure_weights()
    image = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(target.eval()(image), source.eval()(image))


def test_weights_that_do_not_fit_are_named(tmp_path):
    model, options = MODELS[0]
    state = TimmAffinity(model, options=options).trunk.state_dict()
    del state["norm.weight"]
    torch.save(state, tmp_path / "dino.pth")
    with pytest.raises(ValueError, match=r"norm\.weight"):
        TimmAffinity(model, options=options, pretrained=tmp_path / "dino.pth").ensure_weights()
    with pytest.raises(FileNotFoundError, match=r"absent\.pth"):
        TimmAffinity(model, options=options, pretrained="absent.pth").ensure_weights()
    with pytest.raises(KeyError, match="dino_vitb9"):
        TimmAffinity(model, options=options, pretrained="dino_vitb9").ensure_weights()


def test_timms_own_weights_have_a_record():
    record = TimmAffinity("vit_base_patch14_reg4_dinov2.lvd142m", options=MODELS[2][1])._hub_record()
    assert record.repo == "timm/vit_base_patch14_reg4_dinov2.lvd142m"
    assert record.licence == "apache-2.0"


@pytest.mark.parametrize("model", ["resnet18", "vit_none_patch8_224.dino"])
def test_other_models_are_refused(model):
    with pytest.raises(ValueError, match=model):
        TimmAffinity(model)
    with pytest.raises(ValueError, match="norm, q, k, v, qk"):
        TimmAffinity(MODELS[0][0], options=MODELS[0][1], feature="attention")


def as_hugging_face(tower):
    """An image tower alone in the layout of Hugging Face's CLIPVisionModel, as MLCD is published."""
    state = {}
    for key, value in tower.state_dict().items():
        name = key
        for old, new in [
            ("class_embedding", "embeddings.class_embedding"), ("conv1.weight", "embeddings.patch_embedding.weight"),
            ("positional_embedding", "embeddings.position_embedding.weight"), ("ln_pre.", "pre_layrnorm."),
            ("ln_post.", "post_layernorm."), ("transformer.resblocks.", "encoder.layers."),
            (".attn.out_proj.", ".self_attn.out_proj."), (".ln_1.", ".layer_norm1."), (".ln_2.", ".layer_norm2."),
            (".mlp.c_fc.", ".mlp.fc1."), (".mlp.c_proj.", ".mlp.fc2."),
        ]:  # fmt: skip
            name = name.replace(old, new)
        if ".attn.in_proj_" in name:
            stem, _, leaf = name.partition(".attn.in_proj_")
            for member, part in zip("qkv", value.chunk(3), strict=True):
                state[f"vision_model.{stem}.self_attn.{member}_proj.{leaf}"] = part.clone()
        else:
            state[f"vision_model.{name}"] = value.clone()
    return state


@torch.no_grad()
@pytest.mark.parametrize("feature", ["norm", "qk"])
def test_mlcds_image_tower_is_a_source_without_words(tmp_path, feature):
    numbers = {
        "embed_dim": 64, "image_resolution": 32, "vision_layers": 2, "vision_width": 64, "vision_patch_size": 8,
    }  # fmt: skip
    config = ClipConfig.from_openai_numbers(numbers)
    tower = DenseViT(config.vision, embed_dim=0).eval()
    path = tmp_path / "mlcd.safetensors"
    write_safetensors(path, as_hugging_face(tower), {})
    source = ClipAffinity({"model": "auto", "pretrained": str(path)}, feature=feature).eval()
    source.ensure_weights()
    image = torch.randn(1, 3, 32, 32)
    patches, grid = tower.embed_patches(image)
    tokens = tower.add_class_token(patches, tower.positions(grid))
    before = tower.blocks[0](tokens)
    q, k, _ = tower.blocks[1].attn.project(tower.blocks[1].ln_1(before))
    both = (q + k).transpose(1, 2).flatten(2)
    expected = tower.ln_post(tower.blocks[1](before)) if feature == "norm" else both
    torch.testing.assert_close(source(image).flatten(2).transpose(1, 2), expected[:, 1:], atol=1e-5, rtol=1e-5)


def test_resnets_have_no_patches_to_compare():
    with pytest.raises(ValueError, match="no image transformer"):
        ClipAffinity({"model": "RN50"})


def test_timm_towers_of_clip_serve_too():
    source = ClipAffinity({"model": "ViT-B-16-SigLIP"}).eval()
    assert source.stride == 16
    assert F.normalize(source(torch.randn(1, 3, 32, 48)), dim=1).shape == (1, 768, 2, 3)


@torch.no_grad()
@pytest.mark.parametrize("feature", ["k", "norm"])
def test_dinos_two_forms_read_one_file_and_agree(tmp_path, feature):
    """The form that opens the last block (teachers) and timm's (affinities): same file, same features."""
    model, options = MODELS[0]
    source, path = TimmAffinity(model, options=options), tmp_path / "dino.pth"
    torch.save(training_checkpoint(source.trunk.state_dict()), path)
    timm_form = TimmAffinity(model, options=options, pretrained=path, position_resize="scale_factor", feature=feature)
    timm_form.ensure_weights()
    own_form = DinoViT(infer_dino_config(dino_state(read_tensors(path)), heads=options["num_heads"])).eval()
    own_form.load_published(path)
    image = torch.randn(2, 3, 40, 56)
    features = own_form.features(image, with_tokens=True)
    expected = features.key if feature == "k" else features.tokens
    torch.testing.assert_close(timm_form.eval()(image), expected, atol=1e-5, rtol=1e-5)
