import pytest

from mmseg_plugins import Vocabulary
from mmseg_plugins.vocabulary.overlap import seen_mask

# Classes that share a name with COCO panoptic (133) and with COCO-Stuff (171).
SEEN = {
    "coco_panoptic_133": (133, 131),
    "coco_stuff_171": (135, 171),
    "ade20k_150": (64, 67),
    "ade20k_847": (101, 115),
    "context59": (51, 51),
    "context459": (85, 94),
    "voc21": (21, 21),
    "voc20": (20, 20),
    "cityscapes_19": (17, 17),
    "mapillary_vistas_65": (26, 26),
}


@pytest.mark.parametrize("key", SEEN)
def test_seen_counts_of_the_published_lists(key):
    vocabulary = Vocabulary.from_benchmark(key, "synonyms_fcclip")
    training = [Vocabulary.from_benchmark(name, "synonyms_fcclip") for name in ("coco_panoptic", "coco_stuff")]
    assert tuple(sum(seen_mask(vocabulary, known)) for known in training) == SEEN[key]


def test_any_name_against_any_name_exactly():
    training = Vocabulary.parse("couch, sofa; Dog; trees")
    assert seen_mask(Vocabulary.parse("seat: bench, sofa; dog; tree; trees"), training) == (True, False, False, True)


def test_blanks_do_not_matter():
    assert seen_mask(Vocabulary.parse([["bed "]]), Vocabulary.parse([[" bed"]])) == (True,)


def test_a_background_without_words_is_unseen():
    assert seen_mask(Vocabulary.parse("cat", background=0.5), Vocabulary.parse("cat; background")) == (False, True)
