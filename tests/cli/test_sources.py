from pathlib import Path

import pytest

from mmseg_plugins.cli.sources import Source, find_sources, is_file, place_results


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (
        "in/b.jpg",
        "in/a.PNG",
        "in/notes.txt",
        "in/.hidden.png",
        "in/a.labels.png",
        "in/deep/c.jpeg",
        "v.mp4",
    ):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(b"")
    return tmp_path


def names(sources):
    return [source.name for source in sources]


def test_folder_gives_its_pictures_only(folder):
    assert names(find_sources(["in"])) == ["a", "b"]
    assert names(find_sources(["in"], recursive=True)) == ["a", "b", "deep/c"]


def test_files_and_patterns(folder):
    assert names(find_sources(["in/b.jpg", "v.mp4"])) == ["b", "v"]
    assert names(find_sources(["in/*.*g"])) == ["b"]
    assert names(find_sources(["in/**/*.jp*g"])) == ["b", "c"]
    assert [source.is_video for source in find_sources(["in/notes.txt", "v.mp4"])] == [False, True]


def test_nothing_is_taken_twice(folder):
    assert names(find_sources(["in", "in/b.jpg", "in/*.jpg"])) == ["a", "b"]


def test_pictures_of_one_stem_keep_their_suffix_in_the_name(folder):
    Path("in/b.png").write_bytes(b"")
    assert names(find_sources(["in"])) == ["a", "b_jpg", "b_png"]


def test_results_inside_the_input_folder_are_left_out(folder):
    Path("in/out").mkdir()
    Path("in/out/x.png").write_bytes(b"")
    assert names(find_sources(["in"], recursive=True, leave_out=Path("in/out"))) == ["a", "b", "deep/c"]


def test_places_without_pictures_say_what_to_do(folder):
    Path("empty/below").mkdir(parents=True)
    for place, message in (
        ("nothing.jpg", "does not exist"),
        ("empty", "--recursive"),
        ("*.xyz", "no file fits"),
        ("https://here/a.jpg?size=1", "web address: download the picture first"),
    ):
        with pytest.raises(FileNotFoundError, match=message):
            find_sources([place])


def test_places_of_results(folder):
    picture, video = find_sources(["in/b.jpg", "v.mp4"])
    assert place_results([picture, video], Path("out")) == {picture: Path("out/b.png"), video: Path("out/v.mp4")}
    assert place_results([picture], Path("x/y.jpg")) == {picture: Path("x/y.jpg")}


def test_what_stands_behind_a_dot_makes_no_file_of_a_folder(folder):
    Path("made.png").mkdir()
    assert [is_file(Path(out)) for out in ("x/y.JPG", "v.mp4")] == [True, True]
    assert [is_file(Path(out)) for out in ("run.v1", "photos", "made.png")] == [False, False, False]


def test_inputs_are_never_replaced(folder):
    source = Source(Path("in/a.PNG"), "a")
    Path("in/a.png").write_bytes(b"")
    with pytest.raises(ValueError, match="replace its own input"):
        place_results([source], Path("in/a.PNG"))
    with pytest.raises(ValueError, match="replace its own input"):
        place_results([Source(Path("in/a.png"), "a")], Path("in"))


def test_outputs_that_do_not_fit_are_named(folder):
    picture, video = find_sources(["in/b.jpg", "v.mp4"])
    with pytest.raises(ValueError, match="2 inputs. Give a folder"):
        place_results([picture, video], Path("one.png"))
    with pytest.raises(ValueError, match="videos give videos"):
        place_results([video], Path("one.png"))
    with pytest.raises(ValueError, match="different --out"):
        place_results([Source(Path("x/b.jpg"), "b"), Source(Path("y/b.jpg"), "b")], Path("out"))
