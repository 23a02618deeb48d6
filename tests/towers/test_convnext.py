import pytest
import torch

from mmseg_plugins.towers.config import VisionConfig
from mmseg_plugins.towers.convnext import ConvNeXt
from mmseg_plugins.towers.dense import DenseOptions, Steering
from mmseg_plugins.towers.staged import build_head

CLOSE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture(params=["linear", "mlp"])
def tower(request, draw):
    config = VisionConfig(
        family="convnext",
        timm_name="convnext_base",
        timm_proj=request.param,
        timm_options={"depths": [1, 1, 1, 1], "dims": [8, 12, 16, 20]},
    )
    return draw(ConvNeXt(config, embed_dim=6)).eval()


@pytest.fixture
def image():
    return torch.randn(2, 3, 96, 64, generator=torch.Generator().manual_seed(1))


def test_project_is_what_the_trunk_does_with_a_map_of_one_place(tower):
    vectors = torch.randn(5, 20)
    wanted = tower.head(tower.trunk.forward_head(vectors[:, :, None, None]))
    torch.testing.assert_close(tower.project(vectors), wanted, **CLOSE)


def test_dense_features_project_every_place(tower, image):
    features = tower.forward_dense(image, DenseOptions(taps=("stage/2",)))
    last = tower.forward_stages(image)[-1]
    torch.testing.assert_close(features.trunk, last)
    for place in range(6):
        wanted = tower.project(last[:, :, place // 2, place % 2])
        torch.testing.assert_close(features.pixels[:, :, place // 2, place % 2], wanted, **CLOSE)
    torch.testing.assert_close(features.cls, tower.encode_image(image))
    torch.testing.assert_close(features.extras["stage/2"], tower.forward_stages(image)[1])


def test_stages_have_strides_4_to_32(tower, image):
    shapes = [tuple(stage.shape[1:]) for stage in tower.forward_stages(image)]
    assert shapes == [(8, 24, 16), (12, 12, 8), (16, 6, 4), (20, 3, 2)]
    assert (tower.width, tower.stride, tower.embed_dim) == (20, 32, 6)


def test_small_images_are_padded_for_dense_features_only(tower):
    assert tower.forward_dense(torch.zeros(1, 3, 5, 40)).grid == (1, 1)
    with pytest.raises(ValueError, match="stride of 32"):
        tower.forward_stages(torch.zeros(1, 3, 5, 40))


@pytest.mark.parametrize("options", [{"rule": "kk"}, {"qkv": True}, {"attention_pooling": True}])
def test_attention_switches_are_refused(tower, image, options):
    with pytest.raises(ValueError, match="leave out"):
        tower.forward_dense(image, DenseOptions(**options))
    with pytest.raises(ValueError, match="steering"):
        tower.forward_dense(image, steering=Steering())


def test_unknown_projection_is_refused():
    with pytest.raises(ValueError, match="'conv'"):
        build_head(4, 3, "conv", False)
