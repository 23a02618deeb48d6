import cv2
import numpy as np
import pytest
import torch

from mmseg_plugins.evaluation.boundary import (
    boundary_iou,
    boundary_pixels,
    boundary_width,
    semantic_boundary_areas,
)


def eroded_boundary(mask, width):
    """The published definition: pad by one zero, erode with a 3 x 3 square, subtract."""
    padded = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    eroded = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=width)[1:-1, 1:-1]
    return mask.astype(bool) & (eroded == 0)


def blobs(seed, shape, values):
    coarse = np.random.default_rng(seed).integers(0, values, (shape[0] // 6 + 1, shape[1] // 6 + 1))
    return np.kron(coarse, np.ones((6, 6), np.int64))[: shape[0], : shape[1]]


@pytest.mark.parametrize("width", [1, 2, 3, 7, 40])
@pytest.mark.parametrize("shape", [(30, 47), (12, 80), (5, 5), (1, 9)])
def test_boundaries_of_all_regions_equal_the_erosion_of_each(shape, width):
    labels = blobs(sum(shape), shape, 4)
    got = boundary_pixels(torch.from_numpy(labels), width=width).numpy()
    for value in np.unique(labels):
        mask = labels == value
        np.testing.assert_array_equal(got & mask, eroded_boundary(mask, width), err_msg=f"region {value}")


def test_stack_of_masks_is_treated_mask_by_mask():
    masks = torch.from_numpy(np.stack([blobs(seed, (24, 30), 2) for seed in range(3)])) > 0
    together = boundary_pixels(masks, width=2)
    for mask, boundary in zip(masks, together, strict=True):
        assert torch.equal(boundary, boundary_pixels(mask, width=2))


def test_width_is_a_share_of_the_diagonal_and_at_least_one_pixel():
    assert boundary_width(30, 40) == 1
    assert boundary_width(300, 400) == 10
    assert boundary_width(3, 4, 0.5) == 2  # 2.5 rounds to even, as published
    assert boundary_width(1, 1) == 1
    with pytest.raises(ValueError, match="positive"):
        boundary_width(3, 4, 0)


def test_boundary_iou_of_equal_disjoint_and_empty_masks():
    mask = torch.zeros(40, 40, dtype=torch.bool)
    mask[5:20, 5:20] = True
    assert boundary_iou(mask, mask) == 1
    assert boundary_iou(mask, mask.flip(0, 1)) == 0
    assert torch.isnan(boundary_iou(torch.zeros_like(mask), torch.zeros_like(mask)))


def test_boundary_iou_takes_stacks_and_refuses_other_shapes():
    masks = torch.from_numpy(np.stack([blobs(seed, (24, 30), 2) for seed in range(4)])) > 0
    got = boundary_iou(masks[:2], masks[2:])
    assert got.shape == (2,)
    assert got[1] == boundary_iou(masks[1], masks[3])
    with pytest.raises(ValueError, match="one shape"):
        boundary_iou(masks[0], masks[0].T)


@pytest.mark.parametrize("seed", range(3))
def test_semantic_areas_apply_the_binary_definition_to_each_class(seed):
    label, prediction = blobs(seed, (41, 53), 5), blobs(seed + 10, (41, 53), 5)
    prediction[:20] = label[:20]
    label[7:13, 4:19] = 255
    areas = semantic_boundary_areas(torch.from_numpy(prediction), torch.from_numpy(label), 5, dilation_ratio=0.05)
    width = boundary_width(41, 53, 0.05)
    valid = label != 255
    for index in range(5):
        a = eroded_boundary((prediction == index) & valid, width)
        b = eroded_boundary(label == index, width)
        assert areas.true_positive[index] == (a & b).sum()
        assert areas.predicted[index] == a.sum()
        assert areas.labelled[index] == b.sum()


def test_perfect_prediction_scores_one_whatever_it_says_where_labels_are_ignored():
    label = torch.from_numpy(blobs(3, (40, 50), 4))
    prediction = label.clone()
    label[10:30, 10:30] = 255
    areas = semantic_boundary_areas(prediction, label, 4)
    assert torch.equal(areas.true_positive, areas.union)


def test_semantic_areas_need_one_image_at_a_time():
    with pytest.raises(ValueError, match="Call once per image"):
        semantic_boundary_areas(torch.zeros(2, 4, 4).long(), torch.zeros(2, 4, 4).long(), 3)
