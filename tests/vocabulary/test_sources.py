from pathlib import Path

import pytest

from mmseg_plugins.vocabulary.sources import read_source


@pytest.fixture(autouse=True)
def _work_in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_class_names_files_and_benchmarks_are_told_apart():
    Path("mine.txt").write_text("cat\ndog\n")
    assert read_source("cat; dog").labels == ("cat", "dog")
    assert read_source("traffic light").labels == ("traffic light",)
    assert read_source("mine.txt").labels == ("cat", "dog")
    assert read_source(Path("mine.txt")).labels == ("cat", "dog")
    assert len(read_source("voc20").labels) == 20
    assert len(read_source("ADE20K-150").labels) == 150
    assert len(read_source("cityscapes").labels) == 19


def test_a_list_always_holds_class_names():
    Path("cat").write_text("x")
    assert read_source(["cat", "voc20"]).labels == ("cat", "voc20")


def test_a_benchmark_of_which_there_is_a_file_is_refused_with_both_readings():
    Path("voc20").write_text("cat\n")
    with pytest.raises(ValueError, match=r"Path\('voc20'\).*from_benchmark\('voc20'\)"):
        read_source("voc20")
    assert read_source("./voc20").labels == ("cat",)
    assert read_source(Path("voc20")).labels == ("cat",)


def test_a_word_of_which_there_is_a_file_is_refused_with_both_readings():
    Path("cat").write_text("lion\n")
    with pytest.raises(ValueError, match=r"could be the file.*Path\('cat'\).*class names.*\['cat'\]"):
        read_source("cat")
    assert read_source("./cat").labels == ("lion",)


def test_a_file_whose_name_holds_separators_is_refused_with_both_readings():
    Path("cat; dog").write_text("lion\n")
    with pytest.raises(ValueError, match=r"Path\('cat; dog'\).*class names"):
        read_source("cat; dog")


def test_a_folder_does_not_stand_in_the_way_of_a_class_or_benchmark():
    Path("cat").mkdir()
    Path("voc20").mkdir()
    assert read_source("cat").labels == ("cat",)
    assert len(read_source("voc20").labels) == 20


@pytest.mark.parametrize("text", ["words.txt", "./words", "../words", "/nowhere/words", "~/no-such-words", "a.JSON"])
def test_what_looks_like_a_path_must_exist(text):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_source(text)


@pytest.mark.parametrize(
    ("word", "meant"), [("ade20k_15", "ade20k_150"), ("voc_21", "voc21"), ("coco_stuff_17", "coco_stuff_171")]
)
def test_a_slip_in_a_benchmarks_name_says_which_was_meant(word, meant):
    with pytest.raises(KeyError, match=f"Did you mean '{meant}'.*For a class of that name write") as caught:
        read_source(word)
    assert str(caught.value).startswith("unknown benchmark")


@pytest.mark.parametrize("word", ["voc", "coco", "ade20k", "context"])
def test_a_family_of_benchmarks_is_not_guessed(word):
    with pytest.raises(KeyError, match="Available: .*voc20"):
        read_source(word)


@pytest.mark.parametrize("word", ["cat", "city", "7up", "wall-brick", "boeing 747", "coconut"])
def test_ordinary_words_are_classes(word):
    assert read_source(word).labels == (word,)


def test_very_long_strings_are_class_names():
    text = "; ".join(f"class {index}" for index in range(3000))
    assert len(read_source(text).labels) == 3000


@pytest.mark.parametrize("source", [None, 3, {"cat", "dog"}, b"cat"])
def test_other_kinds_are_refused(source):
    with pytest.raises(TypeError, match="a vocabulary is a string such as|expected a list of names"):
        read_source(source)


@pytest.mark.parametrize("source", ["cat; dog", ["cat"]])
def test_names_need_a_source_with_several_lists(source):
    with pytest.raises(ValueError, match="Leave names out"):
        read_source(source, names="synonyms_fcclip")
