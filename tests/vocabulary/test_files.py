import json
import logging

import pytest

from mmseg_plugins import Vocabulary
from mmseg_plugins.vocabulary.files import read_class_file


def write(folder, text, name="classes.txt"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_one_class_per_line_with_commas(tmp_path):
    rows = read_class_file(write(tmp_path, "sky, cloud\nperson, person in shirt\ncat\n\n"))
    assert rows.labels == ("sky", "person", "cat")
    assert rows.prompts == (("sky", "cloud"), ("person", "person in shirt"), ("cat",))


def test_one_class_per_line_with_semicolons(tmp_path):
    assert read_class_file(write(tmp_path, "sky; cloud\nperson\n")).prompts == (("sky", "cloud"), ("person",))


def test_groups_and_remarks_in_a_text_file(tmp_path):
    rows = read_class_file(write(tmp_path, "# things\ncat\nother: wall, floor\n"))
    assert rows.labels == ("cat", "other")
    assert rows.prompts[1] == ("wall", "floor")


def test_indexed_rows_skip_the_invalid_class_and_strip_blanks(tmp_path):
    rows = read_class_file(write(tmp_path, "0:invalid_class_id\n1:wall,walls\n3:bed , beds\n"))
    assert rows.labels == ("wall", "bed")
    assert rows.prompts == (("wall", "walls"), ("bed", "beds"))


def test_indexed_rows_may_start_at_zero_and_keep_published_duplicates(tmp_path, caplog):
    path = write(tmp_path, "0:background,bag,bag\n1:pot,flowerpot\n2:pot\n")
    with caplog.at_level(logging.WARNING):
        vocabulary = Vocabulary.from_file(path)
    assert vocabulary.class_names == ("background", "pot", "pot (2)")
    assert vocabulary.prompts[0] == ("background", "bag", "bag")
    assert vocabulary.background.index == 0
    assert "'bag' (in 'background', twice)" in caplog.text


@pytest.mark.parametrize("key", ["ade20k_150", "ade20k_847", "voc21", "lvis_1203", "context459"])
def test_the_published_indexed_form_of_a_benchmark_reads_back(tmp_path, key):
    want = Vocabulary.from_benchmark(key, "synonyms_fcclip").prompts
    text = "0:invalid_class_id\n" + "".join(f"{i}:{','.join(names)}\n" for i, names in enumerate(want, 1))
    assert Vocabulary.parse(write(tmp_path, text)).prompts == want


def test_the_published_semicolon_form_of_a_benchmark_reads_back(tmp_path):
    want = Vocabulary.from_benchmark("voc21", "synonyms_proxyclip").prompts
    assert Vocabulary.parse(write(tmp_path, "\n".join("; ".join(names) for names in want))).prompts == want


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty vocabulary"),
        ("# only a remark\n", "empty vocabulary"),
        ("0:invalid_class_id\n", "empty vocabulary"),
        ("cat\n\ndog\n", "line 2 of .* is empty"),
        ("cat\n...\n", "line 2 of .*: '...' is only punctuation"),
        ("cat, \ndog\n", "line 1 of .*: empty name"),
        ("1:wall\nfloor\n", "line 2 of .* does not start with 'number:' as line 1 does"),
        ("1:wall\n1:floor\n", "line 2 of .* has index 1 after 1"),
        ("cat; dog; bird\n", "one class with several names, or several classes"),
        ("cat; kitty\ndog, puppy\n", "holds ';' and, in line 2, ','"),
    ],
)
def test_what_cannot_be_a_class_is_refused_with_its_line(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read_class_file(write(tmp_path, text))


def test_duplicates_in_a_file_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"duplicate classes in .*: 'cat' \(classes 1, 3\)"):
        Vocabulary.parse(write(tmp_path, "cat\ndog\nCat\n"))
    with pytest.raises(ValueError, match=r"duplicate names in .*: 'bed' \(in 'sky' and 'bed'\).*duplicates='allow'"):
        Vocabulary.parse(write(tmp_path, "sky, bed\nbed\n", "other.txt"))
    assert Vocabulary.parse(tmp_path / "other.txt", duplicates="allow").num_classes == 2


def test_missing_folder_binary_and_large_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing.txt does not exist"):
        read_class_file(tmp_path / "nothing.txt")
    with pytest.raises(FileNotFoundError, match="is a folder"):
        read_class_file(tmp_path)
    picture = tmp_path / "picture.txt"
    picture.write_bytes(b"\x89PNG\r\n\x1a\n\xff\xfe")
    with pytest.raises(ValueError, match=r"is no UTF-8 text.*Save it as UTF-8"):
        read_class_file(picture)
    large = tmp_path / "large.txt"
    with large.open("wb") as stream:
        stream.truncate(17 * 2**20)
    with pytest.raises(ValueError, match="has 17 MiB"):
        read_class_file(large)


def test_a_byte_order_mark_is_no_part_of_the_first_class(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_text("cat\ndog\n", encoding="utf-8-sig")
    assert read_class_file(path).labels == ("cat", "dog")


@pytest.mark.parametrize(
    "content",
    [["cat", ["sofa", "couch"]], {"cat": [], "sofa": ["sofa", "couch"]}, {"classes": ["cat", "sofa"]}],
    ids=["list", "object", "class file"],
)
def test_json_forms(tmp_path, content):
    if isinstance(content, dict) and "cat" in content:
        content["cat"] = None
    rows = read_class_file(write(tmp_path, json.dumps(content), "classes.json"))
    assert rows.labels == ("cat", "sofa")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "is not valid JSON"),
        ('{"cat": null, "cat": ["kitty"]}', "holds the key 'cat' twice"),
        ('"cat"', "holds a single str"),
        ("[]", "empty vocabulary"),
    ],
)
def test_broken_json_is_refused(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read_class_file(write(tmp_path, text, "classes.json"))


def test_names_of_a_file_with_one_list_are_refused(tmp_path):
    with pytest.raises(ValueError, match="holds one list of names. Leave names out"):
        read_class_file(write(tmp_path, "cat\n"), names="synonyms_fcclip")


@pytest.mark.parametrize(
    "background", [None, 0.25, "cat", ["sky", "floor"], {"words": ["sky"], "threshold": 0.5}, "background"], ids=str
)
def test_our_own_form_reads_back_what_was_written(tmp_path, background):
    source = {
        "cat": {"names": ["cat", "kitty"], "isthing": True, "color": [9, 8, 7]},
        "wall, painted": {"names": ["wall, painted"], "isthing": False},
    }
    vocabulary = Vocabulary.parse(source, background=background)
    path = write(tmp_path, json.dumps(vocabulary.to_dict()), "own.json")
    assert Vocabulary.parse(path) == vocabulary
