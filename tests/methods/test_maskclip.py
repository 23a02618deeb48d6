from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from mmengine.runner.checkpoint import load_checkpoint

from mmseg_plugins.cases import Case, verify
from mmseg_plugins.methods.maskclip.model import MaskCLIP
from mmseg_plugins.methods.maskclip.refine import denoise_prompts, key_affinity, smooth_with_keys
from mmseg_plugins.towers.config import ClipConfig

FIXTURES = Path(__file__).parent.parent / "fixtures" / "maskclip"
CASES = ["vit_small", "rn50_small", "rn50_small_native", "text_small"]


@pytest.mark.parametrize("name", CASES)
def test_reference_case_agrees(name):
    results = verify(Case.load(FIXTURES / f"{name}.json"))
    assert results
    assert [result for result in results if not result.passed] == []


def test_denoising_suppresses_only_classes_that_are_nowhere_confident():
    logits = torch.tensor([[[0.5, 0.0]], [[0.0, 0.5]], [[0.1, 0.1]]])[None]
    denoised = denoise_prompts(logits, 0.5)
    torch.testing.assert_close(denoised[:, :2], logits[:, :2])
    assert (denoised[:, 2] == -100).all()


def test_thresholds_of_zero_leave_cosines_unchanged():
    logits, keys = torch.rand(2, 3, 2, 2), torch.rand(2, 4, 5)
    assert denoise_prompts(logits, 0) is logits
    assert smooth_with_keys(logits, keys, 0) is logits


def test_smoothing_equals_a_loop_over_positions():
    torch.manual_seed(0)
    logits, keys = torch.rand(1, 3, 2, 3) * 0.05, torch.randn(1, 6, 4)
    smoothed = smooth_with_keys(logits, keys, 0.6, key_norm="channel_axis")
    probabilities = (100 * logits[0]).softmax(0).flatten(1)
    for n in range(6):
        expected = probabilities[:, n]
        if expected.max() < 0.6:
            expected = sum(F.cosine_similarity(keys[0, n], keys[0, m], dim=0) * probabilities[:, m] for m in range(6))
        torch.testing.assert_close(smoothed[0].flatten(1)[:, n], expected)


def test_key_norms_differ_as_documented():
    keys = torch.randn(2, 6, 4)
    torch.testing.assert_close(key_affinity(keys, "channel_axis").diagonal(dim1=1, dim2=2), torch.ones(2, 6))
    scaled = keys / keys.norm(dim=1, keepdim=True)
    torch.testing.assert_close(key_affinity(keys, "token_axis"), scaled @ scaled.transpose(1, 2))


def build(family, **options):
    layers, width, patch, heads = (2, 32, 8, 2) if family == "vit" else ((1, 1, 1, 1), 8, None, 4)
    numbers = {
        "embed_dim": 16, "image_resolution": 64, "vision_layers": layers, "vision_width": width,
        "vision_patch_size": patch,
    }  # fmt: skip
    config = ClipConfig.from_openai_numbers(numbers, vision_heads=heads)
    return MaskCLIP(clip={"model": config, "text": False}, vocabulary=["a"], text_cache=False, **options).eval()


def as_release(visual):
    """The release's *_clip_weights.pth of an image tower, by the conversion table read backwards."""
    trunk, projections = {}, {}
    stem = {"conv1": 0, "bn1": 1, "conv2": 3, "bn2": 4, "conv3": 6, "bn3": 7}
    for key, value in visual.state_dict().items():
        first, _, rest = key.partition(".")
        if key == "proj":
            projections["proj"] = {"weight": value.T[:, :, None, None]}
        elif first == "attnpool":
            name, _, leaf = rest.partition(".")
            if name != "positional_embedding":
                projections.setdefault(name, {})[leaf] = value[:, :, None, None] if leaf == "weight" else value
        elif key == "class_embedding":
            trunk["cls_token"] = value[None, None]
        elif key == "positional_embedding":
            trunk["pos_embed"] = value[None]
        elif hasattr(visual, "transformer"):
            for old, new in [
                ("conv1.", "patch_embed.projection."), ("ln_pre.", "ln0."), ("ln_post.", "ln1."),
                ("transformer.resblocks.", "layers."), (".attn.", ".attn.attn."), ("mlp.c_fc.", "ffn.layers.0.0."),
                ("mlp.c_proj.", "ffn.layers.1."), (".ln_1.", ".ln1."), (".ln_2.", ".ln2."),
            ]:  # fmt: skip
                key = key.replace(old, new)
            trunk[key] = value
        elif first in stem:
            trunk[f"stem.{stem[first]}.{rest}"] = value
        else:
            trunk[key.replace("downsample.1.", "downsample.2.").replace("downsample.0.", "downsample.1.")] = value
    return {"clip": trunk, **projections}


@pytest.mark.parametrize("family", ["vit", "resnet"])
def test_files_of_the_release_load_through_mmengine(family, tmp_path):
    source, target = build(family), build(family)
    torch.save(as_release(source.clip.visual), tmp_path / "weights.pth")
    load_checkpoint(target, str(tmp_path / "weights.pth"))
    image = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(target.dense_features(image).pixels, source.dense_features(image).pixels)


def test_the_other_file_of_the_release_says_which_one_to_load():
    state = {f"backbone.{key}": value for key, value in as_release(build("vit").clip.visual)["clip"].items()}
    with pytest.raises(ValueError, match=r"_clip_weights\.pth"):
        build("vit").load_state_dict(state)


def test_attention_pooling_and_smoothing_exclude_each_other():
    with pytest.raises(ValueError, match="key smoothing needs the value path"):
        build("resnet", ks_thresh=1.0, dense={"attention_pooling": True})


@pytest.mark.parametrize("options", [{"key_norm": "rows"}, {"ks_thresh": 1.5}, {"pd_thresh": -0.1}])
def test_switches_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        build("vit", **options)


@pytest.mark.parametrize("dense", [{}, {"position_match": "count"}])
def test_token_count_alone_decides_the_resize_only_when_asked(dense):
    model = build("vit", dense=dense)
    torch.manual_seed(0)
    model.clip.visual.positional_embedding.data.normal_()
    table = model.clip.visual.positional_embedding[1:]
    used = model.clip.visual.positions((4, 16), match=model.dense.position_match)[1:]
    assert torch.equal(used, table) is (dense != {})
