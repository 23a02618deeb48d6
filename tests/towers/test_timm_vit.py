import pytest
import torch

from mmseg_plugins.towers.config import VisionConfig
from mmseg_plugins.towers.dense import DenseOptions, Steering
from mmseg_plugins.towers.timm_vit import TimmViT

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
_SIZES = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4}


def build(draw, name, pool, projection, embed_dim, **options):
    config = VisionConfig(
        family="timm", timm_name=name, timm_pool=pool, timm_proj=projection, timm_options={**_SIZES, **options}
    )
    return draw(TimmViT(config, embed_dim=embed_dim)).eval()


@pytest.fixture
def eva(draw):
    return build(draw, "eva02_base_patch16_clip_224", "token", None, 6)


@pytest.fixture
def siglip(draw):
    return build(draw, "vit_base_patch16_siglip_224", "map", "none", 32)


@pytest.fixture
def image():
    return torch.randn(2, 3, 40, 24, generator=torch.Generator().manual_seed(1))


def test_value_path_of_eva_normalises_the_context_before_its_projection(eva, image):
    trunk = eva.trunk
    tokens, rope = trunk._pos_embed(trunk.patch_embed(image))
    x = trunk.blocks[0](tokens, rope=rope)
    block, attn = trunk.blocks[1], trunk.blocks[1].attn
    value = block.norm1(x) @ attn.v_proj.weight.T + attn.v_proj.bias
    x = x + attn.proj(attn.norm(value))
    x = x + block.mlp(block.norm2(x))
    wanted = trunk.head(trunk.norm(x[:, 1:])).transpose(1, 2).unflatten(2, (5, 3))
    torch.testing.assert_close(eva.forward_dense(image).pixels, wanted, **CLOSE)


def test_attention_pool_of_siglip_is_replaced_by_its_value_path(siglip, image):
    trunk, pool = siglip.trunk, siglip.trunk.attn_pool
    tokens = trunk.forward_features(image)
    value = tokens @ pool.kv.weight[32:].T + pool.kv.bias[32:]
    value = pool.proj(value)
    value = value + pool.mlp(pool.norm(value))
    wanted = value.transpose(1, 2).unflatten(2, (5, 3))
    features = siglip.forward_dense(image)
    torch.testing.assert_close(features.pixels, wanted, **CLOSE)
    torch.testing.assert_close(features.cls, siglip.encode_image(image), **CLOSE)


def test_pooling_one_patch_is_its_dense_feature(siglip):
    # With a single key, attention is the identity on values: pool and value path are one.
    patch = torch.randn(3, 3, 8, 8)
    torch.testing.assert_close(siglip.forward_dense(patch).pixels[:, :, 0, 0], siglip.encode_image(patch), **CLOSE)


@pytest.mark.parametrize("rule", ["qk", "qq", "kk+vv"])
def test_other_rules_change_the_last_block(eva, siglip, image, rule):
    for tower in (eva, siglip):
        features = tower.forward_dense(image, DenseOptions(rule=rule, qkv=True, ordinary=True, taps=("tokens",)))
        assert features.pixels.shape == (2, tower.embed_dim, 5, 3)
        assert features.key.shape == (2, 15, 32)
        assert (rule == "qk") == torch.allclose(features.trunk, features.patch_tokens, atol=1e-5)


def test_steering_reaches_the_last_block(eva, image):
    steering = Steering(modify_weights=lambda weights, context: torch.eye(weights.shape[-1]).expand_as(weights))
    steered = eva.forward_dense(image, DenseOptions(rule="qq"), steering=steering).pixels
    torch.testing.assert_close(steered, eva.forward_dense(image).pixels, **CLOSE)


def test_any_size_is_taken(eva, siglip):
    for tower in (eva, siglip):
        assert tower.forward_dense(torch.zeros(1, 3, 1, 1)).grid == (1, 1)
        assert tower.forward_dense(torch.zeros(1, 3, 33, 50)).grid == (5, 7)
        assert tower.encode_image(torch.zeros(1, 3, 33, 50)).shape == (1, tower.embed_dim)
        assert tower.stride == 8


def test_trunks_that_are_no_plain_transformers_are_refused():
    config = VisionConfig(family="timm", timm_name="swin_tiny_patch4_window7_224", timm_pool="", timm_proj="linear")
    with pytest.raises(ValueError, match="swin_tiny.*not a plain transformer"):
        TimmViT(config, embed_dim=6)


def test_a_trunk_without_projection_must_have_the_joint_width(draw):
    with pytest.raises(ValueError, match="32 channels.*joint space of 6"):
        build(draw, "vit_base_patch16_siglip_224", "map", "none", 6)
