import pytest
import torch
from mmengine.optim import build_optim_wrapper
from torch import nn

import mmseg_plugins.register  # noqa: F401
from mmseg_plugins.engine.parameter_groups import parameter_groups


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.norm, self.frozen = nn.Linear(3, 3), nn.LayerNorm(3), nn.Linear(3, 3)
        self.gamma = nn.Parameter(torch.ones(3))
        self.frozen.requires_grad_(False)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk, self.head, self.query = Block(), Block(), nn.Embedding(2, 3)
        self.alias = self.head.linear


SETTINGS = {"lr_mult": {"trunk.": 0.1}, "norm_decay_mult": 0.0, "embed_decay_mult": 0.0}


def wanted_of(name):
    rate = 1e-4 if name.startswith("trunk.") else 1e-3
    return rate, 0.0 if ".norm." in name or name.startswith("query") else 0.05


def test_rate_by_part_and_decay_by_kind_hold_together():
    model = Model()
    wrapper = build_optim_wrapper(
        model,
        {
            "type": "OptimWrapper",
            "constructor": "mmseg.PartsOptimWrapperConstructor",
            "optimizer": {"type": "AdamW", "lr": 1e-3, "weight_decay": 0.05},
            "paramwise_cfg": SETTINGS,
            "clip_grad": {"max_norm": 0.01},
        },
    )
    found = {
        id(parameter): (group["lr"], group["weight_decay"])
        for group in wrapper.optimizer.param_groups
        for parameter in group["params"]
    }
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert len(found) == len(trained) == sum(len(group["params"]) for group in wrapper.optimizer.param_groups)
    for name, parameter in trained.items():
        assert found[id(parameter)] == pytest.approx(wanted_of(name)), name


def test_the_longest_leading_text_counts_and_one_that_matches_nothing_is_an_error():
    groups = parameter_groups(Model(), lr=1.0, weight_decay=None, lr_mult={"trunk.": 0.1, "trunk.linear.": 0.5})
    assert sorted({group["lr"] for group in groups}) == [0.1, 0.5, 1.0]
    with pytest.raises(ValueError, match=r"trunk\.frozen"):
        parameter_groups(Model(), lr=1.0, weight_decay=None, lr_mult={"trunk.frozen.": 0.1})


def test_unknown_settings_are_named():
    from mmseg_plugins.engine.parameter_groups import PartsOptimWrapperConstructor

    with pytest.raises(ValueError, match="custom_keys"):
        PartsOptimWrapperConstructor({"optimizer": {"type": "SGD", "lr": 1.0}}, {"custom_keys": {}})
