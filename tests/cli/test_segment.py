import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from mmseg_plugins.cli.main import main

WORDS = "red plain thing; blue striped thing; grass; sand"


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMSEG_PLUGINS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A folder of three small pictures, and the working directory beside it."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png", "c.jpg"):
        Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)).save(folder / name)
    return folder


def segment(*arguments):
    return main(["segment", *map(str, arguments), "--device", "cpu"])


def names(folder):
    return sorted(path.name for path in Path(folder).iterdir())


def test_one_picture_to_one_file(photos, capsys):
    assert segment(photos / "a.png", "--classes", WORDS, "--out", "out.png") == 0
    captured = capsys.readouterr()
    assert names(".") == ["out.json", "out.labels.png", "out.png", "photos"]
    assert "24 x 32" in captured.out
    assert "wrote out.png (overlay with legend), out.labels.png (label map)" in captured.out
    assert "maskclip-shapes" in captured.err
    assert "embedded" in captured.err
    labels = np.asarray(Image.open("out.labels.png"))
    content = json.loads(Path("out.json").read_text())
    assert labels.shape == (24, 32)
    for area in content["present"]:
        assert (labels == area["index"]).sum() == area["pixels"]


def test_folder_skips_what_is_done_and_redoes_when_asked(photos, capsys):
    assert segment(photos, "--classes", WORDS, "--out", "out") == 0
    assert names("out") == [f"{stem}{end}" for stem in "abc" for end in (".json", ".labels.png", ".png")]
    times = {name: os.stat(f"out/{name}").st_mtime_ns for name in names("out")}
    (Path("out") / "b.json").unlink()
    capsys.readouterr()
    assert segment(photos, "--classes", WORDS, "--out", "out") == 0
    assert "1 of 3 done, 2 were done already" in capsys.readouterr().err
    changed = {name for name in names("out") if os.stat(f"out/{name}").st_mtime_ns != times[name]}
    assert changed == {"b.json", "b.labels.png", "b.png"}
    assert segment(photos, "--classes", WORDS, "--out", "out", "--overwrite") == 0
    assert "3 of 3 done" in capsys.readouterr().err


def test_results_of_other_words_are_not_taken_for_done(photos, capsys):
    assert segment(photos / "a.png", "--classes", WORDS, "--out", "out") == 0
    before = Path("out/a.png").read_bytes()
    assert segment(photos / "a.png", "--classes", "grass; sand", "--out", "out") == 1
    assert "other settings: --overwrite" in capsys.readouterr().err
    assert Path("out/a.png").read_bytes() == before


def test_failures_are_reported_at_the_end_and_the_rest_is_done(photos, capsys):
    (photos / "b.png").write_bytes((photos / "a.png").read_bytes()[:400])
    (photos / "d.png").write_text("no picture")
    assert segment(photos, "--classes", WORDS, "--out", "out") == 1
    error = capsys.readouterr().err
    last = error[error.index("2 of 4 done, 2 failed") :]
    assert "b.png is damaged" in last
    assert "d.png is not in an image format" in last
    assert {name.split(".")[0] for name in names("out")} == {"a", "c"}


def test_json_goes_to_stdout_alone(photos, capsys):
    assert segment(photos, "--classes", WORDS, "--json") == 0
    lines = capsys.readouterr().out.splitlines()
    contents = [json.loads(line) for line in lines]
    assert [Path(content["source"]).name for content in contents] == ["a.png", "b.png", "c.jpg"]
    assert all(Path(file).exists() for content in contents for file in content["files"])


def test_words_from_file_benchmark_and_model(photos, tmp_path):
    Path("words.txt").write_text("grass, meadow\nsand\n")
    assert segment(photos / "a.png", "--vocabulary", "words.txt", "--out", "one.png") == 0
    assert json.loads(Path("one.json").read_text())["class_names"] == ["grass", "sand"]
    assert segment(photos / "a.png", "--vocabulary", "shapesworld_10", "--out", "two.png") == 0
    assert len(json.loads(Path("two.json").read_text())["class_names"]) == 10
    assert segment(photos / "a.png", "--out", "three.png") == 0
    assert len(json.loads(Path("three.json").read_text())["class_names"]) == 38


def test_background_by_threshold(photos):
    assert segment(photos / "a.png", "--classes", WORDS, "--background", "0.999", "--out", "x.png") == 0
    content = json.loads(Path("x.json").read_text())
    assert content["class_names"][0] == "background"
    assert content["background_index"] == 0


@pytest.mark.parametrize("size", [(1, 1), (1, 5000)])
def test_extreme_pictures(photos, size):
    Image.fromarray(np.zeros((*size, 3), np.uint8)).save("x.png")
    assert segment("x.png", "--classes", WORDS, "--out", "y.png") == 0
    assert np.asarray(Image.open("y.labels.png")).shape == size


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.png", "--classes", WORDS], "nothing.png does not exist"),
        (["photos/a.png", "--classes", ""], "no class|empty"),
        (["photos/a.png", "--model", "nothing"], "error: unknown model 'nothing'. Available: maskclip-shapes"),
        (["photos/a.png", "--vocabulary", "ade20k_15"], "Did you mean 'ade20k_150'"),
        (["photos/a.png", "--vocabulary", "missing.txt"], "missing.txt"),
        (["photos/a.png", "--config", "nothing"], "neither a file nor a shipped config"),
        (["photos/a.png", "--checkpoint", "x.pth"], "--checkpoint needs --config"),
        (["photos/a.png", "--classes", "a", "--vocabulary", "b"], "not both"),
        (["photos/a.png", "--model", "a", "--config", "b"], "not both"),
        (["photos/a.png", "--opacity", "3"], "between 0 and 1"),
        (["photos/a.png", "--every", "0"], "at least 1"),
        (["photos/a.png", "--device", "cuda:99"], "not on this machine"),
        (["photos/a.png", "--out", "photos/a.png"], "replace its own input"),
        (["photos/a.png", "--out", "photos/a.png/below"], "cannot write to folder"),
    ],
)  # fmt: skip
def test_wrong_use_is_one_line_and_writes_nothing(photos, capsys, arguments, message):
    device = [] if "--device" in arguments else ["--device", "cpu"]
    assert main(["segment", *arguments, *device]) == 1
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1
    assert re.search(message, error), error
    assert names(".") == ["photos"]
    assert names("photos") == ["a.png", "b.png", "c.jpg"]


def test_checkpoints_that_do_not_fit_are_one_line(photos, capsys):
    import torch

    torch.save({"state_dict": {"backbone.weight": torch.zeros(3)}}, "other.pth")
    config = "maskclip_shapes-vit_shapesworld-64x64"
    assert segment("photos/a.png", "--config", config, "--checkpoint", "other.pth", "--out", "out") == 1
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def write_video(path, frames=5, size=(48, 33)):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, size)
    assert writer.isOpened()
    for value in range(frames):
        writer.write(np.full((size[1], size[0], 3), 40 * value, np.uint8))
    writer.release()


def test_video(photos, capsys):
    write_video("clip.avi")
    assert segment("clip.avi", "--classes", WORDS, "--out", "named") == 0
    assert names("named") == ["clip.json", "clip.mp4"]
    content = json.loads(Path("named/clip.json").read_text())
    assert content["frames"] == 5
    assert abs(sum(area["share"] for area in content["present"]) - 1) < 1e-6
    video = cv2.VideoCapture("named/clip.mp4")
    assert int(video.get(cv2.CAP_PROP_FRAME_COUNT)) == 5
    assert video.get(cv2.CAP_PROP_FPS) == pytest.approx(10)
    capsys.readouterr()
    assert segment("clip.avi", "--classes", WORDS, "--out", "named") == 0
    assert "were done already" in capsys.readouterr().err
    assert segment("clip.avi", "--classes", WORDS, "--out", "half.mp4", "--every", "2") == 0
    assert json.loads(Path("half.json").read_text())["frames"] == 3


def test_damaged_video_leaves_nothing(photos, capsys):
    Path("clip.mp4").write_bytes(b"no video")
    assert segment("clip.mp4", "--classes", WORDS, "--out", "named") == 1
    assert "damaged" in capsys.readouterr().err
    assert names("named") == []


def test_interrupt_leaves_whole_results_only(photos, tmp_path):
    """Ctrl-C in a folder run: exit code 130, no temporary file, every result complete."""
    picture = (photos / "a.png").read_bytes()
    for number in range(400):
        (photos / f"n{number:03}.png").write_bytes(picture)
    # A shell starts what runs in the background with SIGINT ignored, and processes below it inherit that.
    start = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    start += "; from mmseg_plugins.cli.main import main; raise SystemExit(main())"
    command = [sys.executable, "-c", start, "segment", "photos", "--classes", WORDS, "--out", "out"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 300
        while not list((tmp_path / "out").glob("*.json")) and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        try:
            _, error = process.communicate(timeout=300)
        finally:
            process.kill()
    assert process.returncode == 130, error
    assert "the same command goes on from there" in error
    assert "Traceback" not in error
    written = names(tmp_path / "out")
    assert not [name for name in written if name.startswith(".")]
    stems = {name.split(".")[0] for name in written}
    assert 0 < len(stems) < 400
    # The files of one picture are renamed one by one; a picture counts as done by its last file, the JSON.
    for stem in sorted(stems)[:-1]:
        assert {f"{stem}.json", f"{stem}.labels.png", f"{stem}.png"} <= set(written)


def test_encoding_many_words_shows_how_far_it_is(photos, capsys, monkeypatch):
    monkeypatch.setattr("mmseg_plugins.cli.progress._SECONDS", {True: 0.0, False: 0.0})
    words = "; ".join(f"{colour} thing {index}" for index in range(10) for colour in ("red", "blue", "green"))
    arguments = (photos / "a.png", "--classes", words, "--overwrite", "--out", "out.png")
    assert segment(*arguments) == 0
    err = capsys.readouterr().err
    assert re.search(r"encoding words  \|.*\|  \d+/2400  .* prompts/s  left ", err)
    assert segment(*arguments) == 0  # from the cache
    assert "encoding words" not in capsys.readouterr().err
