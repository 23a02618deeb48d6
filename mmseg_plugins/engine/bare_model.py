"""The model inside what mmengine puts around it."""

from torch import nn


def bare_model(model: nn.Module) -> nn.Module:
    """Return the model inside wrappers of data parallelism and of test-time augmentation, or the model itself."""
    while hasattr(model, "module"):
        model = model.module
    return model
