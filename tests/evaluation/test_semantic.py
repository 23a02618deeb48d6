import pytest
import torch

from mmseg_plugins.evaluation import semantic
from mmseg_plugins.evaluation.semantic import SemanticAreas, semantic_areas


def slow_areas(prediction, label, num_classes, ignore_index):
    """Count pixel by pixel, as the protocol words it."""
    counts = torch.zeros(3, num_classes + 1, dtype=torch.int64)
    for p, g in zip(prediction.flatten().tolist(), label.flatten().tolist(), strict=True):
        if g == ignore_index:
            continue
        counts[1, p if 0 <= p < num_classes else num_classes] += 1
        counts[2, g if 0 <= g < num_classes else num_classes] += 1
        if p == g and 0 <= g < num_classes:
            counts[0, g] += 1
    return counts


def random_maps(seed, num_classes, ignore_index, shape=(13, 17)):
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, num_classes, shape, generator=generator)
    prediction = label.clone()
    wrong = torch.rand(shape, generator=generator) < 0.4
    prediction[wrong] = torch.randint(-2, num_classes + 3, (int(wrong.sum()),), generator=generator)
    label[torch.rand(shape, generator=generator) < 0.2] = ignore_index
    return prediction, label


@pytest.mark.parametrize("ignore_index", [255, 65535, -1, 2])
@pytest.mark.parametrize("num_classes", [1, 7, 300, 1500])
def test_counts_equal_counting_pixel_by_pixel(num_classes, ignore_index):
    prediction, label = random_maps(num_classes, num_classes, ignore_index)
    label[0, :3] = torch.tensor([num_classes, -7, num_classes + 1])  # neither a class nor ignored
    areas = semantic_areas(prediction, label, num_classes, ignore_index=ignore_index)
    assert areas.counts.dtype == torch.int64
    assert torch.equal(areas.counts, slow_areas(prediction, label, num_classes, ignore_index))


def test_joint_and_separate_histograms_agree(monkeypatch):
    prediction, label = random_maps(0, 40, 255)
    joint = semantic_areas(prediction, label, 40)
    monkeypatch.setattr(semantic, "_JOINT_BINS", 0)
    assert torch.equal(joint.counts, semantic_areas(prediction, label, 40).counts)


def test_large_maps_are_counted_in_pieces_with_the_same_result(monkeypatch):
    prediction, label = random_maps(1, 9, 255, (50, 31))
    whole = semantic_areas(prediction, label, 9)
    monkeypatch.setattr(semantic, "CHUNK_PIXELS", 64)
    assert torch.equal(whole.counts, semantic_areas(prediction, label, 9).counts)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_every_integer_type_gives_the_same_counts(dtype):
    prediction, label = random_maps(2, 20, 21)
    prediction = prediction.clamp(0, 19)
    want = semantic_areas(prediction, label, 20, ignore_index=21).counts
    assert torch.equal(semantic_areas(prediction.to(dtype), label.to(dtype), 20, ignore_index=21).counts, want)


def test_ignore_65535_does_not_hit_255_in_8_bit_maps():
    label = torch.full((4, 4), 255, dtype=torch.uint8)
    areas = semantic_areas(label, label, 300, ignore_index=65535)
    assert areas.labelled[255] == 16
    assert areas.true_positive[255] == 16


def test_16_bit_tensors_are_counted():
    label = torch.tensor([[0, 40000, 65535]], dtype=torch.uint16)
    areas = semantic_areas(label, label, 40001, ignore_index=65535)
    assert areas.true_positive[[0, 40000]].tolist() == [1, 1]
    assert areas.labelled.sum() == 2


def test_totals_stay_exact_beyond_the_range_of_float32():
    block = SemanticAreas(torch.full((3, 3), 2**24, dtype=torch.int64))
    one = SemanticAreas(torch.ones(3, 3, dtype=torch.int64))
    assert (block + one).true_positive.tolist() == [2**24 + 1] * 2


def test_stack_of_images_counts_as_their_sum():
    prediction, label = random_maps(3, 5, 255, (3, 8, 9))
    total = SemanticAreas.zeros(5)
    for p, g in zip(prediction, label, strict=True):
        total = total + semantic_areas(p, g, 5)
    assert torch.equal(total.counts, semantic_areas(prediction, label, 5).counts)


def test_empty_maps_count_nothing():
    assert semantic_areas(torch.zeros(0, 4).long(), torch.zeros(0, 4).long(), 3).counts.sum() == 0


def test_values_far_outside_do_not_wrap_into_classes():
    prediction = torch.tensor([[2**32, -(2**32), 2**40]])
    areas = semantic_areas(prediction, torch.zeros(1, 3).long(), 3)
    assert areas.unanswered == 3
    assert areas.predicted.sum() == 0


def test_maps_of_different_size_are_refused_with_both_sizes():
    with pytest.raises(ValueError, match=r"\(4, 5\).*\(5, 4\).*Resize"):
        semantic_areas(torch.zeros(4, 5).long(), torch.zeros(5, 4).long(), 3)


def test_logits_are_refused():
    with pytest.raises(TypeError, match="arg-max"):
        semantic_areas(torch.zeros(4, 5), torch.zeros(4, 5).long(), 3)


def test_no_classes_are_refused():
    with pytest.raises(ValueError, match="at least 1"):
        semantic_areas(torch.zeros(2, 2).long(), torch.zeros(2, 2).long(), 0)
