"""Tiers that the pooling tests run in, each through the public functions."""

import pytest

from mmseg_plugins.ops import _dispatch, _load


def _compiled():
    status = _load.STATUS["cpu"]
    reason = f"the compiled CPU ops are not loaded: {status.reason}"
    return pytest.param("compiled", marks=[pytest.mark.compiled, pytest.mark.skipif(not status.loaded, reason=reason)])


@pytest.fixture(params=["eager", "eager op", _compiled()])
def impl(request, monkeypatch):
    """``impl`` to pass: the differentiable version, the eager operators with their own gradients, the compiled ones."""
    if request.param == "eager op":
        monkeypatch.setattr(_dispatch, "_forced_tier", lambda impl, tensors: _load.EAGER)
        return "auto"
    return {"eager": "eager", "compiled": "cpu"}[request.param]


@pytest.fixture(params=["eager op", _compiled()])
def dispatched(request, monkeypatch):
    """The same without the version that is ordinary PyTorch all through."""
    if request.param == "eager op":
        monkeypatch.setattr(_dispatch, "_forced_tier", lambda impl, tensors: _load.EAGER)
    return "auto"
