import pytest
import torch
import torch.nn.functional as F

from mmseg_plugins.classify.features import ClipMaskFeatures
from mmseg_plugins.methods.mask_adapter.adapter import MaskAdapter
from mmseg_plugins.methods.mask_adapter.classifier import MaskAdapterClassifier, pooling_weights
from tests.methods.mask_adapter.models import published_form


def make(**options):
    torch.manual_seed(0)
    adapter = MaskAdapter(**{"embed_dim": 12, "width": 16, "num_maps": 3, "mask_channels": 8, **options})
    for block in adapter.blocks:
        torch.nn.init.normal_(block.gamma)  # otherwise 1e-6, and the blocks do nothing
    for norm in (adapter.norm, adapter.mask_downscaling[1], adapter.mask_downscaling[4]):
        torch.nn.init.normal_(norm.weight)
    return adapter.eval()


@pytest.mark.parametrize("chunk", [None, 1, 2, 32])
@pytest.mark.parametrize("grid", [(4, 6), (5, 3)])
@torch.no_grad()
def test_folding_and_chunking_give_what_the_published_form_gives(chunk, grid):
    adapter = make(chunk=chunk)
    dense, masks = torch.randn(2, 12, *grid), torch.rand(2, 5, 40, 48) > 0.5
    got = adapter(dense, masks)
    assert got.shape == (2, 15, *grid)
    torch.testing.assert_close(got, published_form(adapter, dense, masks), atol=1e-5, rtol=1e-5)


def test_gradients_are_those_of_the_published_form():
    adapter = make(chunk=2).double().train()
    dense, masks = torch.randn(2, 12, 4, 4).double(), (torch.rand(2, 3, 16, 16) > 0.5).double()
    adapter.forward(dense, masks).square().sum().backward()
    got = {name: parameter.grad.clone() for name, parameter in adapter.named_parameters()}
    adapter.zero_grad()
    resized = adapter.mask_downscaling(masks.reshape(6, 1, 16, 16))
    maps = adapter.fuse(dense.repeat_interleave(3, 0) + resized)
    for block in adapter.blocks:
        maps = block(maps)
    adapter.final(adapter.norm(maps)).square().sum().backward()
    for name, parameter in adapter.named_parameters():
        torch.testing.assert_close(got[name], parameter.grad, msg=name)


@torch.no_grad()
def test_a_mask_does_not_depend_on_the_others():
    adapter = make()
    dense, masks = torch.randn(1, 12, 4, 4), torch.rand(1, 4, 16, 16)
    alone = torch.cat([adapter(dense, masks[:, index : index + 1]) for index in range(4)], dim=1)
    torch.testing.assert_close(adapter(dense, masks), alone, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_half_precision_blocks_stay_near_and_return_float32():
    exact, half = make(), make(half="bfloat16")
    half.load_state_dict(exact.state_dict())
    dense, masks = torch.randn(1, 12, 4, 4), torch.rand(1, 4, 16, 16)
    expected, got = exact(dense, masks), half(dense, masks)
    assert got.dtype == torch.float32
    difference = (got - expected).abs().max()
    assert 0 < difference < 0.05 * expected.abs().max()


def test_published_sizes_have_the_published_number_of_parameters():
    with torch.device("meta"):
        for width, millions in ((768, 14.91), (640, 14.81)):
            adapter = MaskAdapter(embed_dim=width)
            assert sum(parameter.numel() for parameter in adapter.parameters()) == pytest.approx(
                millions * 1e6, rel=5e-4
            )
            assert len(adapter.state_dict()) == 43


@pytest.mark.parametrize(
    ("options", "message"),
    [({"mask_channels": 6}, "multiple of 4"), ({"chunk": -1}, "positive"), ({"half": "float8"}, "bfloat16")],
)
def test_sizes_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


@pytest.mark.parametrize(
    ("dense", "masks", "message"),
    [((1, 8, 4, 4), (1, 2, 8, 8), "embed_dim"), ((1, 12, 4, 4), (2, 2, 8, 8), "same images")],
)
def test_inputs_are_checked(dense, masks, message):
    with pytest.raises(ValueError, match=message):
        make()(torch.zeros(dense), torch.zeros(masks))


# --- the classifier ---------------------------------------------------------------------------------------------------


def features(batch=1, grid=(4, 5)):
    torch.manual_seed(1)
    head = torch.nn.Linear(7, 12)
    return ClipMaskFeatures(dense=torch.randn(batch, 7, *grid), project=lambda x: F.gelu(head(x)))


def classifier(**options):
    torch.manual_seed(0)
    return MaskAdapterClassifier(**{"embed_dim": 12, "width": 16, "num_maps": 3, "mask_channels": 8, **options}).eval()


@torch.no_grad()
def test_maps_pool_before_the_head_and_the_mean_comes_last():
    model, image = classifier(), features(2)
    logits = torch.randn(2, 3, 16, 20)
    maps = model.maps(image, logits > 0)
    weights = maps.sigmoid().flatten(2)
    weights = weights / weights.sum(-1, keepdim=True)
    pooled = torch.einsum("bmp,bcp->bmc", weights, image.dense.flatten(2))
    expected = image.project(pooled).reshape(2, 3, 3, 12).mean(2)
    torch.testing.assert_close(model(image, logits), expected, atol=1e-5, rtol=1e-5)
    shown = model.activation_maps(image, logits)
    assert shown.shape == (2, 3, 3, 4, 5)
    torch.testing.assert_close(shown.flatten(1, 2).flatten(2), weights, atol=1e-6, rtol=1e-5)


def test_weights_do_not_underflow():
    weights = pooling_weights(torch.full((1, 2, 3, 3), -200.0), 2)
    torch.testing.assert_close(weights, torch.full((1, 1, 2, 3, 3), 1 / 9))


@pytest.mark.parametrize("threshold", [0.4, 0.45, 0.5])
def test_binarising_compares_probabilities(threshold):
    logits = torch.linspace(-2, 2, 4001).reshape(1, 1, 1, -1)
    assert torch.equal(classifier(threshold=threshold).binarise(logits), logits.double().sigmoid() > threshold)


@torch.no_grad()
def test_empty_masks_and_no_masks_have_their_place():
    model, image = classifier(), features()
    assert model(image, torch.full((1, 2, 8, 8), -1.0)).isfinite().all()
    assert model(image, torch.zeros(1, 0, 8, 8)).shape == (1, 0, 12)


def test_compressed_masks_are_refused_with_the_remedy():
    with pytest.raises(ValueError, match="MaskAdapterSegmentor"):
        classifier()(features(), object())


def test_token_order_is_recorded_and_contradictions_are_refused():
    legacy = classifier(token_order="legacy")
    open_one, strict = classifier(), classifier(token_order="channels_last")
    open_one.load_state_dict(legacy.state_dict())
    assert open_one.token_order == "legacy"
    with pytest.raises(ValueError, match="token_order='legacy'"):
        strict.load_state_dict(legacy.state_dict())


def test_a_threshold_that_is_no_probability_is_refused():
    with pytest.raises(ValueError, match="threshold"):
        classifier(threshold=1.0)
