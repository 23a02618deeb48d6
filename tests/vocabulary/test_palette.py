import numpy as np
import pytest

from mmseg_plugins import Vocabulary
from mmseg_plugins.vocabulary.palette import distinct_colours


@pytest.mark.parametrize("count", [0, 1, 2, 150, 2000])
def test_colours_are_distinct_and_never_black(count):
    colours = distinct_colours(count)
    assert len(colours) == len(set(colours)) == count
    assert (0, 0, 0) not in colours
    assert all(0 <= value <= 255 for colour in colours for value in colour)


def test_more_classes_than_grid_colours_are_still_distinct():
    colours = distinct_colours(20_000)
    assert len(set(colours)) == 20_000
    assert (0, 0, 0) not in colours


@pytest.mark.parametrize(("count", "least"), [(10, 50), (20, 40), (150, 16), (847, 8)])
def test_colours_are_far_apart(count, least):
    lab = cielab(np.array(distinct_colours(count)))
    distance = np.linalg.norm(lab[:, None] - lab[None], axis=-1)
    np.fill_diagonal(distance, np.inf)
    assert distance.min() >= least
    assert np.linalg.norm(lab, axis=-1).min() >= 30  # from black


def test_a_longer_palette_starts_with_the_shorter_one():
    assert distinct_colours(300)[:40] == distinct_colours(40)


def test_colours_in_use_are_avoided():
    taken = distinct_colours(5)
    assert not set(taken) & set(distinct_colours(50, taken))


def test_the_background_is_black_and_given_colours_stay():
    vocabulary = Vocabulary.parse(
        {"cat": None, "dog": {"names": ["dog"], "color": [0, 0, 255]}}, background="background"
    )
    assert vocabulary.palette[0] == (0, 0, 0)
    assert vocabulary.palette[2] == (0, 0, 255)
    assert len(set(vocabulary.palette)) == 3


def test_the_number_of_colours_is_checked():
    with pytest.raises(ValueError, match="from 0 to"):
        distinct_colours(-1)


def cielab(rgb):
    """CIELAB of 8-bit sRGB, written from CIE 15 for one colour at a time."""

    def one(colour):
        r, g, b = (v / 255 / 12.92 if v / 255 <= 0.04045 else ((v / 255 + 0.055) / 1.055) ** 2.4 for v in colour)
        xyz = (
            (0.4124 * r + 0.3576 * g + 0.1805 * b) / 0.9505,
            0.2126 * r + 0.7152 * g + 0.0722 * b,
            (0.0193 * r + 0.1192 * g + 0.9505 * b) / 1.089,
        )
        x, y, z = (t ** (1 / 3) if t > (6 / 29) ** 3 else t * (29 / 6) ** 2 / 3 + 4 / 29 for t in xyz)
        return 116 * y - 16, 500 * (x - y), 200 * (y - z)

    return np.array([one(colour) for colour in rgb.tolist()])
