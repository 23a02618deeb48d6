"""Label maps from classified masks equal the plain computation that stores everything."""

import pytest
import torch
import torch.nn.functional as F

from mmseg_plugins.ops import mask_argmax, upsample_argmax

OPS = torch.ops.mmseg_plugins


def inputs(batch=2, queries=17, classes=9, h=11, w=13):
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(batch, queries, classes, generator=generator)
    return weights, torch.randn(batch, queries, h, w, generator=generator) * 3


def resized(maps, size):
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)


def plain(weights, masks, size, order, padded_size=None, crop=None):
    if padded_size:
        masks = resized(masks, padded_size)
    if crop:
        masks = masks[..., : crop[0], : crop[1]]
    masks = resized(masks, size) if order == "masks" else masks
    scores = torch.einsum("bqk,bqhw->bkhw", weights, masks.sigmoid())
    return scores if order == "masks" else resized(scores, size)


@pytest.mark.parametrize("order", ["masks", "scores"])
@pytest.mark.parametrize("steps", [{}, {"padded_size": (44, 52)}, {"padded_size": (44, 52), "crop": (40, 37)}])
@pytest.mark.parametrize("size", [(90, 101), (20, 8)])
@pytest.mark.parametrize("numbers", [8_000_000, 30_000, 1])
def test_result_is_that_of_the_plain_computation(order, steps, size, numbers, dispatched, monkeypatch):
    # By name, because the package exports a function of the same name as the module.
    monkeypatch.setattr("mmseg_plugins.ops._argmax_eager._ELEMENTS_PER_BAND", numbers)
    monkeypatch.setitem(mask_argmax.__globals__, "_ELEMENTS_PER_BAND", numbers)
    monkeypatch.setitem(mask_argmax.__globals__, "_LEAST_ROWS", 2)
    weights, masks = inputs()
    scores = plain(weights, masks, size, order, **steps)
    got = mask_argmax(weights, masks, size, order=order, logit_scale=2.0, return_score=True, return_margin=True,
                      return_probability=True, **steps)  # fmt: skip
    best = scores.topk(2, 1).values
    # Sums of 17 products in another order; labels may differ only where two classes are that close.
    assert torch.allclose(got.score, best[:, 0], atol=1e-5)
    assert torch.allclose(got.margin, best[:, 0] - best[:, 1], atol=2e-5)
    assert torch.allclose(got.probability, (scores * 2).softmax(1).amax(1), atol=1e-4)
    differs = got.labels != scores.argmax(1)
    assert (got.margin[differs] < 1e-5).all()


def test_the_operator_equals_its_eager_twin():
    weights, masks = inputs()
    got = OPS.mask_argmax(weights, masks, (30, 40), [], 1.0, True, True, True)
    want = OPS.mask_argmax_eager(weights, masks, (30, 40), [], 1.0, True, True, True)
    assert torch.equal(got[0], want[0])
    for first, second in zip(got[1:], want[1:], strict=True):
        assert torch.allclose(first, second, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 5])
def test_bands_equal_the_rows_of_the_whole_map(rows):
    logits = torch.randn(2, 7, 12, 10, generator=torch.Generator().manual_seed(0))
    weights, masks = inputs(h=12, w=10)
    classes = torch.tensor([0, 0, 1, 2, 2, 2, 5])
    for first_H in (0, 13, 40 - rows):
        band = [12, 0, 40, first_H]
        for name, arguments, size in (
            ("upsample_argmax", (logits,), (None, 1.0, False)),
            ("upsample_argmax", (logits,), (classes, 1.0, False)),
            ("mask_argmax", (weights, masks), (1.0,)),
        ):
            for suffix in ("", "_eager"):
                operator = getattr(OPS, name + suffix)
                whole = operator(*arguments, (40, 33), [], *size, True, False, True)
                part = operator(*arguments, (rows, 33), band, *size, True, False, True)
                assert torch.equal(part[0], whole[0][:, first_H : first_H + rows])
                assert torch.allclose(part[1], whole[1][:, first_H : first_H + rows], atol=1e-5)


def test_a_band_needs_only_its_own_rows():
    logits = torch.randn(1, 5, 12, 10, generator=torch.Generator().manual_seed(0))
    whole = OPS.upsample_argmax(logits, (48, 40), [], None, 1.0, True, False, False, False)[0]
    part = OPS.upsample_argmax(logits[:, :, 4:8], (6, 40), [12, 4, 48, 20], None, 1.0, True, False, False, False)[0]
    assert torch.equal(part, whole[:, 20:26])


def test_scores_order_without_padding_is_upsample_argmax_of_the_scores():
    weights, masks = inputs()
    scores = torch.einsum("bqk,bqhw->bkhw", weights, masks.sigmoid())
    assert torch.equal(mask_argmax(weights, masks, (99, 70), order="scores"), upsample_argmax(scores, (99, 70)))


def test_ties_go_to_the_lower_class(dispatched):
    weights = torch.ones(1, 3, 6)
    assert not mask_argmax(weights, torch.randn(1, 3, 4, 4), (50, 80)).any()


def test_half_precision_and_one_class_work(dispatched):
    weights, masks = inputs(classes=1)
    labels = mask_argmax(weights.bfloat16(), masks.half(), (20, 30))
    assert labels.shape == (2, 20, 30)
    assert not labels.any()


@pytest.mark.parametrize("order", ["masks", "scores"])
def test_mixed_precision_rounds_nothing_inside(order, dispatched):
    weights, masks = inputs()
    want = mask_argmax(weights, masks, (40, 50), order=order, return_score=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = mask_argmax(weights, masks, (40, 50), order=order, return_score=True)
    assert torch.equal(got.score, want.score)
    assert torch.equal(got.labels, want.labels)


def test_no_images_give_no_maps(dispatched):
    weights, masks = inputs()
    assert mask_argmax(weights[:0], masks[:0], (20, 30)).shape == (0, 20, 30)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": torch.ones(2, 16, 9)}, "17 rows"),
        ({"weights": torch.ones(1, 17, 9)}, "batch size 2"),
        ({"weights": torch.ones(2, 17, 0)}, "classes and pixels"),
        ({"order": "both"}, "`order`"),
        ({"size": (0, 5)}, "`size`"),
        ({"crop": (40, 5)}, "`crop` to lie inside"),
    ],
)
def test_errors_name_the_argument(changes, message):
    weights, masks = inputs()
    arguments = {"weights": weights, "mask_logits": masks, "size": (20, 30)} | changes
    with pytest.raises(ValueError, match=message):
        mask_argmax(**arguments)
