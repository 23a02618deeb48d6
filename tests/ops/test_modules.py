"""The pooling modules are the functions with fixed options."""

import pytest
import torch

from mmseg_plugins.ops import ActivationMapPooling, MaskPooling, mask_pool


def inputs():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 5, 6, 6, generator=generator), torch.randn(2, 8, 12, 12, generator=generator)


def test_defaults_are_the_hard_pool():
    assert torch.equal(MaskPooling()(*inputs()), mask_pool(*inputs()))


def test_options_reach_the_function(impl):
    options = {"mode": "gated", "threshold": 0.3, "eps": 1e-3, "resize": "features", "impl": impl}
    assert torch.equal(MaskPooling(**options)(*inputs()), mask_pool(*inputs(), **options))


@pytest.mark.parametrize("reduce", ["mean", "none"])
def test_activation_maps_are_pooled_per_map_or_averaged(reduce):
    module = ActivationMapPooling(maps_per_mask=4, reduce=reduce)
    pooled = module(*inputs())
    assert pooled.shape == (2, 2 if reduce == "mean" else 8, 5)
    assert torch.equal(pooled, mask_pool(*inputs(), mode="kmap", maps_per_mask=4, reduce=reduce))


def test_modules_hold_no_state_and_print_their_options():
    for module in (MaskPooling(), ActivationMapPooling()):
        assert not module.state_dict()
        assert "impl='auto'" in repr(module)


@pytest.mark.parametrize(
    ("module", "options", "message"),
    [
        (MaskPooling, {"mode": "soft"}, "`mode`"),
        (MaskPooling, {"resize": "both"}, "`resize`"),
        (MaskPooling, {"impl": "gpu"}, "`impl`"),
        (MaskPooling, {"eps": -1.0}, "`eps`"),
        (MaskPooling, {"precision": "half"}, "`precision`"),
        (ActivationMapPooling, {"reduce": "sum"}, "`reduce`"),
        (ActivationMapPooling, {"maps_per_mask": 0}, "`maps_per_mask`"),
    ],
)
def test_unknown_options_fail_at_construction(module, options, message):
    with pytest.raises(ValueError, match=message):
        module(**options)
