"""Segments from the Python API: models of masks and of pixels, words given at call time."""

from dataclasses import replace

import numpy as np
import pytest

from mmseg_plugins import Segmenter

WORDS = "red plain thing; blue striped thing; grass; sand"


@pytest.fixture(scope="module")
def masks(tmp_path_factory):
    """A tiny random SAM named by the embedded model."""
    pytest.importorskip("segment_anything", reason="SAM proposals need segment-anything")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMSEG_PLUGINS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield Segmenter.from_config("sam-random_shapes-vit_shapesworld-64x64", device="cpu")


def check(result):
    counts = np.bincount(result.segment_ids.ravel())
    assert [segment.pixels for segment in result.segments] == sorted(counts[1:][counts[1:] > 0].tolist(), reverse=True)
    for segment in result.segments:
        assert result.segment_mask(segment.id).sum() == segment.pixels
        assert segment.name == result.class_names[segment.index]
        assert 0 < segment.score <= 1


def test_a_model_of_masks_gives_its_segments(masks, picture):
    result = masks.segment(picture, WORDS)
    assert result.about["segments_from"] == "masks"
    assert result.segment_ids.shape == result.labels.shape == (40, 56)
    assert result.segments
    check(result)
    plain = masks.segment(picture, panoptic=False)
    assert plain.segment_ids is None
    assert plain.segments == ()
    assert masks.model.outputs.panoptic, "asking changes nothing for the next call"


def test_one_word_and_other_words(masks, picture):
    result = masks.segment(picture, "grass", panoptic=True)
    assert set(result.labels.ravel()) == {0}
    assert {segment.name for segment in result.segments} == {"grass"}
    check(result)
    check(masks.segment(picture, "sand; snow", panoptic=True))


def test_stuff_of_a_vocabulary_is_one_segment(masks, picture):
    masks.set_vocabulary("grass")
    words = replace(masks.vocabulary, is_thing=(False,))
    result = masks.segment(picture, words, panoptic=True)
    assert len(result.segments) == 1
    assert not result.segments[0].is_thing


def test_points_and_boxes_reach_sam(masks, picture, monkeypatch):
    monkeypatch.setattr(masks.model.proposals, "prompts", "boxes")
    result = masks.segment(picture, WORDS, panoptic=True, prompts={"boxes": [[2, 2, 30, 30]]})
    check(result)
    with pytest.raises(ValueError, match="start from boxes"):
        masks.segment(picture)


def test_connected_parts_where_there_are_no_masks(segmenter, picture):
    assert segmenter.segment(picture, WORDS).segment_ids is None
    result = segmenter.segment(picture, panoptic=True)
    assert result.about["segments_from"] == "label map"
    assert (result.segment_ids > 0).all()
    check(result)
    for segment in result.segments:
        assert (result.labels[result.segment_mask(segment.id)] == segment.index).all()


def test_background_is_no_segment(segmenter, picture):
    try:
        result = segmenter.segment(picture, "background; grass; sand", panoptic=True)
        background = result.labels == result.background_index
        assert (result.segment_ids[background] == 0).all()
        assert "background" not in {segment.name for segment in result.segments}
    finally:
        segmenter.set_vocabulary(WORDS)


def test_a_decoder_takes_one_word_too(picture, tmp_path, monkeypatch):
    monkeypatch.setenv("MMSEG_PLUGINS_CACHE", str(tmp_path))
    decoder = Segmenter.from_config("fcclip_shapes-vit_1xb16-300_shapesworld-64x64", device="cpu")
    result = decoder.segment(picture, "grass", panoptic=True)
    assert result.about["segments_from"] == "masks"
    check(result)
