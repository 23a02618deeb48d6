import pytest
import torch

from mmseg_plugins.methods.maskclip.model import MaskCLIP
from mmseg_plugins.towers.config import ClipConfig

NUMBERS = {
    "embed_dim": 16, "image_resolution": 32, "vision_layers": 2, "vision_width": 32, "vision_patch_size": 8,
    "context_length": 77, "vocab_size": 49408, "transformer_width": 16, "transformer_heads": 2, "transformer_layers": 1,
}  # fmt: skip


def build_model(**options):
    torch.manual_seed(0)
    config = ClipConfig.from_openai_numbers(NUMBERS, vision_heads=2)
    options = {"vocabulary": {"source": "cat; dog, puppy; sky", "templates": ["a {}."]}, **options}
    return MaskCLIP(clip={"model": config}, text_cache=False, **options).eval()


@pytest.fixture
def model():
    return build_model()


@pytest.fixture
def openai_state(model):
    """State of the same model under OpenAI's names, other values."""
    state = {}
    for key, value in model.state_dict().items():
        name = key.removeprefix("clip.").removeprefix("text.")
        state[name] = torch.randn_like(value) * 0.1
    return state
