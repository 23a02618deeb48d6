import json
import re

import numpy as np
import pytest

from mmseg_plugins.datasets.segment_files import id_to_rgb, rgb_to_id
from mmseg_plugins.evaluation.export_coco import export_detections, export_panoptic, export_stuff
from mmseg_plugins.evaluation.rle import decode_mask, encode_mask
from mmseg_plugins.evaluation.saving import PredictionSaver
from mmseg_plugins.evaluation.submit_coco import check_coco, submission_name
from mmseg_plugins.evaluation.submit_coco_masks import stuff_ids, thing_ids
from mmseg_plugins.evaluation.submit_images import images_from_json
from mmseg_plugins.vocabulary.benchmarks import load_benchmark
from tests.evaluation.submissions import (
    SIZE,
    coco_images,
    instance_sample,
    meta,
    panoptic_sample,
    pixels,
    png,
    random_labels,
    read_archive,
    save_label_maps,
    write_archive,
)

STEMS = ("000000000139", "000000000285")
PANOPTIC = "panoptic_val2017_mine_results"
STUFF = "stuff_val2017_mine_results"
DETECTIONS = "detections_val2017_mine_results"


@pytest.fixture
def images(tmp_path):
    return images_from_json(coco_images(tmp_path))


@pytest.fixture
def panoptic(tmp_path, images):
    saver = PredictionSaver(tmp_path / "pred", dataset_meta=meta("coco_panoptic_133"))
    saver.save(panoptic_sample(STEMS[0], ((1, 0), (2, 100), (300000, 0))))
    saver.save(panoptic_sample(STEMS[1], ()))
    saver.finish(2)
    report = export_panoptic(tmp_path / "pred", tmp_path / f"{PANOPTIC}.zip", images=images)
    return tmp_path / f"{PANOPTIC}.zip", report


@pytest.fixture
def stuff(tmp_path, images):
    maps = {stem: random_labels(171, seed) for seed, stem in enumerate(STEMS)}
    maps[STEMS[1]][:3] = 255
    save_label_maps(tmp_path / "pred", "coco_stuff_171", maps)
    report = export_stuff(tmp_path / "pred", tmp_path / f"{STUFF}.zip", images=images)
    return tmp_path / f"{STUFF}.zip", maps, report


@pytest.fixture
def detections(tmp_path, images):
    saver = PredictionSaver(tmp_path / "pred", dataset_meta=meta("coco_panoptic_133"))
    saver.save(instance_sample(STEMS[0], 3))
    saver.save(instance_sample(STEMS[1], 130))
    saver.finish(2)
    report = export_detections(tmp_path / "pred", tmp_path / f"{DETECTIONS}.zip", images=images)
    return tmp_path / f"{DETECTIONS}.zip", report


def change(path, spoil):
    """Let ``spoil(entries, content)`` change the archive's entries and its parsed JSON, and write it again."""
    entries = read_archive(path)
    name = f"{path.stem}.json"
    content = json.loads(entries[name])
    content = spoil(entries, content) or content
    if name in entries:
        entries[name] = json.dumps(content).encode()
    write_archive(path, entries)


def assert_refused(path, kind, images, message):
    report = check_coco(path, kind, images)
    assert not report.is_valid
    assert any(re.search(message, problem) for problem in report.problems), report.problems


def test_panoptic_archive_is_json_and_folder_of_one_name(panoptic, images):
    path, report = panoptic
    assert report.counts == {"images": 2, "segments": 3}
    entries = read_archive(path)
    assert sorted(entries) == sorted([f"{PANOPTIC}.json", *(f"{PANOPTIC}/{stem}.png" for stem in STEMS)])
    content = json.loads(entries[f"{PANOPTIC}.json"])
    first = content["annotations"][0]
    assert first["image_id"] == 139
    assert first["segments_info"] == [
        {"id": 1, "category_id": 1},
        {"id": 2, "category_id": load_benchmark("coco_panoptic_133")["dataset_ids"][100]},
        {"id": 300000, "category_id": 1},
    ]
    ids = rgb_to_id(pixels(entries[f"{PANOPTIC}/{STEMS[0]}.png"]))
    assert set(np.unique(ids)) == {0, 1, 2, 300000}
    assert content["annotations"][1] == {"image_id": 285, "file_name": f"{STEMS[1]}.png", "segments_info": []}
    assert check_coco(path, "panoptic", images).is_valid


def first_png(entries):
    return next(name for name in sorted(entries) if name.endswith(".png"))


def drop_segment(entries, content):
    content["annotations"][0]["segments_info"].pop()


def ghost_segment(entries, content):
    content["annotations"][0]["segments_info"].append({"id": 77, "category_id": 1})


def set_segment(**fields):
    return lambda entries, content: content["annotations"][0]["segments_info"][0].update(fields)


def set_annotation(**fields):
    return lambda entries, content: content["annotations"][0].update(fields)


PANOPTIC_CORRUPTIONS = {
    "a PNG id without entry": (drop_segment, r"has segment ids that the JSON does not list: \[300000\]"),
    "an entry without pixels": (ghost_segment, r"the JSON lists segment ids that .* does not have: \[77\]"),
    "an unknown category": (set_segment(category_id=12), "has the category id 12, none of the 133"),
    "a class index 0": (set_segment(category_id=0), "has the category id 0, none of the 133"),
    "void as segment": (set_segment(id=0), "segment id 0 must be 1"),
    "an id twice": (set_segment(id=2), "segment id 2 is listed twice"),
    "an id as text": (set_segment(id="1"), "'id' must be an integer, got '1'"),
    "an image id as text": (set_annotation(image_id="139"), "'image_id' must be an integer"),
    "an unknown image": (set_annotation(image_id=5), "image id 5 is not in the image list"),
    "another file name": (set_annotation(file_name="a.png"), "file_name must be 000000000139.png, got 'a.png'"),
    "no segments_info": (
        lambda entries, content: content["annotations"][0].pop("segments_info") and None,
        "annotation 0 lacks 'segments_info'",
    ),
    "an image twice": (
        lambda entries, content: content["annotations"].append(content["annotations"][0]),
        "image 139 is annotated twice",
    ),
    "an image missing": (
        lambda entries, content: content["annotations"].pop() and None,
        "1 images have no entry, the first is 285",
    ),
    "a PNG missing": (lambda entries, content: entries.pop(first_png(entries)) and None, "is not in the archive"),
    "a grey PNG": (
        lambda entries, content: entries.update({first_png(entries): png(np.zeros(SIZE, np.uint8))}),
        "has PIL mode L, expected RGB",
    ),
    "an RGBA PNG": (
        lambda entries, content: entries.update({first_png(entries): png(pixels(entries[first_png(entries)]), "RGBA")}),
        "has PIL mode RGBA, expected RGB",
    ),
    "another size": (
        lambda entries, content: entries.update({first_png(entries): png(np.zeros((2, 3, 3), np.uint8))}),
        "is 3 x 2, but the image is 32 x 24",
    ),
    "a list": (lambda entries, content: content["annotations"], "must be an object with a list 'annotations'"),
    "a stranger": (lambda entries, content: entries.update({"readme.txt": b""}), "readme.txt does not belong"),
    "a second JSON": (lambda entries, content: entries.update({"a.json": b"{}"}), "expected one JSON at the top level"),
    "a PNG too many": (
        lambda entries, content: entries.update({f"{PANOPTIC}/x.png": entries[first_png(entries)]}),
        "x.png belongs to no annotation",
    ),
}


@pytest.mark.parametrize("name", list(PANOPTIC_CORRUPTIONS))
def test_panoptic_corruption_is_named(panoptic, images, name):
    spoil, message = PANOPTIC_CORRUPTIONS[name]
    change(panoptic[0], spoil)
    assert_refused(panoptic[0], "panoptic", images, message)


def test_json_of_another_name_or_no_json_is_refused(panoptic, images, tmp_path):
    entries = read_archive(panoptic[0])
    entries["a.json"] = entries.pop(f"{PANOPTIC}.json")
    write_archive(panoptic[0], entries)
    assert_refused(panoptic[0], "panoptic", images, "a.json must have the archive's name")
    entries["a.json"] = b"{"
    write_archive(panoptic[0], entries)
    assert_refused(panoptic[0], "panoptic", images, "a.json is not valid JSON")


def test_archive_of_another_name_is_refused(panoptic, images):
    other = panoptic[0].rename(panoptic[0].parent / "results.zip")
    assert_refused(other, "panoptic", images, r"results.zip is not named panoptic_\[testset\]_\[alg\]_results.zip")


def test_segments_without_pixels_are_left_out_of_the_export(tmp_path, images):
    ids = np.zeros(SIZE, np.uint8)
    ids[3:] = 4
    folder = tmp_path / "panoptic_gt"
    folder.mkdir()
    entries = []
    for stem in STEMS:
        (folder / f"{stem}.png").write_bytes(png(id_to_rgb(ids)))
        segments = [{"id": 4, "category_id": 200, "area": 3, "iscrowd": 0}, {"id": 5, "category_id": 1, "area": 9}]
        entries.append({"image_id": int(stem), "file_name": f"{stem}.png", "segments_info": segments})
    (tmp_path / "panoptic_gt.json").write_text(json.dumps({"annotations": entries}))
    report = export_panoptic(tmp_path / "panoptic_gt.json", tmp_path / f"{PANOPTIC}.zip", images=images)
    assert report.counts["segments"] == 2


def test_several_segments_of_a_stuff_category_are_noted(tmp_path, images):
    saver = PredictionSaver(tmp_path / "pred", dataset_meta=meta("coco_panoptic_133"))
    for stem in STEMS:
        saver.save(panoptic_sample(stem, ((1, 100), (2, 100))))
    saver.finish(2)
    report = export_panoptic(tmp_path / "pred", tmp_path / f"{PANOPTIC}.zip", images=images)
    assert any("2 times an image has several segments of one stuff category" in note for note in report.notes)


# Stuff ----------------------------------------------------------------------------------------------------------------


def test_stuff_archive_merges_things_into_183(stuff, images):
    path, maps, report = stuff
    entries = json.loads(read_archive(path)[f"{STUFF}.json"])
    assert {entry["category_id"] for entry in entries} <= {*range(92, 184)}
    of_first = {entry["category_id"]: entry for entry in entries if entry["image_id"] == 139}
    labels = maps[STEMS[0]]
    assert np.array_equal(decode_mask(of_first[183]["segmentation"]), labels < 80)
    assert np.array_equal(decode_mask(of_first[92]["segmentation"]), labels == 80)
    assert all("score" not in entry for entry in entries)
    assert any("1 images have pixels without a mask" in note for note in report.notes)
    assert check_coco(path, "stuff", images).is_valid


def set_entry(**fields):
    return lambda entries, content: content[0].update(fields)


def full_mask(size=SIZE):
    return dict(encode_mask(np.ones(size, np.uint8)))


STUFF_CORRUPTIONS = {
    "a thing id": (set_entry(category_id=1), "category id 1 is none of 92..183"),
    "an overlap": (set_entry(segmentation=full_mask()), "overlaps other masks of image 139 in"),
    "a score": (set_entry(score=0.5), "has a 'score'"),
    "a second mask": (lambda e, c: c.append(c[0]), r"image 139 has a second mask of category \d+"),
    "another size": (set_entry(segmentation=full_mask((3, 4))), r"mask of size \[3, 4\], but the image is \[24, 32\]"),
    "runs that end early": (
        set_entry(segmentation={"size": list(SIZE), "counts": "01"}),
        "segmentation is no valid RLE: runs cover 1 pixels",
    ),
    "uncompressed runs": (
        set_entry(segmentation={"size": list(SIZE), "counts": [SIZE[0] * SIZE[1]]}),
        "counts must be compressed text, got list",
    ),
    "no mask": (lambda e, c: c[0].pop("segmentation") and None, "mask 0 lacks 'segmentation'"),
    "an unknown image": (set_entry(image_id=5), "image id 5 is not in the image list"),
    "an image missing": (lambda e, c: [x for x in c if x["image_id"] == 139], "1 images have no entry"),
    "an object": (lambda e, c: {"annotations": c}, "must be a list of masks, got dict"),
}


@pytest.mark.parametrize("name", list(STUFF_CORRUPTIONS))
def test_stuff_corruption_is_named(stuff, images, name):
    spoil, message = STUFF_CORRUPTIONS[name]
    change(stuff[0], spoil)
    assert_refused(stuff[0], "stuff", images, message)


def test_stuff_ids_are_the_91_official_ones():
    assert stuff_ids() == list(range(92, 183))
    assert len(thing_ids()) == 80
    assert thing_ids()[-1] == 90


# Detections -----------------------------------------------------------------------------------------------------------


def test_detection_archive_keeps_the_hundred_best(detections, images):
    path, report = detections
    entries = json.loads(read_archive(path)[f"{DETECTIONS}.json"])
    assert report.counts == {"detections": 103, "images": 2}
    assert min(entry["score"] for entry in entries if entry["image_id"] == 285) > 0.3
    assert all(isinstance(entry["segmentation"]["counts"], str) for entry in entries)
    assert {entry["category_id"] for entry in entries} <= set(thing_ids())
    assert check_coco(path, "detections", images).is_valid


DETECTION_CORRUPTIONS = {
    "a stuff id": (set_entry(category_id=92), "category id 92 is none of COCO's 80"),
    "a gap": (set_entry(category_id=12), "category id 12 is none of COCO's 80"),
    "a score as text": (set_entry(score="0.5"), "'score' must be a finite number, got '0.5'"),
    "a score that is no number": (set_entry(score=float("nan")), "'score' must be a finite number"),
    "a truth value as id": (set_entry(image_id=True), "'image_id' must be an integer"),
    "no score": (lambda e, c: c[0].pop("score") and None, "detection 0 lacks 'score'"),
    "a box instead": (set_entry(segmentation=[0, 0, 3, 3]), "'segmentation' must be an object"),
    "a text": (lambda e, c: ["x"], "detection 0 is not an object"),
}


@pytest.mark.parametrize("name", list(DETECTION_CORRUPTIONS))
def test_detection_corruption_is_named(detections, images, name):
    spoil, message = DETECTION_CORRUPTIONS[name]
    change(detections[0], spoil)
    assert_refused(detections[0], "detections", images, message)


def test_annotation_files_export_with_full_scores(tmp_path, images):
    polygon = [[1, 1, 10, 1, 10, 10, 1, 10]]
    annotations = [
        {"id": 1, "image_id": 139, "category_id": 3, "segmentation": polygon, "iscrowd": 0},
        {"id": 2, "image_id": 139, "category_id": 3, "segmentation": full_mask(), "iscrowd": 1},
    ]
    path = tmp_path / "instances.json"
    path.write_text(json.dumps({"annotations": annotations}))
    export_detections(path, tmp_path / f"{DETECTIONS}.zip", images=images)
    [entry] = json.loads(read_archive(tmp_path / f"{DETECTIONS}.zip")[f"{DETECTIONS}.json"])
    assert entry["score"] == 1.0
    assert decode_mask(entry["segmentation"]).sum() > 60


# Names ----------------------------------------------------------------------------------------------------------------


def test_submission_names_follow_the_server():
    assert submission_name("panoptic", "test-dev2017", "mine") == "panoptic_test-dev2017_mine_results"
    for parts in (("boxes", "val2017", "a"), ("stuff", "test2017", "a"), ("stuff", "val2017", "a b")):
        with pytest.raises(ValueError, match="not a COCO submission name"):
            submission_name(*parts)
    with pytest.raises(ValueError, match="detections, stuff, panoptic"):
        check_coco("x.zip", "boxes")


def test_image_list_must_have_ids_and_sizes(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"images": [{"id": 1, "file_name": "a.jpg"}]}))
    with pytest.raises(ValueError, match="an image lacks height, width"):
        images_from_json(path)
    path.write_text("[]")
    with pytest.raises(ValueError, match="has no list 'images'"):
        images_from_json(path)
