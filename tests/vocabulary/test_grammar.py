import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmseg_plugins.vocabulary.grammar import parse_list, parse_mapping, parse_text


def test_semicolons_separate_classes_commas_names_and_a_colon_makes_a_group():
    rows = parse_text("cat; sofa, couch; other: floor, wall")
    assert rows.labels == ("cat", "sofa", "other")
    assert rows.prompts == (("cat",), ("sofa", "couch"), ("floor", "wall"))


def test_line_breaks_separate_classes_as_semicolons_do():
    assert parse_text("cat\nsofa, couch\n").prompts == parse_text("cat; sofa, couch;").prompts


def test_blanks_are_stripped_and_joined():
    assert parse_text("  traffic   light ;\tdog ").labels == ("traffic light", "dog")


def test_names_of_any_script_are_names():
    assert parse_text("猫; собака; crème brûlée; rock'n'roll; 7up").labels[0] == "猫"


words = st.from_regex(r"[a-z][a-z '-]{0,8}[a-z]", fullmatch=True).map(lambda word: " ".join(word.split()))


@given(st.lists(st.lists(words, min_size=1, max_size=3), min_size=2, max_size=6))
def test_written_classes_are_read_back(classes):
    rows = parse_text("; ".join(", ".join(names) for names in classes))
    assert rows.prompts == tuple(map(tuple, classes))
    assert rows.labels == tuple(names[0] for names in classes)


@pytest.mark.parametrize("text", ["", "   ", ";", " ; ;\n"])
def test_an_empty_vocabulary_is_refused_with_an_example(text):
    with pytest.raises(ValueError, match="empty vocabulary.*'cat; sofa, couch'"):
        parse_text(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cat;; dog", "class 2 of the text: empty name"),
        ("cat; dog, , puppy", "class 2 of the text: empty name"),
        ("cat; sofa,", "class 2 of the text: empty name"),
        ("cat; !?; dog", "class 2 of the text: '!\\?' is only punctuation"),
        ("cat; other:", "group 'other' has no names"),
        ("cat; : wall", "class 2 of the text: empty name"),
        ("cat; a: b: c", "several colons"),
        ("cat; d\x00g", "control characters"),
    ],
)
def test_unusable_names_are_refused_with_their_place(text, message):
    with pytest.raises(ValueError, match=message):
        parse_text(text)


def test_commas_without_semicolons_are_one_class_and_warned_about(caplog):
    with caplog.at_level(logging.WARNING):
        assert parse_text("cat, dog").prompts == (("cat", "dog"),)
    assert "one class with 2 names; write ';'" in caplog.text


def test_lists_are_not_split():
    rows = parse_list(["cat", ["sofa", "couch"], ["building, edifice"]])
    assert rows.labels == ("cat", "sofa", "building, edifice")
    assert rows.prompts == (("cat",), ("sofa", "couch"), ("building, edifice",))


@pytest.mark.parametrize("item", ["sofa, couch", "cat; dog", "other: floor"])
def test_a_list_item_with_a_separator_is_refused_with_both_readings(item):
    parts = [part.strip() for part in item.replace(";", ",").replace(":", ",").split(",")]
    with pytest.raises(ValueError, match="could be one name or several") as caught:
        parse_list(["cat", item])
    assert str(parts) in str(caught.value)
    assert str([item]) in str(caught.value)


def test_both_remedies_of_an_ambiguous_item_work():
    assert parse_list([["sofa", "couch"]]).prompts == (("sofa", "couch"),)
    assert parse_list([["sofa, couch"]]).prompts == (("sofa, couch",),)
    assert parse_mapping({"sofa": ["sofa, couch"]}).prompts == (("sofa, couch",),)


def test_dictionaries_give_labels_names_flags_and_colours():
    rows = parse_mapping(
        {
            "cat": None,
            "seat": ["sofa", "couch"],
            "floor": {"names": ["floor", "ground"], "color": [1, 2, 3]},
        }
    )
    assert rows.labels == ("cat", "seat", "floor")
    assert rows.prompts == (("cat",), ("sofa", "couch"), ("floor", "ground"))
    assert rows.colours == (None, None, (1, 2, 3))
    assert rows.is_thing is None


def test_entries_of_a_list_may_be_dictionaries():
    rows = parse_list([{"name": "cat", "isthing": True}, {"name": "other", "names": ["wall"], "isthing": False}])
    assert rows.is_thing == (True, False)
    assert rows.prompts == (("cat",), ("wall",))


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        ([], ValueError, "empty vocabulary"),
        (["cat", 3], TypeError, "class 2 of the list: expected a list of names, but got int"),
        (["cat", []], ValueError, "class 2 of the list: no names"),
        (["cat", [None]], TypeError, "expected a name"),
        ([{"name": "cat", "colour": [1, 2, 3]}], ValueError, "unknown key 'colour'. Did you mean 'color'"),
        ([{"name": "cat", "color": [1, 2, 300]}], ValueError, "whole numbers from 0 to 255"),
        ([{"name": "cat", "isthing": True}, "dog"], ValueError, "not for 'dog'. Give all or none"),
    ],
)
def test_wrong_items_are_refused(value, error, message):
    with pytest.raises(error, match=message):
        parse_list(value)


def test_a_list_under_classes_is_the_class_file_form():
    rows = parse_mapping(
        {"classes": ["cat", "floor"], "synonyms": [["cat", "kitty"], ["floor"]], "isthing": [1, 0], "remark": "x"}
    )
    assert rows.prompts == (("cat", "kitty"), ("floor",))
    assert rows.is_thing == (True, False)


def test_the_class_file_form_checks_lengths_and_list_names():
    with pytest.raises(ValueError, match="'synonyms' has 1 entries for 2 classes"):
        parse_mapping({"classes": ["a", "b"], "synonyms": [["a"]]})
    with pytest.raises(KeyError, match="'names_own'.*Available: classes, names_mine"):
        parse_mapping({"classes": ["a"], "names_mine": ["x"]}, names="names_own")
