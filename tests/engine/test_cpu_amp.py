"""Mixed precision without an accelerator."""

import pytest
import torch
from mmseg.registry import OPTIM_WRAPPERS
from torch import nn

from mmseg_plugins.engine.cpu_amp import CPUAmpOptimWrapper, amp_wrapper_type


def wrapper(model, **options):
    return CPUAmpOptimWrapper(optimizer=torch.optim.SGD(model.parameters(), lr=0.1), **options)


def test_products_are_bfloat16_and_parameters_and_gradients_float32():
    model = nn.Linear(4, 4)
    optimizer = wrapper(model, loss_scale="dynamic")
    with optimizer.optim_context(model):
        output = model(torch.ones(2, 4))
    assert output.dtype == torch.bfloat16
    before = model.weight.detach().clone()
    optimizer.backward(output.float().square().mean())
    assert model.weight.dtype == model.weight.grad.dtype == torch.float32
    optimizer.step()
    assert not torch.equal(model.weight, before)
    assert model(torch.ones(2, 4)).dtype == torch.float32


def test_gradients_accumulate():
    model = nn.Linear(4, 4)
    optimizer = wrapper(model, accumulative_counts=2)
    before = model.weight.detach().clone()
    changed = []
    for _ in range(2):
        with optimizer.optim_context(model):
            loss = model(torch.ones(2, 4)).float().sum()
        optimizer.update_params(loss)
        changed.append(not torch.equal(model.weight, before))
    assert changed == [False, True]


def test_half_precision_is_refused():
    with pytest.raises(ValueError, match="bfloat16, but got dtype 'float16'"):
        wrapper(nn.Linear(1, 1), dtype="float16")


@pytest.mark.parametrize(("device", "expected"), [("cpu", "CPUAmpOptimWrapper"), ("cuda", "AmpOptimWrapper")])
def test_each_machine_has_its_registered_type(monkeypatch, device, expected):
    monkeypatch.setattr("mmseg_plugins.engine.cpu_amp.get_device", lambda: device)
    assert amp_wrapper_type() == expected
    assert OPTIM_WRAPPERS.get(expected) is not None
