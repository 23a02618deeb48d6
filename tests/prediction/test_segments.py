import pytest
import torch
import torch.nn.functional as F

from mmseg_plugins.prediction.segments import (
    MaskGeometry,
    class_weights,
    full_masks,
    mask_bands,
    semantic_labels,
    semantic_scores,
)

GEOMETRIES = [
    MaskGeometry(output_size=(37, 50), padded_size=(64, 96), image_size=(60, 81)),
    MaskGeometry(output_size=(90, 70), padded_size=(64, 96), image_size=(64, 96)),
    MaskGeometry(output_size=(64, 96), padded_size=(64, 96)),
    MaskGeometry(output_size=(20, 30)),
    MaskGeometry(output_size=(16, 24)),
]


def resize(maps, size):
    return F.interpolate(maps[None], size, mode="bilinear", align_corners=False)[0]


def slow_masks(masks, geometry):
    if geometry.padded_size is not None:
        masks = resize(masks, geometry.padded_size)
        height, width = geometry.image_size or geometry.padded_size
        masks = masks[:, :height, :width]
    return resize(masks, geometry.output_size)


def slow_scores(scores, masks, geometry, order):
    shares = scores.softmax(-1)[:, :-1]
    if order == "masks":
        return torch.einsum("qk,qhw->khw", shares, slow_masks(masks, geometry).sigmoid())
    padded = resize(masks, geometry.padded_size or tuple(masks.shape[1:]))
    sums = torch.einsum("qk,qhw->khw", shares, padded.sigmoid())
    height, width = geometry.image_size or sums.shape[1:]
    return resize(sums[:, :height, :width], geometry.output_size)


def draw(queries=7, classes=5, size=(16, 24)):
    torch.manual_seed(0)
    return 3 * torch.randn(queries, classes + 1), 4 * torch.randn(queries, *size)


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("elements", [1, 500, 4_000_000])
def test_bands_are_the_whole_resize_in_rows(geometry, elements):
    _, masks = draw()
    bands = list(mask_bands(masks, geometry, elements=elements))
    assert [band.start for band in bands] == [sum(b.logits.shape[1] for b in bands[:i]) for i in range(len(bands))]
    got = torch.cat([band.logits for band in bands], dim=1)
    torch.testing.assert_close(got, slow_masks(masks, geometry), rtol=1e-5, atol=1e-5)


def test_bands_are_smaller_where_more_is_made_of_them():
    _, masks = draw()
    rows = [next(mask_bands(masks, GEOMETRIES[0], elements=7000, per_pixel=n)).logits.shape[1] for n in (1, 7, 70)]
    assert rows == [20, 20, 2]


@pytest.mark.parametrize("order", ["masks", "scores"])
@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("at_once", [256, 0])
def test_semantic_maps_are_the_published_sum(geometry, order, at_once, monkeypatch):
    monkeypatch.setattr("mmseg_plugins.prediction.segments._MOST_CLASSES_AT_ONCE", at_once)
    scores, masks = draw()
    expected = slow_scores(scores, masks, geometry, order)
    torch.testing.assert_close(semantic_scores(scores, masks, geometry, order=order), expected, rtol=1e-5, atol=1e-5)
    labels, winning = semantic_labels(scores, masks, geometry, order=order, return_score=True)
    assert torch.equal(labels, expected.argmax(0))
    torch.testing.assert_close(winning, expected.amax(0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("order", ["masks", "scores"])
def test_sharp_masks_may_be_integers_at_image_size(order):
    scores, masks = draw()
    sharp = torch.where(masks > 0, 127, -127).to(torch.int8)
    geometry = MaskGeometry(output_size=(16, 24))
    labels, _ = semantic_labels(scores, sharp, geometry, order=order)
    assert torch.equal(labels, slow_scores(scores, sharp.float(), geometry, order).argmax(0))
    larger = MaskGeometry(output_size=(20, 30))
    labels, _ = semantic_labels(scores, sharp, larger, order=order)
    assert torch.equal(labels, slow_scores(scores, sharp.float(), larger, order).argmax(0))


def test_the_two_orders_differ():
    scores, masks = draw()
    maps = [semantic_labels(scores, masks, GEOMETRIES[0], order=order)[0] for order in ("masks", "scores")]
    assert not torch.equal(*maps)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_computed_in_float32(dtype):
    scores, masks = draw()
    masks[0] = 60000.0 if dtype == torch.float16 else 1e30
    half = masks.to(dtype)
    labels, _ = semantic_labels(scores.to(dtype), half, GEOMETRIES[0])
    expected = slow_scores(scores.to(dtype).float(), half.float(), GEOMETRIES[0], "masks")
    assert torch.equal(labels, expected.argmax(0))


def test_one_class_names_every_pixel_or_leaves_background():
    scores, masks = torch.tensor([[5.0, 0.0]]), torch.full((1, 4, 4), -8.0)
    masks[0, :, 2:] = 8.0
    geometry = MaskGeometry(output_size=(4, 4))
    labels, _ = semantic_labels(scores, masks, geometry)
    assert (labels == 0).all()
    scores = torch.tensor([[float("-inf"), 5.0, 0.0]])  # a background without names, and the class
    labels, winning = semantic_labels(scores, masks, geometry, threshold=0.5, background_index=0, return_score=True)
    assert torch.equal(labels, torch.tensor([0, 0, 1, 1]).expand(4, 4))
    torch.testing.assert_close(winning[:, 2:], torch.full((4, 2), float(scores.softmax(-1)[0, 1])), atol=1e-3, rtol=0)


def test_no_masks_give_class_zero():
    labels, winning = semantic_labels(torch.zeros(0, 3), torch.zeros(0, 4, 4), GEOMETRIES[0], return_score=True)
    assert labels.shape == winning.shape == (37, 50)
    assert not labels.any()
    assert semantic_scores(torch.zeros(0, 3), torch.zeros(0, 4, 4), GEOMETRIES[0]).shape == (2, 37, 50)


def test_shares_leave_void_out():
    shares = class_weights(torch.tensor([[0.0, 0.0, 0.0]]))
    torch.testing.assert_close(shares, torch.full((1, 2), 1 / 3))


def test_full_masks_are_the_bands():
    _, masks = draw()
    torch.testing.assert_close(full_masks(masks, GEOMETRIES[0]), slow_masks(masks, GEOMETRIES[0]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output_size": (0, 4)}, "output_size"),
        ({"output_size": (4, 4), "image_size": (4, 4)}, "inside padded_size None"),
        ({"output_size": (4, 4), "padded_size": (4, 4), "image_size": (5, 4)}, "image_size"),
    ],
)
def test_impossible_geometry_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MaskGeometry(**options)


def test_unknown_order_is_refused():
    with pytest.raises(ValueError, match="both"):
        semantic_labels(torch.zeros(1, 2), torch.zeros(1, 2, 2), GEOMETRIES[3], order="both")


def test_many_classes_do_not_hold_a_map_each(monkeypatch):
    """At 800 classes, K x H x W would be 800 times the label map; the largest tensor stays far below."""
    scores, masks = torch.randn(5, 801), torch.randn(5, 8, 8)
    geometry = MaskGeometry(output_size=(300, 300), padded_size=(64, 64), image_size=(60, 60))
    labels, _ = semantic_labels(scores, masks, geometry, order="scores")
    sample = slow_scores(scores, masks, geometry, "scores")
    assert torch.equal(labels, sample.argmax(0))
