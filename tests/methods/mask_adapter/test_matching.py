import itertools

import pytest
import torch
import torch.nn.functional as F

from mmseg_plugins.masks.targets import SegmentTargets
from mmseg_plugins.methods.mask_adapter.losses import classification_loss, consistency_loss
from mmseg_plugins.methods.mask_adapter.matching import (
    MatchedPair,
    ground_truth_masks,
    mask_iou,
    masks_on_stride,
    match_by_iou,
    mixed_masks,
    without_empty,
)
from mmseg_plugins.methods.mask_adapter.options import AdapterTraining, MaskSkipping


def targets(count, size=(16, 16), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return SegmentTargets(torch.arange(count), torch.rand(count, *size, generator=generator) > 0.5)


def test_overlap_is_that_of_sets_of_pixels():
    predicted, annotated = torch.rand(3, 5, 7) > 0.4, torch.rand(4, 5, 7) > 0.6
    got = mask_iou(predicted, annotated)
    for one, other in itertools.product(range(3), range(4)):
        a, b = (set(m.flatten().nonzero().flatten().tolist()) for m in (predicted[one], annotated[other]))
        assert got[one, other] == pytest.approx(len(a & b) / (len(a | b) + 1e-6), rel=1e-5)
    assert mask_iou(torch.zeros(1, 2, 2, dtype=torch.bool), torch.zeros(1, 2, 2, dtype=torch.bool)) == 0


def test_every_candidate_is_chosen_about_as_often():
    torch.manual_seed(0)
    overlap = torch.tensor([[0.8, 0.1], [0.9, 0.2], [0.71, 0.9], [0.7, 0.0]])
    counts = torch.zeros(4)
    for _ in range(600):
        pair = match_by_iou(overlap, 0.7, 8)
        assert pair.targets.tolist() == [0, 1]
        assert pair.queries[1] == 2, "a prediction may serve several masks"
        counts[pair.queries[0]] += 1
    assert counts[3] == 0, "the overlap must exceed the threshold"
    assert (counts[:3] > 150).all()


def test_no_more_pairs_than_asked_for_and_none_where_nothing_fits():
    pair = match_by_iou(torch.full((3, 20), 0.9), 0.7, 8)
    assert len(pair.targets) == len(set(pair.targets.tolist())) == 8
    for shape in ((0, 3), (3, 0), (3, 2)):
        assert len(match_by_iou(torch.zeros(shape), 0.7, 8).queries) == 0


def test_first_phase_takes_a_random_subset_and_drops_empty_masks():
    item = targets(40)
    item.masks[3] = False
    torch.manual_seed(0)
    first = ground_truth_masks([item, targets(2)], 32)
    assert first.masks.shape == (2, 32, 16, 16)
    chosen = first.labels[0]
    assert len(set(chosen.tolist())) == 32
    assert 3 not in chosen
    for label, mask in zip(chosen, first.masks[0], strict=True):
        assert torch.equal(mask.bool(), item.masks[label])
    assert first.labels[1, 2:].eq(-1).all()
    assert not first.masks[1, 2:].any()
    assert not torch.equal(ground_truth_masks([item], 32).labels[0], chosen)
    assert ground_truth_masks([targets(0)], 32).labels.tolist() == [[-1]]
    assert len(without_empty(item).labels) == 39


@pytest.mark.parametrize("threshold", [0.4, 0.5])
@pytest.mark.parametrize("counts", [(3, 2), (5, 1)])
def test_mixed_masks_stand_where_the_options_say(threshold, counts):
    num_gt, num_matched = counts
    items, logits = [targets(4), targets(1, seed=1)], torch.randn(2, 6, 4, 4)
    pairs = [MatchedPair(torch.tensor([5]), torch.tensor([2])), MatchedPair(*torch.zeros(2, 0, dtype=torch.int64))]
    masks = mixed_masks(items, logits, pairs, num_gt=num_gt, num_matched=num_matched, threshold=threshold)
    total = num_gt + 2 * num_matched
    assert masks.masks.shape == (2, total, 16, 16)
    assert masks.pairs.tolist() == [[num_gt + i, num_gt + num_matched + i] for i in range(num_matched)]
    first, second = masks.pairs[0].tolist()
    predicted = (logits[0, 5].sigmoid() > threshold).float()
    annotated = (F.interpolate(items[0].masks[None].float(), (4, 4), mode="bilinear")[0, 2] > 0.5).float()
    for place, small in ((first, predicted), (second, annotated)):
        large = F.interpolate(small[None, None], (16, 16), mode="bilinear", align_corners=False)[0, 0]
        torch.testing.assert_close(masks.masks[0, place], large)
        assert masks.labels[0, place] == 2
    assert masks.labels[1].tolist() == [0] + [-1] * (total - 1)
    assert not masks.masks[1, 1:].any(), "padding is empty whatever the threshold"


def test_the_published_padding_is_full_below_a_half():
    nothing = MatchedPair(*torch.zeros(2, 0, dtype=torch.int64))
    for threshold, expected in ((0.4, 1.0), (0.5, 0.0)):
        masks = mixed_masks(
            [targets(1)], torch.randn(1, 6, 4, 4), [nothing], num_gt=1, num_matched=2, threshold=threshold,
            full_padding=True,
        )  # fmt: skip
        assert masks.masks[0, 1:3].eq(expected).all()
        assert not masks.masks[0, 3:].any()


def test_annotated_masks_are_halved_like_the_published_ones():
    assert masks_on_stride(torch.zeros(0, 16, 16), (4, 4)).shape == (0, 4, 4)
    mask = torch.zeros(1, 8, 8)
    mask[:, :, :4] = 1
    assert masks_on_stride(mask, (2, 2)).tolist() == [[[True, False], [True, False]]]


def test_classification_loss_leaves_padding_out_and_is_never_nan():
    logits, labels = torch.randn(2, 3, 5, requires_grad=True), torch.tensor([[0, -1, 4], [2, -1, -1]])
    real = labels != -1
    expected = F.cross_entropy(logits[real], labels[real])
    torch.testing.assert_close(classification_loss(logits, labels), expected)
    loss = classification_loss(logits, torch.full((2, 3), -1))
    loss.backward()
    assert loss == 0
    assert logits.grad.eq(0).all()


def test_consistency_counts_padding_as_published_or_not():
    embeddings = torch.randn(1, 4, 6)
    embeddings[:, 3] = embeddings[:, 1]
    pairs, is_real = torch.tensor([[0, 2], [1, 3]]), torch.tensor([[True, False, True, False]])
    cosine = F.cosine_similarity(embeddings[0, 0], embeddings[0, 2], dim=0)
    diluted = consistency_loss(embeddings, pairs, is_real)
    masked = consistency_loss(embeddings, pairs, is_real, count_padding=False)
    torch.testing.assert_close(diluted, (1 - cosine) / 2)
    torch.testing.assert_close(masked, 1 - cosine)
    assert consistency_loss(embeddings, pairs, torch.zeros_like(is_real), count_padding=False) == 0


@pytest.mark.parametrize("detach", [True, False])
def test_the_annotated_side_learns_only_where_it_is_not_detached(detach):
    embeddings = torch.randn(1, 2, 6, requires_grad=True)
    consistency_loss(embeddings, torch.tensor([[0, 1]]), torch.ones(1, 2).bool(), detach_target=detach).backward()
    assert embeddings.grad[0, 0].any()
    assert bool(embeddings.grad[0, 1].any()) is not detach


@pytest.mark.parametrize("values", [{"phase": "second"}, {"num_gt": 0}, {"iou_threshold": 1.0}, {"iou_binarise": 0.0}])
def test_training_options_are_checked(values):
    with pytest.raises(ValueError, match=next(iter(values))):
        AdapterTraining(**values)


def test_a_negative_budget_is_refused():
    with pytest.raises(ValueError, match="semantic_budget"):
        MaskSkipping(semantic_budget=-1.0)
