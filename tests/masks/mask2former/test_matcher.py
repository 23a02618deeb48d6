"""Matching against every permutation, and its costs against their definition."""

from itertools import permutations

import pytest
import torch
import torch.nn.functional as F

from mmseg_plugins.masks.mask2former import matcher as matcher_module
from mmseg_plugins.masks.mask2former.matcher import HungarianMatcher
from mmseg_plugins.masks.targets import SegmentTargets


def random_problem(queries, segments, *, classes=4, size=8):
    class_logits, mask_logits = torch.randn(queries, classes + 1), torch.randn(queries, size, size) * 3
    masks = torch.rand(segments, 2 * size, 2 * size) > 0.6
    return class_logits, mask_logits, SegmentTargets(torch.randint(classes, (segments,)), masks)


@pytest.mark.parametrize(("queries", "segments"), [(5, 3), (4, 4), (3, 5)])
def test_total_cost_is_the_least_of_all_assignments(queries, segments):
    problem = random_problem(queries, segments)
    matcher = HungarianMatcher(num_points=50)
    torch.manual_seed(0)
    costs = matcher.costs(*problem)
    torch.manual_seed(0)  # the same points
    chosen_queries, chosen_segments = matcher(*problem)
    few, many = min(queries, segments), max(queries, segments)
    table = costs if queries >= segments else costs.T
    least = min(sum(float(table[q, n]) for n, q in enumerate(order)) for order in permutations(range(many), few))
    assert len(chosen_queries) == few == len(set(chosen_queries.tolist())) == len(set(chosen_segments.tolist()))
    assert float(costs[chosen_queries, chosen_segments].sum()) == pytest.approx(least, abs=1e-5)


def test_costs_are_those_of_the_definition(monkeypatch):
    """Points at every pixel centre: bilinear sampling then reads the pixels themselves."""
    class_logits, mask_logits, targets = random_problem(3, 2, size=6)
    targets = SegmentTargets(targets.labels, targets.masks[:, :6, :6])
    centres = (torch.arange(6) + 0.5) / 6
    grid = torch.stack(torch.meshgrid(centres, centres, indexing="xy"), -1).reshape(1, 36, 2)
    monkeypatch.setattr(matcher_module.torch, "rand", lambda *shape, **_: grid)
    costs = HungarianMatcher(class_weight=2.0, mask_weight=5.0, dice_weight=3.0, num_points=36).costs(
        class_logits, mask_logits, targets
    )
    for q in range(3):
        for n in range(2):
            truth = targets.masks[n].float()
            p = mask_logits[q].sigmoid()
            cross_entropy = F.binary_cross_entropy(p, truth)
            dice = 1 - (2 * (p * truth).sum() + 1) / (p.sum() + truth.sum() + 1)
            probability = class_logits[q].softmax(0)[targets.labels[n]]
            assert float(costs[q, n]) == pytest.approx(float(-2 * probability + 5 * cross_entropy + 3 * dice), rel=1e-4)


def test_image_without_segments_matches_nothing():
    queries, segments = HungarianMatcher(num_points=9)(*random_problem(4, 0))
    assert queries.shape == segments.shape == (0,)
    assert queries.dtype == segments.dtype == torch.long


def test_segment_without_a_pixel_is_matched_like_any_other():
    class_logits, mask_logits, targets = random_problem(4, 2)
    targets = SegmentTargets(targets.labels, torch.zeros_like(targets.masks))
    assert sorted(HungarianMatcher(num_points=9)(class_logits, mask_logits, targets)[1].tolist()) == [0, 1]


def test_diverged_outputs_are_named_instead_of_matched():
    class_logits, mask_logits, targets = random_problem(4, 2)
    with pytest.raises(ValueError, match="learning rate"):
        HungarianMatcher(num_points=9)(class_logits * float("nan"), mask_logits, targets)
