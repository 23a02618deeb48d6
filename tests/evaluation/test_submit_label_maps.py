import json
import re

import numpy as np
import pytest
from PIL import Image

from mmseg_plugins.evaluation.export_label_maps import export_ade20k, export_cityscapes
from mmseg_plugins.evaluation.submit_images import images_from_folder
from mmseg_plugins.evaluation.submit_label_maps import check_ade20k, check_cityscapes
from mmseg_plugins.vocabulary.benchmarks import load_benchmark
from tests.evaluation.submissions import (
    SIZE,
    pixels,
    png,
    random_labels,
    read_archive,
    save_label_maps,
    write_archive,
)

ADE = ("ADE_test_00000001", "ADE_test_00000002")
FRAMES = ("berlin_000000_000019", "bonn_000001_000019")


def photographs(folder, stems, suffix=".jpg", size=SIZE):
    folder.mkdir(parents=True, exist_ok=True)
    for stem in stems:
        Image.new("RGB", size[::-1]).save(folder / f"{stem}{suffix}")
    return folder


@pytest.fixture
def ade(tmp_path):
    maps = {stem: random_labels(150, seed) for seed, stem in enumerate(ADE)}
    save_label_maps(tmp_path / "pred", "ade20k_150", maps)
    images = images_from_folder(photographs(tmp_path / "images", ADE))
    report = export_ade20k(tmp_path / "pred", tmp_path / "a.zip", images=images)
    return tmp_path / "a.zip", images, maps, report


@pytest.fixture
def cityscapes(tmp_path):
    maps = {frame: random_labels(19, seed) for seed, frame in enumerate(FRAMES)}
    save_label_maps(tmp_path / "pred", "cityscapes_19", maps, "_leftImg8bit.png", img_suffix="_leftImg8bit.png")
    images = images_from_folder(photographs(tmp_path / "images", FRAMES, "_leftImg8bit.png"), "_leftImg8bit.png")
    report = export_cityscapes(tmp_path / "pred", tmp_path / "c.zip", images=images)
    return tmp_path / "c.zip", images, maps, report


def test_ade_archive_holds_class_plus_one(ade):
    path, images, maps, report = ade
    assert report.is_valid
    assert report.counts == {"images": 2}
    entries = read_archive(path)
    assert sorted(entries) == [f"{stem}.png" for stem in ADE]
    for stem in ADE:
        assert np.array_equal(pixels(entries[f"{stem}.png"]), maps[stem] + 1)
    assert check_ade20k(path, images).is_valid
    assert json.loads((path.parent / "a.zip.check.json").read_text())["valid"]


def test_pixels_without_an_answer_become_zero_and_are_noted(tmp_path):
    labels = random_labels(150)
    labels[:2] = 255
    save_label_maps(tmp_path / "pred", "ade20k_150", {ADE[0]: labels})
    report = export_ade20k(tmp_path / "pred", tmp_path / "a.zip")
    got = pixels(read_archive(tmp_path / "a.zip")[f"{ADE[0]}.png"])
    assert set(got[:2].ravel()) == {0}
    assert any("value 0" in note for note in report.notes)


def test_the_same_predictions_give_the_same_archive(ade, tmp_path):
    path, images, *_ = ade
    export_ade20k(tmp_path / "pred", tmp_path / "b.zip", images=images)
    assert (tmp_path / "b.zip").read_bytes() == path.read_bytes()


ADE_CORRUPTIONS = {
    "a missing file": (lambda e: e.pop(f"{ADE[0]}.png"), "ADE_test_00000001 has no prediction"),
    "another name": (lambda e: e.update({"x.png": e.pop(f"{ADE[0]}.png")}), "x.png is not named like an image"),
    "jpg": (lambda e: e.update({f"{ADE[0]}.jpg": b""}), "jpg does not belong into the archive"),
    "a folder level": (
        lambda e: e.update({f"result/{ADE[0]}.png": e.pop(f"{ADE[0]}.png")}),
        "lies in a folder; expected the PNG files at the top level",
    ),
    "a stranger": (lambda e: e.update({"ADE_test_00000009.png": e[f"{ADE[0]}.png"]}), "00000009 is not one of the"),
    "another size": (
        lambda e: e.update({f"{ADE[0]}.png": png(np.ones((32, 24), np.uint8))}),
        r"is 24 x 32, but the image is 32 x 24 \(width x height\)",
    ),
    "a class too high": (
        lambda e: e.update({f"{ADE[0]}.png": png(np.full(SIZE, 151, np.uint8))}),
        "holds the value 151, expected class",
    ),
    "colours": (
        lambda e: e.update({f"{ADE[0]}.png": png(np.ones((*SIZE, 3), np.uint8))}),
        r"has PIL mode RGB, expected L \(8 bits, one channel\)",
    ),
    "16 bits": (
        lambda e: e.update({f"{ADE[0]}.png": png(np.ones(SIZE, np.uint16))}),
        "has PIL mode I;16, expected L",
    ),
    "not a PNG": (lambda e: e.update({f"{ADE[0]}.png": b"\x89PNG"}), "cannot be read as a PNG"),
    "a cut PNG": (lambda e: e.update({f"{ADE[0]}.png": e[f"{ADE[0]}.png"][:200]}), "cannot be read as a PNG"),
}


@pytest.mark.parametrize("name", list(ADE_CORRUPTIONS))
def test_ade_corruption_is_named(ade, name):
    path, images, *_ = ade
    spoil, message = ADE_CORRUPTIONS[name]
    entries = read_archive(path)
    spoil(entries)
    write_archive(path, entries)
    report = check_ade20k(path, images)
    assert not report.is_valid
    assert any(re.search(message, problem) for problem in report.problems), report.problems


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_archives_that_cannot_be_trusted_are_refused(ade, tmp_path):
    path, images, *_ = ade
    entries = list(read_archive(path).items())
    write_archive(path, [*entries, entries[0]])
    assert any("twice" in problem for problem in check_ade20k(path, images).problems)
    write_archive(path, [*entries, ("../evil.png", b"")])
    assert any("stay inside" in problem for problem in check_ade20k(path, images).problems)
    path.write_bytes(path.read_bytes()[:-30])
    assert any("not a zip archive" in problem for problem in check_ade20k(path, images).problems)


def test_damaged_content_is_found(ade):
    path, images, *_ = ade
    data = bytearray(path.read_bytes())
    data[120] ^= 255
    path.write_bytes(bytes(data))
    assert any("cannot be unpacked" in problem for problem in check_ade20k(path, images).problems)


def test_without_images_only_the_form_is_checked_and_said_so(ade):
    path, *_ = ade
    report = check_ade20k(path)
    assert report.is_valid
    assert any("--images" in note for note in report.notes)


def test_missing_predictions_stop_the_export_and_leave_nothing(tmp_path):
    save_label_maps(tmp_path / "pred", "ade20k_150", {ADE[0]: random_labels(150)})
    images = images_from_folder(photographs(tmp_path / "images", ADE))
    with pytest.raises(FileNotFoundError, match="1 of 2 images have no prediction, the first is ADE_test_00000002"):
        export_ade20k(tmp_path / "pred", tmp_path / "a.zip", images=images)
    assert not list(tmp_path.glob("*.zip*"))


def test_predictions_of_another_size_stop_the_export(tmp_path):
    save_label_maps(tmp_path / "pred", "ade20k_150", {ADE[0]: random_labels(150, size=(5, 5))})
    images = images_from_folder(photographs(tmp_path / "images", ADE[:1]))
    with pytest.raises(ValueError, match=r"ADE_test_00000001.png is \(5, 5\), but the image is \(24, 32\)"):
        export_ade20k(tmp_path / "pred", tmp_path / "a.zip", images=images)


def test_predictions_of_another_vocabulary_are_refused(tmp_path):
    save_label_maps(tmp_path / "pred", "context59", {ADE[0]: random_labels(59)})
    with pytest.raises(ValueError, match="have 59 classes.*has 150"):
        export_ade20k(tmp_path / "pred", tmp_path / "a.zip")


def test_names_that_the_server_does_not_know_stop_the_export(tmp_path):
    save_label_maps(tmp_path / "pred", "ade20k_150", {"mine": random_labels(150)})
    with pytest.raises(ValueError, match=r"(?s)nothing was written.*mine.png is not named like an image"):
        export_ade20k(tmp_path / "pred", tmp_path / "a.zip")
    assert not list(tmp_path.glob("*.zip*"))


def test_folders_without_manifest_must_say_what_their_values_are(tmp_path):
    folder = tmp_path / "pred"
    folder.mkdir()
    raw = random_labels(151).astype(np.uint8)
    Image.fromarray(raw).save(folder / f"{ADE[0]}.png")
    with pytest.raises(ValueError, match="--encoding as_stored for class indices 0..149, or --encoding reduce_zero"):
        export_ade20k(folder, tmp_path / "a.zip")
    export_ade20k(folder, tmp_path / "a.zip", encoding="reduce_zero")
    assert np.array_equal(pixels(read_archive(tmp_path / "a.zip")[f"{ADE[0]}.png"]), raw)


# Cityscapes -----------------------------------------------------------------------------------------------------------


def test_cityscapes_archive_holds_label_ids(cityscapes):
    path, _, maps, report = cityscapes
    assert report.is_valid
    ids = np.array(load_benchmark("cityscapes_19")["dataset_ids"])
    entries = read_archive(path)
    for frame in FRAMES:
        assert np.array_equal(pixels(entries[f"{frame}.png"]), ids[maps[frame]])


CITYSCAPES_CORRUPTIONS = {
    "train ids": (
        lambda e: e.update({f"{FRAMES[0]}.png": png(np.full(SIZE, 1, np.uint8))}),
        "Train ids must be turned",
    ),
    "two of a frame": (
        lambda e: e.update({f"b/{FRAMES[0]}_x.png": e[f"{FRAMES[0]}.png"]}),
        "belong to one frame",
    ),
    "a name without frame": (lambda e: e.update({"berlin_1.png": e[f"{FRAMES[0]}.png"]}), "does not begin with <city>"),
    "a missing frame": (lambda e: e.pop(f"{FRAMES[1]}.png"), "bonn_000001_000019 has no prediction"),
    "another size": (
        lambda e: e.update({f"{FRAMES[0]}.png": png(np.full((2, 3), 7, np.uint8))}),
        "is 3 x 2, but the image is 32 x 24",
    ),
}


@pytest.mark.parametrize("name", list(CITYSCAPES_CORRUPTIONS))
def test_cityscapes_corruption_is_named(cityscapes, name):
    path, images, *_ = cityscapes
    spoil, message = CITYSCAPES_CORRUPTIONS[name]
    entries = read_archive(path)
    spoil(entries)
    write_archive(path, entries)
    problems = check_cityscapes(path, images).problems
    assert any(message in problem for problem in problems), problems


def test_cityscapes_files_may_lie_in_folders_and_go_on_after_the_frame(cityscapes):
    path, images, *_ = cityscapes
    entries = {f"results/{name[:-4]}_mine.png": data for name, data in read_archive(path).items()}
    write_archive(path, entries)
    assert check_cityscapes(path, images).is_valid


def test_without_images_cityscapes_has_1525_files_of_2048_x_1024(cityscapes):
    path, *_ = cityscapes
    problems = check_cityscapes(path).problems
    assert "2 frames, expected 1525 (test)." in problems
    assert any("the image is 2048 x 1024" in problem for problem in problems)
    with pytest.raises(ValueError, match="test, val"):
        check_cityscapes(path, split="train")
