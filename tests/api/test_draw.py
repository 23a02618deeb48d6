import numpy as np
import pytest
from PIL import Image

from mmseg_plugins.api.draw import LegendEntry, draw_label_map, draw_legend, enlarge_small

PALETTE = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
GREY = np.full((6, 9, 3), 100, dtype=np.uint8)
LABELS = np.repeat(np.arange(3), 3)[None].repeat(6, 0)


def test_colours_blend_by_opacity():
    drawn = draw_label_map(GREY, LABELS, PALETTE, opacity=0.5, borders=False)
    for k, colour in enumerate(PALETTE):
        assert np.abs(drawn[k == LABELS].astype(float) - (100 + np.array(colour)) / 2).max() <= 1
    assert np.array_equal(draw_label_map(GREY, LABELS, PALETTE, opacity=0), GREY)
    assert np.array_equal(draw_label_map(GREY, LABELS, PALETTE, opacity=1, borders=False)[0, 0], PALETTE[0])


def test_skipped_and_unknown_classes_are_left_alone():
    drawn = draw_label_map(GREY, np.where(LABELS == 2, 255, LABELS), PALETTE, borders=False, skip=0)
    assert (drawn[:, :3] == 100).all()
    assert (drawn[:, 6:] == 100).all()
    assert (drawn[:, 3:6] != 100).any()


def test_borders_lie_where_classes_meet():
    plain = draw_label_map(GREY, LABELS, PALETTE, borders=False)
    lined = draw_label_map(GREY, LABELS, PALETTE)
    columns = np.flatnonzero((plain != lined).any((0, 2)))
    assert columns.tolist() == [2, 5]


@pytest.mark.parametrize(
    "draw",
    [
        lambda picture: draw_label_map(picture, LABELS, PALETTE),
        lambda picture: draw_legend(picture, [LegendEntry("grass", (0, 255, 0), 0.4)]),
        lambda picture: enlarge_small(picture),
    ],
)
def test_kind_is_kept_and_the_input_untouched(draw):
    before = GREY.copy()
    from_array, from_pil = draw(GREY), draw(Image.fromarray(GREY))
    assert isinstance(from_array, np.ndarray)
    assert from_array.dtype == np.uint8
    assert isinstance(from_pil, Image.Image)
    assert np.array_equal(from_array, np.asarray(from_pil))
    assert np.array_equal(GREY, before)


def test_legend_shows_every_swatch_and_keeps_the_picture():
    picture = np.full((50, 400, 3), 7, dtype=np.uint8)
    entries = [LegendEntry(f"class {k}", (k, 200, 255 - k), 0.1) for k in range(20)]
    sheet = draw_legend(picture, entries)
    assert np.array_equal(sheet[:50], picture)
    panel = sheet[50:].reshape(-1, 3)
    for entry in entries:
        assert (panel == entry.colour).all(1).sum() > 50, entry.name
    assert (panel == (25, 25, 25)).all(1).any(), "no text"


def test_legend_is_readable_on_tiny_and_bounded_on_huge_pictures():
    for size in ((1, 1), (1, 5000), (5000, 1), (64, 64)):
        sheet = draw_legend(
            np.zeros((*size, 3), np.uint8), [LegendEntry("a very long name of a class" * 4, (1, 2, 3), 1)]
        )
        assert sheet.shape[1] >= 200
        assert sheet.shape[0] - size[0] >= 20


def test_many_classes_are_cut_short_with_a_count():
    few = draw_legend(GREY, [LegendEntry(str(k), (0, 0, 0)) for k in range(5)], most=5)
    many = draw_legend(GREY, [LegendEntry(str(k), (0, 0, 0)) for k in range(500)], most=5)
    assert 0 < many.shape[0] - few.shape[0] < 40


def test_small_pictures_grow_by_whole_factors():
    assert enlarge_small(GREY, side=30).shape == (18, 27, 3)
    assert enlarge_small(np.zeros((600, 700, 3), np.uint8)).shape == (600, 700, 3)


@pytest.mark.parametrize(
    ("image", "labels", "options", "message"),
    [
        (GREY, LABELS[:5], {}, "differ in size"),
        (GREY, LABELS, {"opacity": 2}, "opacity between 0 and 1"),
        (GREY.astype(float), LABELS, {}, "uint8 RGB"),
        (GREY[:, :, 0], LABELS, {}, "uint8 RGB"),
    ],
)
def test_wrong_input_is_named(image, labels, options, message):
    with pytest.raises(ValueError, match=message):
        draw_label_map(image, labels, PALETTE, **options)
