import pytest

from mmseg_plugins import Vocabulary
from mmseg_plugins.vocabulary.background import Background


def test_no_background_unless_a_class_is_called_so():
    assert Vocabulary.parse("cat; dog").background == Background()
    named = Vocabulary.parse("cat; background; dog").background
    assert (named.kind, named.index) == ("name", 1)
    assert Vocabulary.parse("cat; background; dog", background="none").background.kind == "none"


@pytest.mark.parametrize("key", ["voc21", "context60", "coco_object"])
def test_benchmarks_with_a_background_know_it(key):
    background = Vocabulary.from_benchmark(key).background
    assert (background.kind, background.index) == ("name", 0)


def test_the_background_of_pas_20b_stands_last_and_competes_with_39_words():
    vocabulary = Vocabulary.from_benchmark("voc20b", "synonyms_catseg")
    assert vocabulary.background.index == 20
    assert len(vocabulary.prompts[20]) == 39
    assert len(vocabulary.rows) == 59


def test_a_threshold_adds_a_class_without_words_in_front():
    vocabulary = Vocabulary.parse("cat; dog", background=0.3)
    assert vocabulary.class_names == ("background", "cat", "dog")
    assert vocabulary.prompts == ((), ("cat",), ("dog",))
    assert vocabulary.row_class == [1, 2]
    assert vocabulary.background == Background(kind="threshold", index=0, threshold=0.3)
    assert vocabulary.palette[0] == (0, 0, 0)


def test_a_threshold_keeps_the_words_of_a_background_class():
    vocabulary = Vocabulary.from_benchmark("voc21", "synonyms_sclip", background=0.1)
    assert len(vocabulary.prompts[0]) == 26
    assert vocabulary.background == Background(kind="threshold", index=0, threshold=0.1)


def test_the_background_may_be_any_class():
    vocabulary = Vocabulary.parse("cat; other: floor, wall", background="other")
    assert vocabulary.background.index == 1
    assert vocabulary.palette[1] == (0, 0, 0)


def test_background_by_name_adds_the_word_background():
    vocabulary = Vocabulary.parse("cat; dog", background="background")
    assert vocabulary.prompts == (("background",), ("cat",), ("dog",))


def test_words_stand_for_the_background():
    vocabulary = Vocabulary.parse("cat; dog", background=["floor", "wall"])
    assert vocabulary.class_names[0] == "background"
    assert vocabulary.prompts[0] == ("floor", "wall")


def test_published_words_of_a_benchmark_by_name():
    vocabulary = Vocabulary.from_benchmark("voc21", background="maskclip_demo")
    assert vocabulary.prompts[0] == ("building", "ground", "grass", "tree", "sky")
    assert vocabulary.num_classes == 21


def test_name_words_and_threshold_together():
    rule = {"name": "rest", "words": ["floor"], "threshold": 0.2}
    vocabulary = Vocabulary.parse("cat; dog", background=rule)
    assert vocabulary.class_names[0] == "rest"
    assert vocabulary.background == Background(kind="threshold", index=0, threshold=0.2)


def test_flags_and_colours_grow_with_an_added_background():
    vocabulary = Vocabulary.from_benchmark("cityscapes", background=0.5)
    assert vocabulary.is_thing[0] is False
    assert len(vocabulary.is_thing) == len(vocabulary.palette) == 20
    assert vocabulary.palette[1] == (128, 64, 128)


def test_another_background_for_a_vocabulary():
    plain = Vocabulary.parse("cat; dog")
    assert plain.with_background(None) is plain
    assert plain.with_background(0.5) == Vocabulary.parse("cat; dog", background=0.5)


@pytest.mark.parametrize("threshold", [0, 1, 1.5, -0.1, float("nan")])
def test_a_threshold_is_a_probability(threshold):
    with pytest.raises(ValueError, match="must be a probability above 0 and below 1"):
        Vocabulary.parse("cat; dog", background=threshold)


@pytest.mark.parametrize(
    ("rule", "error", "message"),
    [
        ("backgrund", KeyError, "unknown background class 'backgrund'. Did you mean 'background'"),
        ({"word": ["x"]}, ValueError, "unknown key 'word'. Did you mean 'words'"),
        ({}, ValueError, "empty dict"),
        ({"words": "sclip"}, KeyError, "give a list of words"),
        ([], ValueError, "no names"),
        (object(), TypeError, "background must be None, 'none', a threshold"),
        (Background(kind="name", index=7), ValueError, "index 7 is not one of the 2 classes"),
        (["cat"], ValueError, "duplicate names"),
    ],
)
def test_unusable_rules_are_refused(rule, error, message):
    with pytest.raises(error, match=message):
        Vocabulary.parse("cat; dog", background=rule)


@pytest.mark.parametrize(
    "fields", [{"kind": "nmae"}, {"kind": "name"}, {"kind": "none", "index": 0}, {"kind": "threshold", "index": 0}]
)
def test_a_rule_must_be_complete(fields):
    with pytest.raises(ValueError, match="background kind"):
        Background(**fields)
