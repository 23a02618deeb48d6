import math

import pytest
import torch
import torch.nn.functional as F

from mmseg_plugins.methods.training_free.feedback import (
    blur_rows,
    confident_labels,
    free_ways,
    label_attention,
    patch_labels,
)
from mmseg_plugins.methods.training_free.resclip import ResCLIP
from mmseg_plugins.prediction.pamr import PAMR
from tests.methods.training_free.reference import SlowTower, build


def distance(i, j):
    return max(abs(i[0] - j[0]), abs(i[1] - j[1]))


def places(labels):
    return [(y, x) for y in range(labels.shape[0]) for x in range(labels.shape[1])]


def slow_is_free(labels, i, j, furthest):
    for step in range(distance(i, j) + 1):
        t = torch.linspace(0, 1, furthest + 1)[step] if furthest else torch.tensor(0.0)
        y, x = (int(torch.round((1 - t) * a + t * b)) for a, b in zip(i, j, strict=True))
        if labels[y, x] != labels[i]:
            return False
    return True


def slow_label_attention(labels, std, delete):
    cells = places(labels)
    furthest = max(distance(i, j) for i in cells for j in cells)
    matrix = torch.zeros(len(cells), len(cells))
    for a, i in enumerate(cells):
        for b, j in enumerate(cells):
            matrix[a, b] = float(labels[i] == labels[j])
            if delete and not slow_is_free(labels, i, j, furthest):
                matrix[a, b] *= math.exp(-distance(i, j) / furthest)
    length = min(len(cells), math.floor(6 * std + 1))
    half = (length + 1 - length % 2) // 2
    taps = {t: math.exp(-(t**2) / (2 * std**2)) for t in range(-half, half + 1)}
    total = sum(taps.values())
    blurred = torch.zeros_like(matrix)
    for a in range(len(cells)):
        for b in range(len(cells)):
            inside = [(t, w) for t, w in taps.items() if 0 <= b + t < len(cells)]
            blurred[a, b] = sum(w / total * matrix[a, b + t] for t, w in inside)
    return blurred / (blurred.sum(1, keepdim=True) + 1e-8)


@pytest.mark.parametrize("size", [(5, 7), (4, 4), (1, 6), (3, 3)])
@pytest.mark.parametrize("delete", [True, False])
def test_label_attention_equals_a_loop_over_pairs(size, delete):
    labels = torch.randint(0, 3, size, generator=torch.Generator().manual_seed(sum(size)))
    got = label_attention(labels, gaussian_std=1.5, delete_same_entity=delete)
    torch.testing.assert_close(got, slow_label_attention(labels, 1.5, delete), atol=1e-6, rtol=1e-5)


def test_ways_are_only_looked_at_from_their_start():
    labels = torch.tensor([[0, 1, 0, 0, 0, 0, 0]])
    free = free_ways(labels)
    assert not free[0, 3]  # 0, 0.5, 1, 1.5: the third point lies on the other label
    assert free[3, 0]  # 3, 2.5, 2, 1.5: half of the way, rounded half to even, stops before it
    assert not free[1, 0]


def test_one_patch_attends_to_itself():
    torch.testing.assert_close(
        label_attention(torch.zeros(1, 1, dtype=torch.int64), gaussian_std=5.0), torch.ones(1, 1)
    )


def test_blur_crosses_the_ends_of_lines_but_not_of_the_row():
    row = torch.zeros(1, 9)
    row[0, 0] = 1
    blurred = blur_rows(row, 1.0)[0]
    assert blurred.sum() < 1
    assert blurred[1] > blurred[2] > 0


def test_most_frequent_label_smallest_of_equals():
    labels = torch.tensor([[3, 3, 1, 2, 9], [1, 1, 2, 1, 9], [0, 0, 0, 0, 9]])
    assert patch_labels(labels, 2).tolist() == [[1, 1]]


def test_unsure_pixels_take_the_first_row():
    probabilities = torch.tensor([[0.1, 0.3], [0.9, 0.3], [0.0, 0.4]])[..., None]
    assert confident_labels(probabilities, 0.5).flatten().tolist() == [1, 0]
    assert confident_labels(probabilities, 0.0).flatten().tolist() == [1, 2]


@torch.no_grad()
@pytest.mark.parametrize(
    ("method", "with_residual", "delete"),
    [
        ("naclip", True, True),
        ("clearclip", True, True),
        ("sclip", True, True),
        ("clip", True, True),
        ("naclip", False, True),  # SFR alone: the first pass has no RCS either
        ("sclip", True, False),
    ],
)
def test_second_pass_equals_its_equations(method, with_residual, delete):
    settings = {"temperature": 1.8, "share": 0.6, "threshold": 0.25, "gaussian_std": 2.0}
    settings["delete_same_entity"] = delete
    model = build(
        ResCLIP,
        method=method,
        residual={"temperature": 2.0, "share": 0.3} if with_residual else False,
        feedback={**settings, "pamr": {"steps": 2, "dilations": (1, 2)}},
        test_cfg={"logit_scale": 5.0},
    )
    image = torch.randn(1, 3, 32, 24)
    slow, grid = SlowTower(model.clip.visual), (4, 3)
    inputs, _ = slow.before_last(image[0], model.clip.visual.positions(grid, "scale_factor", "count"))
    block, x = slow.blocks[-1], inputs[-1]
    earlier = []
    for index in (5, 6, 7, 8):
        q, k, _ = slow.qkv(slow.blocks[index], inputs[index])
        earlier.append(slow.weights(q, k))
    earlier = sum(earlier) / 4
    q, k, v = slow.qkv(block, x)
    pairs = {"naclip": [(k, k)], "clearclip": [(q, q)], "sclip": [(q, q), (k, k)], "clip": [(q, k)]}[method]
    prior = torch.zeros(13, 13)
    if method == "naclip":
        cells = [(r, c) for r in range(4) for c in range(3)]
        for a, i in enumerate(cells):
            for b, j in enumerate(cells):
                prior[1 + a, 1 + b] = math.exp(-((i[0] - j[0]) ** 2 + (i[1] - j[1]) ** 2) / 50)

    def logits(change):
        weights = 0
        for left, right in pairs:
            scores = torch.stack([change(a @ b.T / slow.d**0.5) + prior for a, b in zip(left, right, strict=True)])
            weights = weights + scores.softmax(-1)
        y = slow.out(block, 2.0 * (0.7 * weights + 0.3 * earlier) if with_residual else weights, v)
        if model.dense.residual:
            y = x + y
            y = y + slow.mlp(block, y)
        unit = F.normalize(slow.finish(y)[1:], dim=-1)
        return (unit @ model.text_embeddings.rows.T).T.unflatten(1, grid)

    first = F.interpolate(logits(lambda z: z)[None], (32, 24), mode="bilinear")[0]
    refined = PAMR(steps=2, dilations=(1, 2)).guide(image[0])(first)
    labels = patch_labels(confident_labels((5.0 * refined).softmax(0), 0.25), 8)
    m = torch.zeros(13, 13)
    m[1:, 1:] = slow_label_attention(labels, 2.0, delete)
    expected = logits(lambda z: 1.8 * (0.4 * z + 0.6 * m / m.max()))[None]
    got = model.row_logits(image, model.text_embeddings)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_a_batch_gives_what_its_images_give():
    model, images = build(ResCLIP, test_cfg={"logit_scale": 5.0}), torch.randn(3, 3, 36, 44)
    text = model.text_embeddings
    single = torch.cat([model.row_logits(image[None], text) for image in images])
    torch.testing.assert_close(model.row_logits(images, text), single, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_earlier_attention_alone_is_one_pass():
    model, image = build(ResCLIP, method="naclip", feedback=False), torch.randn(1, 3, 32, 24)
    slow = SlowTower(model.clip.visual)
    inputs, grid = slow.before_last(image[0], model.clip.visual.positions((4, 3), "scale_factor", "count"))
    earlier = [slow.weights(*slow.qkv(slow.blocks[index], inputs[index])[:2]) for index in (5, 6, 7, 8)]
    _, k, v = slow.qkv(slow.blocks[-1], inputs[-1])
    prior = torch.zeros(13, 13)
    for a in range(12):
        for b in range(12):
            prior[1 + a, 1 + b] = math.exp(-((a // 3 - b // 3) ** 2 + (a % 3 - b % 3) ** 2) / 50)
    own = torch.stack([(head @ head.T / slow.d**0.5 + prior).softmax(1) for head in k])
    y = slow.out(slow.blocks[-1], 2.0 * (0.7 * own + 0.3 * sum(earlier) / 4), v)
    unit = F.normalize(slow.finish(y)[1:], dim=-1)
    expected = (unit @ model.text_embeddings.rows.T).T.unflatten(1, grid)[None]
    torch.testing.assert_close(model.row_logits(image, model.text_embeddings), expected, atol=1e-5, rtol=1e-5)


def test_without_both_additions_it_is_the_base_rule():
    model, plain = build(ResCLIP, residual=False, feedback=False), build(method="naclip")
    image = torch.randn(1, 3, 32, 32)
    got = model.row_logits(image, model.text_embeddings)
    torch.testing.assert_close(got, plain.row_logits(image, plain.text_embeddings))


def test_blocks_that_a_small_tower_lacks_are_named():
    numbers = {
        "embed_dim": 16, "image_resolution": 32, "vision_layers": 4, "vision_width": 32, "vision_patch_size": 8,
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"4 blocks.*residual=dict"):
        build(ResCLIP, numbers=numbers)


@pytest.mark.parametrize(
    "options", [{"residual": {"temp": 2}}, {"feedback": {"pamr": {"step": 1}}}, {"feedback": {"sigma": 1}}]
)
def test_strengths_that_do_not_exist_are_named(options):
    with pytest.raises(ValueError, match=r"unknown (residual|feedback|feedback\.pamr) keys .*Known: "):
        build(ResCLIP, **options)
