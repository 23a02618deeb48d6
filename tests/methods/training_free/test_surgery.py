import torch
import torch.nn.functional as F

from mmseg_plugins.methods.training_free.surgery import (
    consistent_pool,
    feature_surgery,
    redundant_surgery,
    scale_maps,
)
from mmseg_plugins.towers.position import resize_positions
from mmseg_plugins.towers.resnet import AttentionPool


def unit(*shape):
    return F.normalize(torch.randn(*shape), dim=-1)


def test_surgery_equals_its_sum_over_all_texts():
    torch.manual_seed(0)
    tokens, text = unit(2, 5, 8), unit(4, 8)
    got = feature_surgery(tokens, tokens[:, 0], text)
    for b in range(2):
        p = (2 * text @ tokens[b, 0]).softmax(0)
        w = p / p.mean()
        for n in range(5):
            products = torch.stack([w[c] * tokens[b, n] * text[c] for c in range(4)])  # (texts, D)
            expected = torch.stack([(products[c] - products.mean(0)).sum() for c in range(4)])
            torch.testing.assert_close(got[b, n], expected, atol=1e-6, rtol=1e-5)


def test_redundant_feature_is_subtracted_from_the_texts():
    tokens, text, redundant = unit(1, 3, 8), unit(4, 8), unit(1, 8)
    expected = tokens @ text.T - tokens @ redundant.T
    torch.testing.assert_close(redundant_surgery(tokens, text, redundant), expected, atol=1e-6, rtol=1e-5)


def test_constant_maps_become_zero():
    scaled = scale_maps(torch.stack([torch.full((2, 2), 3.0), torch.arange(4.0).view(2, 2)]), (1, 2))
    assert torch.equal(scaled[0], torch.zeros(2, 2))
    torch.testing.assert_close(scaled[1], torch.arange(4.0).view(2, 2) / 3)


@torch.no_grad()
def test_consistent_pool_equals_its_equations():
    torch.manual_seed(0)
    pool, layer4 = AttentionPool((2, 2), 16, 4, 8).eval(), torch.randn(2, 16, 3, 4)
    pixels, cls = consistent_pool(pool, layer4)
    positions = resize_positions(pool.positional_embedding, (2, 2), (3, 4), "bilinear")
    for b in range(2):
        places = layer4[b].flatten(1).T
        tokens = torch.cat([places.mean(0, keepdim=True), places]) + positions
        v, q, k = (tokens @ p.weight.T + p.bias for p in (pool.v_proj, pool.q_proj, pool.k_proj))
        new, old = [], []
        for head in range(4):
            part = slice(4 * head, 4 * head + 4)
            sharp = v[:, part] / (v[:, part].norm(dim=1, keepdim=True) + 1e-6)
            new.append((8 * 4**-0.5 * sharp @ sharp.T).softmax(1) @ v[:, part])
            old.append((4**-0.5 * q[:, part] @ k[:, part].T).softmax(1) @ v[:, part])
        project = lambda heads: torch.cat(heads, dim=1) @ pool.c_proj.weight.T + pool.c_proj.bias  # noqa: E731
        torch.testing.assert_close(pixels[b].flatten(1).T, project(new)[1:], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(cls[b], project(old)[0], atol=1e-5, rtol=1e-5)
