"""Losses against their definition at all points, and the corner cases of a batch."""

import pytest
import torch
import torch.nn.functional as F

from mmseg_plugins.masks.mask2former import criterion as criterion_module
from mmseg_plugins.masks.mask2former.criterion import SetCriterion, mean_number_of_masks
from mmseg_plugins.masks.mask2former.points import sample_points, uncertain_points
from mmseg_plugins.masks.mask2former.predictions import MaskPrediction
from mmseg_plugins.masks.targets import SegmentTargets

SIZE, QUERIES, CLASSES = 6, 5, 3


def random_batch(counts):
    prediction = MaskPrediction(
        mask_logits=torch.randn(len(counts), QUERIES, SIZE, SIZE, requires_grad=True),
        class_logits=torch.randn(len(counts), QUERIES, CLASSES + 1, requires_grad=True),
    )
    targets = [SegmentTargets(torch.randint(CLASSES, (n,)), torch.rand(n, SIZE, SIZE) > 0.5) for n in counts]
    return prediction, targets


def all_pixels(masks):
    centres = (torch.arange(SIZE) + 0.5) / SIZE
    grid = torch.stack(torch.meshgrid(centres, centres, indexing="xy"), -1).reshape(1, -1, 2)
    return grid.expand(masks, -1, -1)


def slow_losses(prediction, targets, matches, criterion):
    """Loop over images and matched pairs, every pixel counted."""
    num_masks = max(1, sum(len(target.labels) for target in targets))
    cross_entropy, dice, class_sum, weight_sum = 0.0, 0.0, 0.0, 0.0
    for image, (target, (queries, segments)) in enumerate(zip(targets, matches, strict=True)):
        label_of = dict(zip(queries.tolist(), target.labels[segments].tolist(), strict=True))
        for query in range(QUERIES):
            label = label_of.get(query, CLASSES)
            weight = criterion.void_weight if label == CLASSES else 1.0
            class_sum += weight * -prediction.class_logits[image, query].log_softmax(0)[label]
            weight_sum += weight
        for query, segment in zip(queries.tolist(), segments.tolist(), strict=True):
            p, truth = prediction.mask_logits[image, query].sigmoid(), target.masks[segment].float()
            cross_entropy += F.binary_cross_entropy(p, truth) / num_masks
            dice += (1 - (2 * (p * truth).sum() + 1) / (p.sum() + truth.sum() + 1)) / num_masks
    return {"loss_class": 2 * class_sum / weight_sum, "loss_mask": 5 * cross_entropy, "loss_dice": 5 * dice}


@pytest.mark.parametrize("counts", [(2, 3), (0, 4), (1, 0), (7, 1)], ids=str)
def test_losses_at_all_points_are_those_of_the_definition(monkeypatch, counts):
    prediction, targets = random_batch(counts)
    criterion = SetCriterion(num_points=SIZE * SIZE)
    matches = []
    match = criterion.matcher
    criterion.matcher = lambda *arguments: matches.append(match(*arguments)) or matches[-1]
    monkeypatch.setattr(criterion_module, "uncertain_points", lambda masks, *_, **__: all_pixels(len(masks)))
    losses = criterion([prediction], targets)
    expected = slow_losses(prediction, targets, matches, criterion)
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], torch.as_tensor(value), rtol=1e-4, atol=1e-5)


def test_batch_without_segments_trains_classes_only_and_keeps_every_gradient():
    prediction, targets = random_batch((0, 0))
    losses = SetCriterion(num_points=10)([prediction], targets)
    assert losses["loss_mask"] == 0 == losses["loss_dice"]
    sum(losses.values()).backward()
    assert prediction.class_logits.grad.abs().sum() > 0
    assert prediction.mask_logits.grad is not None
    assert not prediction.mask_logits.grad.any()


def test_segment_without_a_pixel_gives_finite_losses():
    prediction, targets = random_batch((2,))
    targets = [SegmentTargets(targets[0].labels, torch.zeros_like(targets[0].masks))]
    losses = SetCriterion(num_points=10)([prediction], targets)
    assert all(value.isfinite() for value in losses.values())
    assert losses["loss_mask"] > 0


def test_every_prediction_is_matched_by_itself_and_named():
    """The two predictions hold the same masks in another order of the queries, so each needs its own matching."""
    prediction, targets = random_batch((2, 2))
    with torch.no_grad():
        masks = prediction.mask_logits.clone()
        for image, target in zip(masks, targets, strict=True):
            image[:2] = target.masks * 20.0 - 10
    first = MaskPrediction(masks, prediction.class_logits)
    turned = MaskPrediction(masks.roll(1, dims=1), prediction.class_logits.roll(1, dims=1))
    losses = SetCriterion(num_points=200)([first, turned], targets)
    assert set(losses) == {f"{prefix}loss_{name}" for prefix in ("d0.", "") for name in ("class", "mask", "dice")}
    torch.testing.assert_close(losses["loss_class"], losses["d0.loss_class"])
    torch.testing.assert_close(losses["loss_mask"], losses["d0.loss_mask"], rtol=0.5, atol=1e-3)


def test_only_matched_masks_get_a_gradient():
    prediction, targets = random_batch((2,))
    losses = SetCriterion(num_points=50)([prediction], targets)
    (losses["loss_mask"] + losses["loss_dice"]).backward()
    assert int(prediction.mask_logits.grad.flatten(2).any(-1).sum()) == 2


def test_bfloat16_predictions_are_scored_in_float32():
    prediction, targets = random_batch((2, 1))
    half = MaskPrediction(prediction.mask_logits.bfloat16(), prediction.class_logits.bfloat16())
    rounded = MaskPrediction(half.mask_logits.float(), half.class_logits.float())
    with torch.autocast("cpu", torch.bfloat16):
        torch.manual_seed(0)
        losses = SetCriterion(num_points=20)([half], targets)
    torch.manual_seed(0)
    for name, value in SetCriterion(num_points=20)([rounded], targets).items():
        torch.testing.assert_close(losses[name], value)


def test_number_of_masks_is_at_least_one():
    assert mean_number_of_masks(random_batch((0, 0))[1]) == 1
    assert mean_number_of_masks(random_batch((3, 1))[1]) == 4


def test_sampled_points_interpolate_and_are_zero_outside():
    maps = torch.tensor([[[0.0, 2.0], [4.0, 6.0]]])
    points = torch.tensor([[[0.25, 0.25], [0.5, 0.5], [0.75, 0.5], [-2.0, 0.5]]])
    torch.testing.assert_close(sample_points(maps, points), torch.tensor([[0.0, 3.0, 4.0, 0.0]]))


def test_most_points_lie_where_the_mask_is_undecided():
    column = torch.linspace(-8, 8, 64)
    masks = column.expand(2, 64, 64)
    points = uncertain_points(masks, 200, oversample=3.0, importance=0.75)
    assert points.shape == (2, 200, 2)
    undecided = sample_points(masks, points).abs()
    assert (undecided[:, :150] < 2.3).all()  # 150 of 600 evenly spread points: |x| below about a quarter of 8
    assert (undecided[:, 150:].amax(1) > 4).all()
