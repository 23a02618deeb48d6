"""The model inside its wrappers."""

from torch import nn

from mmseg_plugins.engine.bare_model import bare_model


def test_every_wrapper_is_opened_and_a_model_alone_is_itself():
    model = nn.Linear(1, 1)
    assert bare_model(nn.DataParallel(nn.DataParallel(model))) is model
    assert bare_model(model) is model
