import pytest
import torch
import torch.nn.functional as F

from mmseg_plugins.towers.config import VisionConfig
from mmseg_plugins.towers.dense import DenseOptions, Steering
from mmseg_plugins.towers.resnet import ModifiedResNet

CLOSE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture
def tower(draw):
    config = VisionConfig(family="resnet", image_size=(64, 64), width=4, layers=(1, 1, 1, 1), heads=4)
    return draw(ModifiedResNet(config, embed_dim=6)).eval()


@pytest.fixture
def image():
    return torch.randn(2, 3, 96, 64, generator=torch.Generator().manual_seed(1))


def linear(vectors, layer):
    return vectors @ layer.weight.T + layer.bias


def test_dense_features_are_the_value_path_of_the_pool_place_by_place(tower, image):
    features = tower.forward_dense(image, DenseOptions(qkv=True, ordinary=True))
    layer4 = tower.forward_stages(image)[-1]
    assert features.grid == (3, 2)
    for place in range(6):
        vector = layer4[:, :, place // 2, place % 2]
        value = linear(vector, tower.attnpool.v_proj)
        torch.testing.assert_close(features.value[:, place], value, **CLOSE)
        torch.testing.assert_close(features.key[:, place], linear(vector, tower.attnpool.k_proj), **CLOSE)
        torch.testing.assert_close(features.query[:, place], linear(vector, tower.attnpool.q_proj), **CLOSE)
        pixels = features.pixels[:, :, place // 2, place % 2]
        torch.testing.assert_close(pixels, linear(value, tower.attnpool.c_proj), **CLOSE)
    torch.testing.assert_close(features.cls, tower.encode_image(image))


def test_attention_pooling_attends_from_every_place_to_all_and_their_mean(tower, image):
    pool = tower.attnpool
    got = tower.forward_dense(image, DenseOptions(attention_pooling=True)).pixels
    for index, layer4 in enumerate(tower.forward_stages(image)[-1]):
        places = layer4.flatten(1).T
        tokens = torch.cat([places.mean(0, keepdim=True), places])
        q, k, v = (linear(tokens, layer).chunk(4, dim=1) for layer in (pool.q_proj, pool.k_proj, pool.v_proj))
        heads = [torch.softmax(a @ b.T / a.shape[1] ** 0.5, dim=1) @ c for a, b, c in zip(q, k, v, strict=True)]
        wanted = linear(torch.cat(heads, dim=1), pool.c_proj)[1:].T.unflatten(1, (3, 2))
        torch.testing.assert_close(got[index], wanted, **CLOSE)


def test_stages_have_strides_4_to_32_and_can_be_tapped(tower, image):
    stages = tower.forward_stages(image)
    assert [tuple(stage.shape[1:]) for stage in stages] == [(16, 24, 16), (32, 12, 8), (64, 6, 4), (128, 3, 2)]
    extras = tower.forward_dense(image, DenseOptions(taps=("stage/1", "stage/4"))).extras
    torch.testing.assert_close(extras["stage/1"], stages[0])
    torch.testing.assert_close(extras["stage/4"], stages[3])


def test_average_pools_round_down(tower):
    assert tower.forward_dense(torch.zeros(1, 3, 94, 70)).grid == (2, 2)
    assert tower.forward_dense(torch.zeros(1, 3, 94, 70), DenseOptions(padding="corner")).grid == (3, 3)


def test_an_image_below_one_place_is_padded_or_refused(tower):
    assert tower.forward_dense(torch.zeros(1, 3, 1, 50)).grid == (1, 1)
    with pytest.raises(ValueError, match="stride of 32"):
        tower.encode_image(torch.zeros(1, 3, 1, 50))


def test_pool_positions_are_resized_for_another_size(tower, image):
    table = tower.attnpool.positional_embedding
    grid = F.interpolate(table[1:].T.reshape(1, -1, 2, 2), (3, 2), mode="bicubic", align_corners=False)
    layer4 = tower.forward_stages(image)[-1]
    tokens = layer4.flatten(2).transpose(1, 2)
    tokens = torch.cat([tokens.mean(1, keepdim=True), tokens], 1) + torch.cat([table[:1], grid[0].flatten(1).T])
    wanted = tower.attnpool.attend(tokens[:, :1], tokens)[:, 0]
    torch.testing.assert_close(tower.encode_image(image), wanted, **CLOSE)


@pytest.mark.parametrize("options", [{"rule": "qq"}, {"stream": "parallel"}, {"first_block": 0}, {"heads": "sum"}])
def test_switches_of_a_transformer_are_refused(tower, image, options):
    with pytest.raises(ValueError, match="no transformer blocks to change"):
        tower.forward_dense(image, DenseOptions(**options))


def test_steering_and_unknown_taps_are_refused(tower, image):
    with pytest.raises(ValueError, match="steering"):
        tower.forward_dense(image, steering=Steering())
    with pytest.raises(ValueError, match="Unknown tap 'block/1'"):
        tower.forward_dense(image, DenseOptions(taps=("block/1",)))


@torch.enable_grad()
def test_gradients_reach_the_image(tower, image):
    image.requires_grad_(True)
    tower.forward_dense(image).pixels.sum().backward()
    assert image.grad.abs().sum() > 0
