import subprocess
import sys

import pytest

from mmseg_plugins import Vocabulary
from mmseg_plugins.vocabulary.background import Background

THRESHOLD = Background(kind="threshold", index=0, threshold=0.5)


def test_rows_and_their_classes():
    vocabulary = Vocabulary.parse("cat; sofa, couch; other: floor, wall")
    assert vocabulary.num_classes == 3
    assert vocabulary.rows == ["cat", "sofa", "couch", "floor", "wall"]
    assert vocabulary.row_class == [0, 1, 1, 2, 2]
    assert vocabulary.groups == {"other": ("floor", "wall")}


def test_a_vocabulary_is_a_value():
    one, two = Vocabulary.parse("cat; dog"), Vocabulary.parse(["cat", "dog"])
    assert one == two
    assert hash(one) == hash(two)
    assert Vocabulary.parse(one) is one
    assert one != Vocabulary.parse("dog; cat")


def test_mmsegs_metadata():
    meta = Vocabulary.parse("cat; dog").dataset_meta
    assert meta["classes"] == ("cat", "dog")
    assert all(isinstance(colour, list) for colour in meta["palette"])


def test_two_thousand_classes():
    vocabulary = Vocabulary.parse([f"class {index}" for index in range(2000)], background=0.1)
    assert vocabulary.num_classes == 2001
    assert len(set(vocabulary.palette)) == 2001


@pytest.mark.parametrize("text", ["cat; dog; cat", "cat; dog; Cat", "cat; x: cat; cat: lion"])
def test_duplicate_classes_are_named_with_their_places(text):
    with pytest.raises(ValueError, match=r"duplicate classes.*'cat' \(classes 1, 3\)"):
        Vocabulary.parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sofa, couch; bench, couch", r"'couch' \(in 'sofa' and 'bench'\)"),
        ("sofa, couch, Couch", r"'couch' \(in 'sofa', twice\)"),
        ("cat; other: cat, wall", r"'cat' \(in 'cat' and 'other'\)"),
    ],
)
def test_duplicate_names_are_named_with_their_classes(text, message):
    with pytest.raises(ValueError, match=message):
        Vocabulary.parse(text)


def test_many_duplicates_are_counted():
    with pytest.raises(ValueError, match="and 3 more"):
        Vocabulary.parse("; ".join(2 * [f"class {index}" for index in range(8)]))


def test_unknown_classes_say_what_was_meant():
    with pytest.raises(KeyError, match="unknown class 'cta'. Did you mean 'cat'"):
        Vocabulary.parse("cat; dog").index("cta")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"class_names": (), "prompts": ()}, "empty vocabulary"),
        ({"class_names": ("a", "b"), "prompts": (("a",),)}, "prompts has 1 entries for 2 classes"),
        ({"class_names": ("a", "b"), "prompts": (("a",), ())}, "class 'b' has no name to prompt with"),
        ({"class_names": ("a",), "prompts": (("a",),), "is_thing": (True, False)}, "is_thing has 2 entries for 1"),
        ({"class_names": ("a",), "prompts": (("a",),), "palette": ((0, 0, 1),) * 2}, "palette has 2 entries for 1"),
        (
            {
                "class_names": ("a",),
                "prompts": ((),),
                "background": Background(kind="threshold", index=0, threshold=0.5),
            },
            "at least one class besides the background",
        ),
    ],
)
def test_a_vocabulary_put_together_by_hand_is_checked(fields, message):
    with pytest.raises(ValueError, match=message):
        Vocabulary(**fields)


def test_importing_it_loads_no_torch():
    code = "import sys; from mmseg_plugins import Vocabulary; Vocabulary.parse('voc20'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
