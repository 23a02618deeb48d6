"""Every attention preset and its published variants against the equations, written out block by block."""

import math

import pytest
import torch
import torch.nn.functional as F
from mmseg.structures import SegDataSample

from mmseg_plugins.methods.training_free.presets import PRESETS
from mmseg_plugins.towers.position import resize_positions
from tests.methods.training_free.reference import SlowTower, build

SIZE, GRID = (32, 24), (4, 3)
CLOSE = {"atol": 1e-5, "rtol": 1e-5}
KEPT, REDUCED = {"residual": True, "mlp": True}, {"residual": False, "mlp": False}


class Block:
    """One block's input as the equations name it: u, q, k, v and the two halves of the block."""

    def __init__(self, slow, block, x):
        self.slow, self.block, self.x = slow, block, x
        self.u = block.ln_1(x)
        self.q, self.k, self.v = slow.qkv(block, x)

    def attend(self, weights):
        return self.slow.out(self.block, weights, self.v)

    def kept(self, weights):
        y = self.x + self.attend(weights)
        return y + self.slow.mlp(self.block, y)


def identity(one):
    return torch.eye(one.v.shape[1]).expand(len(one.v), -1, -1)


def softmax_pairs(*pairs):
    def rule(one):
        return sum(one.slow.weights(getattr(one, a), getattr(one, b)) for a, b in pairs)

    return rule


def omega(std):
    """NACLIP's distance term, entry by entry, the class token's row and column 0."""
    cells = [(r, c) for r in range(GRID[0]) for c in range(GRID[1])]
    prior = torch.zeros(1 + len(cells), 1 + len(cells))
    for a, (i, j) in enumerate(cells):
        for b, (m, n) in enumerate(cells):
            prior[1 + a, 1 + b] = math.exp(-((i - m) ** 2 + (j - n) ** 2) / (2 * std**2))
    return prior


def naclip(std):
    def rule(one):
        return torch.stack([(k @ k.T / one.slow.d**0.5 + omega(std)).softmax(1) for k in one.k])

    return rule


def nonly(std):
    def rule(one):
        total = sum(
            q_row.norm() * k_row.norm() for q, k in zip(one.q, one.k, strict=True) for q_row in q for k_row in k
        )
        strength = total / (len(one.q) * one.q.shape[1] ** 2) / one.slow.d**0.5
        return (strength * omega(std)).softmax(1).expand(len(one.q), -1, -1)

    return rule


def inputs_of(model, image, mode, *, match="count"):
    """The slow tower and the input of every block."""
    slow, tower = SlowTower(model.clip.visual), model.clip.visual
    positions = resize_positions(tower.positional_embedding, tower.grid, GRID, mode, match=match)
    return slow, slow.before_last(image[0], positions)[0]


def cosines(model, slow, tokens):
    """(1, N, h, w): patches behind the last norm and the projection, compared with the words."""
    rows = slow.finish(tokens)[1:]
    unit = rows / rows.norm(dim=1, keepdim=True)
    return (unit @ model.text_embeddings.rows.T).T.unflatten(1, GRID)[None]


def logits_of(model, image):
    return model.row_logits(image, model.text_embeddings)


REPLACED = {
    "clip": (softmax_pairs("qk"), KEPT),
    "maskclip": (identity, KEPT),
    "sclip": (softmax_pairs("qq", "kk"), KEPT),
    "clearclip": (softmax_pairs("qq"), REDUCED),
    "naclip": (naclip(5.0), REDUCED),
    "reduced": (identity, REDUCED),
}
OTHERS = {"itaclip", "segearth", "anovl"}  # in test_model.py
TWO_PATHS = {"gem", "clip_surgery"}


def test_every_preset_is_compared_with_its_equations():
    assert set(REPLACED) | TWO_PATHS | OTHERS == set(PRESETS)


@torch.no_grad()
@pytest.mark.parametrize("method", REPLACED)
@pytest.mark.parametrize("switches", [None, KEPT, REDUCED], ids=["preset", "kept", "reduced"])
def test_last_block_follows_its_rule(method, switches):
    """ClearCLIP's code crosses every rule with ``ignore_residual``, NACLIP's with ``arch``; so do the switches here."""
    rule, own = REPLACED[method]
    model, image = build(method=method, **({} if switches is None else {"dense": switches})), torch.randn(1, 3, *SIZE)
    slow, inputs = inputs_of(model, image, "scale_factor")
    one = Block(slow, slow.blocks[-1], inputs[-1])
    tokens = one.kept(rule(one)) if (switches or own)["residual"] else one.attend(rule(one))
    torch.testing.assert_close(logits_of(model, image), cosines(model, slow, tokens), **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("switches", [KEPT, REDUCED], ids=["kept", "reduced"])
@pytest.mark.parametrize(
    ("dense", "rule"),
    [
        ({"rule": "neighbourhood", "gaussian_std": 3.0}, nonly(3.0)),
        ({"rule": "kk", "gaussian_std": None}, softmax_pairs("kk")),
        ({"rule": "qk", "gaussian_std": None}, softmax_pairs("qk")),
        ({"rule": "qq+kk", "gaussian_std": None}, softmax_pairs("qq", "kk")),
        ({"rule": "kk", "gaussian_std": 1.5}, naclip(1.5)),
    ],
    ids=["nonly", "kk", "vanilla", "csa", "narrow"],
)
def test_naclips_ablations(dense, rule, switches):
    model, image = build(method="naclip", dense={**dense, **switches}), torch.randn(1, 3, *SIZE)
    slow, inputs = inputs_of(model, image, "scale_factor")
    one = Block(slow, slow.blocks[-1], inputs[-1])
    tokens = one.kept(rule(one)) if switches["residual"] else one.attend(rule(one))
    torch.testing.assert_close(logits_of(model, image), cosines(model, slow, tokens), **CLOSE)


def gem_weights(one, iterations, temperature):
    inverse = temperature or one.slow.d**-0.5 * sum(row.norm() for row in one.u) / len(one.u)
    total = 0
    for z in (one.v, one.k, one.q):
        heads = []
        for rows in z:
            for _ in range(iterations):
                unit = rows / rows.norm(dim=1, keepdim=True)
                rows = (inverse * unit @ unit.T).softmax(1) @ unit
            unit = rows / rows.norm(dim=1, keepdim=True)
            heads.append((inverse * unit @ unit.T).softmax(1))
        total = total + torch.stack(heads)
    return total / 3


@torch.no_grad()
@pytest.mark.parametrize(("iterations", "temperature"), [(1, None), (2, None), (0, None), (1, 4.0)])
def test_gems_second_path(iterations, temperature):
    dense = {"iterations": iterations, **({} if temperature is None else {"temperature": temperature})}
    model, image = build(method="gem", dense=dense), torch.randn(1, 3, *SIZE)
    slow, inputs = inputs_of(model, image, "antialias", match="grid")
    stream = inputs[-6]
    for block, x in list(zip(slow.blocks, inputs, strict=True))[-6:]:
        one = Block(slow, block, x)
        stream = stream + one.attend(gem_weights(one, iterations, temperature))
    torch.testing.assert_close(logits_of(model, image), cosines(model, slow, stream), **CLOSE)


def surgery_tokens(model, image):
    """Unit tokens (P, D) of CLIP Surgery, the class token that of the ordinary path."""
    slow, inputs = inputs_of(model, image, "bilinear", match="grid")
    stream = inputs[-6]
    for block, x in list(zip(slow.blocks, inputs, strict=True))[-6:]:
        one = Block(slow, block, x)
        stream = stream + one.attend(slow.weights(one.v, one.v))
    ordinary = slow.ordinary(slow.blocks[-1], inputs[-1])
    rows = slow.finish(torch.cat([ordinary[:1], stream[1:]]))
    return rows / rows.norm(dim=1, keepdim=True)


def assert_min_max(got, maps):
    """Each map (h, w) brought to [0, 1] by its own least and largest value; compared before the division."""
    for scaled, one in zip(got, maps, strict=True):
        assert (float(scaled.min()), float(scaled.max())) == (0, 1)
        torch.testing.assert_close(one.min() + scaled * (one.max() - one.min()), one, **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("surgery", ["class_mean", "empty_text", "none"])
@pytest.mark.parametrize("scaling", ["tokens", "none"])
def test_clip_surgery_removes_what_classes_share(surgery, scaling):
    model, image = build(method="clip_surgery", surgery=surgery, map_scaling=scaling), torch.randn(1, 3, *SIZE)
    model.fixed_redundant = F.normalize(torch.randn(1, 16), dim=1)
    f, t = surgery_tokens(model, image), model.text_embeddings.rows
    if surgery == "class_mean":
        w = (2 * f[0] @ t.T).softmax(0)
        w = w / w.mean()
        weighted = torch.stack([torch.stack([w[c] * (row @ t[c]) for c in range(len(t))]) for row in f])
        scores = weighted - weighted.mean(1, keepdim=True)
    else:
        scores = f @ (t - model.fixed_redundant if surgery == "empty_text" else t).T
    maps = scores[1:].T.unflatten(1, GRID)
    got = logits_of(model, image)[0]
    if scaling == "tokens":
        assert_min_max(got, maps)
    else:
        torch.testing.assert_close(got, maps, **CLOSE)


@torch.no_grad()
def test_gem_normalises_each_map_of_the_enlarged_image():
    model = build(method="gem", map_scaling="image", test_cfg={"keep_logits": True})
    image = torch.randn(1, 3, *SIZE)
    small = build(method="gem")
    enlarged = F.interpolate(logits_of(small, image), SIZE, mode="bilinear", align_corners=False)[0]
    got = model.predict(image, [SegDataSample(metainfo={"ori_shape": SIZE})])[0].seg_logits.data
    assert_min_max(got, enlarged)
