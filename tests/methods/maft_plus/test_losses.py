import pytest
import torch
import torch.nn.functional as F

from mmseg_plugins.methods.maft_plus.losses import compensation_loss, mask_aware_loss, pooled_descriptor, soft_overlap


def slow_descriptor(features, scales):
    """Cell by cell, from the definition."""
    height, width = features.shape[2:]
    square = F.interpolate(features, [max(height, width)] * 2, mode="bilinear") if height != width else features
    parts = []
    for scale in scales:
        side = width // scale
        starts = [i * side for i in range(square.shape[2] // side)]
        rows = [[square[:, :, i : i + side, j : j + side].mean((2, 3)) for j in starts] for i in starts]
        cells = torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)
        parts += [cells.sum(2).flatten(1), cells.sum(3).flatten(1)]
    return torch.cat(parts, 1)


@pytest.mark.parametrize("size", [(8, 8), (5, 9), (9, 5), (13, 4)])
def test_descriptor_equals_its_definition(size):
    features = torch.randn(2, 3, *size)
    torch.testing.assert_close(pooled_descriptor(features), slow_descriptor(features, (1, 2, 4)), atol=1e-5, rtol=1e-5)


def test_a_portrait_yields_more_cells_than_the_scale_says():
    assert pooled_descriptor(torch.zeros(1, 1, 12, 4)).shape[1] == 2 * (3 + 6 + 12)
    assert pooled_descriptor(torch.zeros(1, 1, 4, 12)).shape[1] == 2 * (1 + 2 + 4)


@pytest.mark.parametrize("width", [1, 3])
def test_a_map_that_is_too_narrow_says_how_wide_images_must_be(width):
    with pytest.raises(ValueError, match="128 pixels wide"):
        compensation_loss(torch.zeros(1, 2, 8, width), torch.zeros(1, 2, 8, width))


def test_compensation_ignores_what_is_negative_in_both_and_vanishes_for_equal_maps():
    student, teacher = torch.randn(2, 3, 6, 6), torch.randn(2, 3, 6, 6)
    assert compensation_loss(student, student) == 0
    assert compensation_loss(-student.abs(), -teacher.abs()) == 0
    assert compensation_loss(student, teacher) > 0


def slow_mask_aware(class_logits, mask_logits, labels, masks):
    """The published form: every pair of ground truth and proposal at image size."""
    got, wanted = [], []
    for image in range(len(class_logits)):
        enlarged = F.interpolate(mask_logits[image : image + 1].sigmoid(), masks[image].shape[1:], mode="bilinear")[0]
        for label, mask in zip(labels[image], masks[image].float(), strict=True):
            shared = (enlarged * mask).sum((1, 2))
            overlap = shared / (enlarged.sum((1, 2)) + mask.sum() - shared + 1e-7)
            wanted.append((overlap - overlap.min()) / (overlap.max() - overlap.min() + 1e-8))
            got.append(class_logits[image, :, :-1].softmax(-1)[:, label])
    return F.smooth_l1_loss(torch.stack(got), torch.stack(wanted))


def random_targets(*numbers, classes=5, size=(24, 32)):
    labels = [torch.randint(classes, (n,)) for n in numbers]
    return labels, [torch.rand(n, *size) > 0.6 for n in numbers]


@pytest.mark.parametrize("numbers", [(3, 2), (0, 4), (1, 0)])
@pytest.mark.parametrize("grid", [(6, 8), (24, 32), (7, 5)])
def test_mask_aware_loss_equals_the_form_at_image_size(numbers, grid):
    torch.manual_seed(0)
    class_logits, mask_logits = torch.randn(2, 7, 6, requires_grad=True), torch.randn(2, 7, *grid) * 3
    labels, masks = random_targets(*numbers)
    loss = mask_aware_loss(class_logits[..., :-1], mask_logits, labels, masks)
    slow = slow_mask_aware(class_logits, mask_logits, labels, masks)
    torch.testing.assert_close(loss, slow, atol=1e-6, rtol=1e-5)
    (ours,), (theirs,) = torch.autograd.grad(loss, class_logits), torch.autograd.grad(slow, class_logits)
    torch.testing.assert_close(ours, theirs, atol=1e-7, rtol=1e-4)


def test_without_ground_truth_the_mask_aware_loss_is_zero_and_differentiable():
    class_logits = torch.randn(2, 4, 3, requires_grad=True)
    loss = mask_aware_loss(class_logits, torch.randn(2, 4, 6, 6), *random_targets(0, 0))
    loss.backward()
    assert loss == 0
    assert not class_logits.grad.any()


def test_masks_get_no_gradient():
    class_logits, mask_logits = torch.randn(1, 4, 6), torch.randn(1, 4, 6, 6, requires_grad=True)
    mask_aware_loss(class_logits.requires_grad_(), mask_logits, *random_targets(2)).backward()
    assert mask_logits.grad is None
    assert class_logits.grad.abs().max() > 0


def test_images_may_have_different_numbers_of_proposals():
    torch.manual_seed(0)
    class_logits, mask_logits = torch.randn(2, 7, 6), torch.randn(2, 7, 6, 8)
    labels, masks = random_targets(3, 2)
    pairs = [(class_logits[0], mask_logits[0]), (class_logits[1, :4], mask_logits[1, :4])]
    loss = mask_aware_loss([pair[0] for pair in pairs], [pair[1] for pair in pairs], labels, masks)
    parts = [
        mask_aware_loss(logits[None], maps[None], labels[i : i + 1], masks[i : i + 1])
        for i, (logits, maps) in enumerate(pairs)
    ]
    torch.testing.assert_close(loss, (parts[0] * 21 + parts[1] * 8) / 29)


def test_overlap_of_a_perfect_proposal_is_one():
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[:, 2:5, 3:7] = True
    assert soft_overlap(mask.float(), mask)[0, 0] == pytest.approx(1.0, abs=1e-5)
    assert soft_overlap((~mask).float(), mask)[0, 0] == pytest.approx(0.0, abs=1e-5)


def test_losses_are_finite_in_reduced_precision():
    logits = torch.randn(1, 4, 6, dtype=torch.bfloat16, requires_grad=True)
    loss = mask_aware_loss(logits, torch.randn(1, 4, 6, 6, dtype=torch.bfloat16), *random_targets(2))
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    student = torch.randn(1, 3, 5, 7, dtype=torch.bfloat16)
    assert torch.isfinite(compensation_loss(student, student + 1))
