import pytest
import torch

from mmseg_plugins.prediction.segments import MaskGeometry
from mmseg_plugins.prediction.segments_instance import instance_masks
from tests.prediction.test_segments import GEOMETRIES, draw, slow_masks


def slow_instances(scores, masks, geometry, top_k, is_thing):
    """Every pair of mask and class as a list, the best of them, sorted."""
    share = scores.softmax(-1)[:, :-1]
    pairs = sorted(((float(share[q, k]), q, k) for q in range(len(share)) for k in range(share.shape[1])), reverse=True)
    full = slow_masks(masks, geometry)
    found = []
    for value, q, k in pairs[:top_k]:
        if is_thing is None or is_thing[k]:
            mask = full[q] > 0
            inside = float((full[q].sigmoid() * mask).sum() / (mask.sum() + 1e-6))
            found.append((value * inside, k, mask))
    return sorted(found, key=lambda entry: (-entry[0], entry[1]))


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("is_thing", [None, (True, False, True, True, False)])
def test_instances_are_the_best_pairs(geometry, is_thing):
    scores, masks = draw()
    expected = slow_instances(scores, masks, geometry, 12, is_thing)
    found = instance_masks(scores, masks, geometry, top_k=12, is_thing=is_thing)
    assert found.labels.tolist() == [label for _, label, _ in expected]
    torch.testing.assert_close(found.scores, torch.tensor([value for value, _, _ in expected]))
    difference = found.masks != torch.stack([mask for _, _, mask in expected])
    assert difference.float().mean() < 1e-3
    assert found.masks.dtype == torch.bool


def test_more_pairs_than_there_are_and_empty_masks():
    scores, masks = torch.zeros(2, 3), torch.full((2, 2, 2), -1.0)
    found = instance_masks(scores, masks, MaskGeometry(output_size=(3, 3)), top_k=100)
    assert found.masks.shape == (4, 3, 3)
    assert not found.masks.any()
    assert (found.scores == 0).all()


@pytest.mark.parametrize("scores", [torch.zeros(0, 3), torch.zeros(2, 3)])
def test_nothing_left_gives_empty_tensors(scores):
    masks = torch.zeros(len(scores), 2, 2)
    found = instance_masks(scores, masks, MaskGeometry(output_size=(3, 3)), is_thing=(False, False))
    assert found.masks.shape == (0, 3, 3)
    assert found.labels.shape == found.scores.shape == (0,)


def test_flags_must_fit_the_classes():
    with pytest.raises(ValueError, match="2 classes, but has 3"):
        instance_masks(torch.zeros(1, 3), torch.zeros(1, 2, 2), MaskGeometry(output_size=(2, 2)), is_thing=(1, 0, 1))
