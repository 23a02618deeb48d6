"""Segments of a label map, held against a flood fill."""

from collections import deque

import numpy as np
import pytest
import torch

from mmseg_plugins.prediction.components import panoptic_from_label_map

_STEPS = {4: [(0, 1), (1, 0), (0, -1), (-1, 0)]}
_STEPS[8] = [*_STEPS[4], (1, 1), (1, -1), (-1, 1), (-1, -1)]


def flood(labels, is_thing, connectivity):
    """Fill the parts of one class after another, reading from the top left."""
    ids, entries = np.zeros(labels.shape, np.int64), []
    for index, thing in enumerate(is_thing):
        if not thing and (labels == index).any():
            entries.append((index, int((labels == index).sum())))
            ids[labels == index] = len(entries)
        for start in zip(*np.nonzero((labels == index) & (ids == 0)), strict=True):
            if ids[start]:
                continue
            entries.append([index, 0])
            queue = deque([start])
            ids[start] = len(entries)
            while queue:
                y, x = queue.popleft()
                entries[-1][1] += 1
                for dy, dx in _STEPS[connectivity]:
                    place = (y + dy, x + dx)
                    inside = 0 <= place[0] < labels.shape[0] and 0 <= place[1] < labels.shape[1]
                    if inside and labels[place] == index and not ids[place]:
                        ids[place] = len(entries)
                        queue.append(place)
    return ids, [tuple(entry) for entry in entries]


@pytest.mark.parametrize("connectivity", [4, 8])
@pytest.mark.parametrize("seed", range(4))
def test_equals_a_flood_fill(seed, connectivity):
    labels = np.random.default_rng(seed).integers(-1, 4, (13, 17))
    is_thing = [True, False, True]  # 3 and -1 are no classes
    found = panoptic_from_label_map(torch.from_numpy(labels), is_thing=is_thing, connectivity=connectivity)
    ids, entries = flood(labels, is_thing, connectivity)
    np.testing.assert_array_equal(found.ids, ids)
    assert [(entry["category_id"], entry["area"]) for entry in found.segments_info] == entries
    assert [entry["id"] for entry in found.segments_info] == list(range(1, len(entries) + 1))
    assert [entry["isthing"] for entry in found.segments_info] == [is_thing[k] for k, _ in entries]


def test_a_segments_score_is_the_mean_of_its_pixels():
    labels = torch.tensor([[0, 1, 0], [0, 1, 0]])
    scores = torch.tensor([[0.2, 0.5, 0.9], [0.4, 0.7, 0.1]])
    found = panoptic_from_label_map(labels, is_thing=[True, False], scores=scores)
    assert [entry["score"] for entry in found.segments_info] == pytest.approx([0.3, 0.5, 0.6])
    assert all(e["score"] == 1 for e in panoptic_from_label_map(labels, is_thing=[True, False]).segments_info)


def test_small_segments_leave_their_pixels_unassigned_and_no_gap_in_the_ids():
    labels = torch.tensor([[0, 1, 0, 0], [1, 1, 0, 0]])
    found = panoptic_from_label_map(labels, is_thing=[True, False], min_area=2)
    assert found.ids.tolist() == [[0, 2, 1, 1], [2, 2, 1, 1]]
    assert [entry["area"] for entry in found.segments_info] == [4, 3]


def test_one_class_and_no_class():
    assert panoptic_from_label_map(torch.zeros(2, 2, dtype=torch.long), is_thing=[True]).ids.tolist() == [[1, 1]] * 2
    found = panoptic_from_label_map(torch.full((2, 2), 255, dtype=torch.uint8), is_thing=[True])
    assert found.ids.sum() == 0
    assert found.segments_info == []


def test_names_what_does_not_fit():
    labels = torch.zeros(2, 2, dtype=torch.long)
    with pytest.raises(ValueError, match=r"map of integers, but got torch.float32 \(2, 2\)"):
        panoptic_from_label_map(labels.float(), is_thing=[True])
    with pytest.raises(ValueError, match="differ in size"):
        panoptic_from_label_map(labels, is_thing=[True], scores=torch.zeros(2, 3))
    with pytest.raises(ValueError, match="connectivity"):
        panoptic_from_label_map(labels, is_thing=[True], connectivity=6)
    with pytest.raises(ValueError, match="min_area"):
        panoptic_from_label_map(labels, is_thing=[True], min_area=0)
