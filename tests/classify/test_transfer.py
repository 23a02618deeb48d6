import math

import pytest
import torch
from torch import nn

from mmseg_plugins.classify.tokens import image_tokens, reorder_channels
from mmseg_plugins.classify.transfer import ContentDependentTransfer, sine_code

D, HEADS = 8, 2


def transfer(variant="semantic", **options):
    torch.manual_seed(0)
    module = ContentDependentTransfer(embed_dim=D, heads=HEADS, variant=variant, **options).eval()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module


def slow_transfer(module, rows, tokens):
    """The equations, one image and one head at a time."""
    layer, results = module.cross_atten, []
    weight_q, weight_k, weight_v = layer.multihead_attn.in_proj_weight.chunk(3)
    bias_q, bias_k, bias_v = layer.multihead_attn.in_proj_bias.chunk(3)
    for image in tokens:
        values = image.flatten(1).T
        keys = values + slow_code(D, *image.shape[1:]).flatten(1).T
        q, k, v = rows @ weight_q.T + bias_q, keys @ weight_k.T + bias_k, values @ weight_v.T + bias_v
        width = D // HEADS
        parts = [slice(i * width, (i + 1) * width) for i in range(HEADS)]
        mixed = torch.cat([(q[:, p] @ k[:, p].T / math.sqrt(width)).softmax(-1) @ v[:, p] for p in parts], dim=1)
        moved = layer.MLP(layer.multihead_attn.out_proj(mixed))
        results.append(layer.norm(rows + moved) if module.variant == "semantic" else rows + layer.norm(moved))
    return torch.stack(results)


def slow_code(width, height, columns):
    code, half = torch.zeros(width, height, columns), width // 2
    for i in range(height):
        for j in range(columns):
            places = (i + 1) / (height + 1e-6), (j + 1) / (columns + 1e-6)
            for axis, place in enumerate(places):
                for k in range(half):
                    angle = 2 * math.pi * place / 10000 ** (2 * (k // 2) / half)
                    code[axis * half + k, i, j] = math.cos(angle) if k % 2 else math.sin(angle)
    return code


@pytest.mark.parametrize("variant", ["semantic", "panoptic"])
def test_transfer_equals_the_equations(variant):
    module, rows, tokens = transfer(variant), torch.randn(5, D), torch.randn(2, D, 3, 4)
    torch.testing.assert_close(module(rows, tokens), slow_transfer(module, rows, tokens), atol=1e-5, rtol=1e-5)


def test_rows_of_their_own_per_image_are_moved_by_their_own_image():
    module, rows, tokens = transfer(), torch.randn(2, 5, D), torch.randn(2, D, 3, 4)
    whole = module(rows, tokens)
    for i in range(2):
        torch.testing.assert_close(whole[i], module(rows[i], tokens[i : i + 1])[0])


def test_position_code_equals_its_formula():
    torch.testing.assert_close(sine_code(12, (3, 5)), slow_code(12, 3, 5), atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="even"):
        sine_code(7, (2, 2))


def test_panoptic_variant_starts_as_the_identity_and_the_semantic_one_does_not():
    rows, tokens = torch.randn(5, D), torch.randn(1, D, 3, 4)
    fresh = ContentDependentTransfer(embed_dim=D, heads=HEADS, variant="panoptic")
    torch.testing.assert_close(fresh(rows, tokens)[0], rows)
    fresh = ContentDependentTransfer(embed_dim=D, heads=HEADS, variant="semantic")
    assert (fresh(rows, tokens)[0] - rows).abs().max() > 0.1


def test_published_parameter_names():
    names = {name for name, _ in transfer().named_parameters()}
    attention = {f"cross_atten.multihead_attn.{n}" for n in ("in_proj_weight", "in_proj_bias")}
    attention |= {f"cross_atten.multihead_attn.out_proj.{n}" for n in ("weight", "bias")}
    assert names == attention | {f"cross_atten.{m}.{n}" for m in ("norm", "MLP") for n in ("weight", "bias")}


def test_sizes_of_the_published_models():
    count = lambda width: sum(p.numel() for p in ContentDependentTransfer(embed_dim=width).parameters())  # noqa: E731
    assert (count(640), count(768)) == (2_052_480, 2_954_496)


def test_an_open_variant_refuses_to_run_and_names_the_option():
    module = transfer(None)
    with pytest.raises(ValueError, match="variant='semantic'"):
        module(torch.randn(2, D), torch.randn(1, D, 2, 2))


def test_checkpoints_carry_variant_and_order():
    saved = transfer("panoptic", token_order="channels_last").state_dict()
    module = ContentDependentTransfer(embed_dim=D, heads=HEADS)
    module.load_state_dict(saved)
    assert (module.variant, module.token_order) == ("panoptic", "channels_last")


@pytest.mark.parametrize("options", [{"variant": "semantic"}, {"token_order": "legacy"}])
def test_a_checkpoint_that_contradicts_the_configuration_is_refused(options):
    saved = transfer("panoptic", token_order="channels_last").state_dict()
    with pytest.raises((ValueError, RuntimeError), match=next(iter(options))):
        ContentDependentTransfer(embed_dim=D, heads=HEADS, **options).load_state_dict(saved)


def test_legacy_order_cuts_memory_into_runs_of_channels():
    features = torch.arange(2 * 3 * 2 * 2.0).reshape(2, 3, 2, 2)
    tokens = image_tokens(features, lambda x: x, "legacy")
    for image in range(2):
        for n in range(4):
            expected = features[image].flatten()[n * 3 : (n + 1) * 3]
            torch.testing.assert_close(tokens[image, :, n // 2, n % 2], expected)


def test_channels_last_order_gives_the_vector_of_each_position_also_of_strided_maps():
    features = torch.randn(2, 3, 4, 5)
    torch.testing.assert_close(image_tokens(features, lambda x: x, "channels_last"), features)
    strided = features.contiguous(memory_format=torch.channels_last)
    for order in ("legacy", "channels_last"):
        torch.testing.assert_close(reorder_channels(strided, order), reorder_channels(features, order))


def test_unknown_choices_are_named():
    with pytest.raises(ValueError, match="legacy"):
        reorder_channels(torch.zeros(1, 1, 1, 1), "scrambled")
    with pytest.raises(ValueError, match="panoptic"):
        transfer("instance")
    with pytest.raises(ValueError, match="width 8"):
        transfer()(torch.zeros(1, 7), torch.zeros(1, D, 1, 1))
