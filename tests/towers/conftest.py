"""Small towers with every weight drawn, so that no bias or norm hides behind its initial value."""

import pytest
import torch

from mmseg_plugins.towers.config import VisionConfig
from mmseg_plugins.towers.vit import DenseViT


def draw_weights(module, seed=0, scale=0.3):
    """Fill every floating parameter and buffer; deterministic."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if not value.is_floating_point():
                continue
            noise = torch.randn(value.shape, generator=generator)
            fan_in = value[0].numel() if value.ndim > 1 else 1
            if name.endswith("running_var"):
                value.copy_(1 + noise.abs() * 0.1)
            elif value.ndim > 1:
                value.copy_(noise / fan_in**0.5)
            else:
                value.copy_((1 if name.endswith("weight") else 0) + scale * noise)
    return module


@pytest.fixture
def draw():
    return draw_weights


@pytest.fixture
def small_config():
    return VisionConfig(image_size=(32, 32), width=24, layers=4, heads=3, patch=8, act="quick_gelu")


@pytest.fixture
def small_vit(small_config):
    return draw_weights(DenseViT(small_config, embed_dim=10)).eval()


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield
