import json
import pickle

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from mmseg_plugins.datasets.benchmarks import get_record
from mmseg_plugins.datasets.checking import check_benchmark
from mmseg_plugins.datasets.label_files import read_label_map
from mmseg_plugins.datasets.layouts import locate_split
from mmseg_plugins.datasets.preparation.ade20k_full import shrunken_size
from mmseg_plugins.datasets.preparation.jobs import PrepareOptions
from mmseg_plugins.datasets.preparation.registry import PREPARATIONS, prepare
from mmseg_plugins.datasets.preparation.restricted_pickle import read_index
from mmseg_plugins.datasets.segment_files import read_segment_ids
from mmseg_plugins.evaluation.rle import decode_mask
from mmseg_plugins.vocabulary.benchmarks import load_benchmark
from tests.datasets.raw_releases import ade, ade_full, cityscapes, context, save, stuff10k, stuff_maps, voc_with_sbd


def options(root, out=None, **changes):
    return PrepareOptions(root=root, out=out or root, **changes)


def no_partial_files(folder):
    return not [path for path in folder.rglob("*") if ".part" in path.name and path.is_file()]


# ADE20K-847 -----------------------------------------------------------------------------------------------------------


def test_ade_full_keeps_the_first_and_last_class_and_ignores_unknown_ids(tmp_path):
    ade_full(tmp_path)
    report = prepare("ade20k_847", options(tmp_path, layout="detectron2"))
    assert report.counts == {"train": 2, "val": 1}
    assert report.made == 3
    label = read_label_map(tmp_path / "ADE20K_2021_17_01/annotations_detectron2/validation/ADE_val_00000003.tif")
    assert label.dtype == np.uint16
    assert label[0, [0, 25, 59]].tolist() == [0, 846, 65535]
    assert no_partial_files(tmp_path)


@pytest.mark.parametrize(
    ("size", "wanted"),
    [((512, 512), (512, 512)), ((683, 1024), (512, 768)), ((1024, 683), (768, 512)), ((2000, 513), (1996, 512))],
)
def test_ade_full_shrinks_the_shorter_side_to_512(size, wanted):
    assert shrunken_size(*size) == wanted


def test_ade_full_shrinks_labels_without_mixing_them(tmp_path):
    ade_full(tmp_path, names=("ADE_val_00000001",), size=(600, 900))
    prepare("ade20k_847", options(tmp_path, layout="detectron2", splits=("val",)))
    located = locate_split(get_record("ade20k_847"), tmp_path)
    label = read_label_map(located.folder / "annotations_detectron2/validation/ADE_val_00000001.tif")
    with Image.open(located.folder / "images_detectron2/validation/ADE_val_00000001.jpg") as image:
        assert image.size == (768, 512)
    assert label.shape == (512, 768)
    assert set(np.unique(label)) == {0, 846, 65535}


def test_ade_full_names_images_without_label_file(tmp_path):
    folder = ade_full(tmp_path)
    (folder / "ADE_frame_7_seg.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 3 images have no \*_seg.png.*ADE_frame_7"):
        prepare("ade20k_847", options(tmp_path, layout="detectron2"))


def test_ade_full_compares_with_the_index_of_the_release(tmp_path):
    ade_full(tmp_path)
    content = {"filename": ["ADE_val_00000003.jpg", "gone.jpg"], "folder": ["a", "b"], "objects": np.arange(3)}
    (tmp_path / "ADE20K_2021_17_01/index_ade20k.pkl").write_bytes(pickle.dumps(content, protocol=2))
    report = prepare("ade20k_847", options(tmp_path, layout="detectron2"))
    assert any("1 of them are not on disk, 2 on disk are not listed" in note for note in report.notes)


class Evil:
    def __reduce__(self):
        return (open, ("executed", "w"))


def test_index_never_executes_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "index.pkl"
    path.write_bytes(pickle.dumps({"filename": [], "folder": [], "bad": Evil()}))
    with pytest.raises(ValueError, match=r"asks for (io|_io|builtins)\.open"):
        read_index(path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("protocol", [0, 1, 2, 4, 5])
def test_index_with_numpy_arrays_is_read(tmp_path, protocol):
    path = tmp_path / "index.pkl"
    content = {"filename": ["a"], "folder": ["b"], "m": np.ones((2, 3)), "s": np.float32(3), "raw": b"\xff"}
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    assert np.array_equal(read_index(path)["m"], np.ones((2, 3)))


# PASCAL Context -------------------------------------------------------------------------------------------------------


def test_context59_paints_later_annotations_over_earlier_ones(tmp_path):
    folder = context(tmp_path)
    report = prepare("context59", options(tmp_path))
    assert report.counts == {"train": 1, "val": 2}
    label = read_label_map(folder / "SegmentationClassContext/2008_000001.png")
    expected = np.zeros((20, 30), np.uint8)
    expected[:, :20], expected[5:, 10:] = 1, 59
    assert np.array_equal(label, expected)
    assert (folder / "ImageSets/SegmentationContext/val.txt").read_text().split() == ["2008_000001", "2008_000002"]


def test_context59_in_the_other_layout_is_the_same_ground_truth(tmp_path):
    context(tmp_path)
    out = tmp_path / "out"
    prepare("context59", options(tmp_path, out, layout="detectron2"))
    label = read_label_map(out / "pascal_ctx_d2/annotations_ctx59/validation/2008_000001.png")
    assert label[0, [0, 25]].tolist() == [0, 255]
    assert label[9, 25] == 58
    located = locate_split(get_record("context60"), out)
    assert (located.layout, located.encoding.rule) == ("detectron2", "add_background")


@pytest.mark.parametrize("key", ["images", "annos_segmentation", "categories"])
def test_context_says_which_key_the_json_lacks(tmp_path, key):
    folder = context(tmp_path)
    content = json.loads((folder / "trainval_merged.json").read_text())
    del content[key]
    (folder / "trainval_merged.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"trainval_merged.json lacks {key}"):
        prepare("context59", options(tmp_path))


def test_context_says_which_key_an_annotation_lacks(tmp_path):
    folder = context(tmp_path)
    content = json.loads((folder / "trainval_merged.json").read_text())
    del content["annos_segmentation"][1]["category_id"]
    (folder / "trainval_merged.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="an entry of 'annos_segmentation' lacks category_id"):
        prepare("context59", options(tmp_path))


def test_context59_refuses_a_category_outside_the_59(tmp_path):
    folder = context(tmp_path)
    content = json.loads((folder / "trainval_merged.json").read_text())
    content["annos_segmentation"][3]["category_id"] = 1
    (folder / "trainval_merged.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"1 of 2 files.*2008_000001.jpg use the raw categories \[1\]"):
        prepare("context59", options(tmp_path))
    assert (folder / "SegmentationClassContext/2008_000002.png").exists()


def test_context459_keeps_all_classes_and_ignores_zero(tmp_path):
    folder = context(tmp_path)
    prepare("context459", options(tmp_path))
    label = read_label_map(folder / "SegmentationClassContext459/2008_000001.tif")
    raw_id = load_benchmark("context59")["raw459_ids_of_59"][0]
    assert label.dtype == np.uint16
    assert (label[0, 0], label[9, 25], label[0, 25]) == (raw_id - 1, 458, 65535)


def test_context459_takes_the_lists_of_the_59_class_preparation(tmp_path):
    folder = context(tmp_path)
    prepare("context59", options(tmp_path))
    (folder / "trainval_merged.json").unlink()
    assert prepare("context459", options(tmp_path)).counts == {"train": 1, "val": 2}


def test_context459_without_lists_says_how_to_get_them(tmp_path):
    (context(tmp_path) / "trainval_merged.json").unlink()
    with pytest.raises(FileNotFoundError, match="no image list for train.*prepare context59"):
        prepare("context459", options(tmp_path))


def test_context459_refuses_values_above_459(tmp_path):
    folder = context(tmp_path)
    savemat(folder / "trainval/2008_000002.mat", {"LabelMap": np.full((20, 30), 460, np.uint16)})
    with pytest.raises(ValueError, match=r"2008_000002.mat: LabelMap.*up to 460"):
        prepare("context459", options(tmp_path, splits=("val",)))


def test_damaged_mat_file_is_named(tmp_path):
    folder = context(tmp_path)
    (folder / "trainval/2008_000002.mat").write_bytes(b"not a mat file")
    with pytest.raises(ValueError, match=r"2008_000002.mat cannot be read as a MATLAB file"):
        prepare("context459", options(tmp_path, splits=("val",)))


# COCO-Stuff, COCO-Object ----------------------------------------------------------------------------------------------


def test_stuff_maps_become_171_contiguous_classes(tmp_path):
    folder = stuff_maps(tmp_path)
    prepare("coco_stuff164k", options(tmp_path))
    raw = read_label_map(folder / "val2017/000000000139.png")
    got = read_label_map(folder / "val2017/000000000139_labelTrainIds.png")
    ids = load_benchmark("coco_stuff_171")["dataset_ids"]
    for value in np.unique(raw):
        wanted = 255 if value == 255 else ids.index(value + 1)
        assert set(got[raw == value]) == {wanted}, value
    assert set(np.unique(got)) == {*range(171), 255}


def test_object_maps_count_stuff_and_unlabelled_pixels_as_background(tmp_path):
    folder = stuff_maps(tmp_path)
    prepare("coco_object", options(tmp_path))
    raw = read_label_map(folder / "val2017/000000000139.png")
    got = read_label_map(folder / "val2017/000000000139_instanceTrainIds.png")
    assert set(np.unique(got)) == set(range(81))
    assert set(got[(raw >= 91)]) == {0}


def test_converted_maps_beside_raw_ones_are_not_taken_for_raw(tmp_path):
    stuff_maps(tmp_path)
    prepare("coco_stuff164k", options(tmp_path))
    report = prepare("coco_object", options(tmp_path))
    assert report.counts == {"train": 1, "val": 1}


def test_stuff_maps_in_the_detectron2_layout(tmp_path):
    stuff_maps(tmp_path, folder="coco/stuffthingmaps")
    prepare("coco_stuff164k", options(tmp_path, layout="detectron2"))
    assert (tmp_path / "coco/stuffthingmaps_detectron2/val2017/000000000139.png").exists()


def test_a_foreign_value_is_an_error_that_names_the_file(tmp_path):
    folder = stuff_maps(tmp_path)
    save(folder / "val2017/000000000200.png", np.full((4, 4), 200, np.uint8))
    with pytest.raises(ValueError, match=r"000000000200.png holds values that the release does not have: \[200\]"):
        prepare("coco_stuff164k", options(tmp_path))


def test_stuff10k_shifts_classes_by_one_and_sorts_images(tmp_path):
    folder = stuff10k(tmp_path)
    prepare("coco_stuff10k", options(tmp_path))
    ids = load_benchmark("coco_stuff_171")["dataset_ids"]
    got = read_label_map(folder / "annotations/test2014/COCO_train2014_000000000002_labelTrainIds.png").ravel()[:183]
    assert got.tolist() == [ids.index(value) + 1 if value in ids else 0 for value in range(183)]
    [result] = check_benchmark("coco_stuff10k", tmp_path, samples=0)
    assert result.problems == ["1 images, expected 1000."]
    assert result.classes_seen == 171


# ADE20K panoptic and instance -----------------------------------------------------------------------------------------


def test_ade_instances_win_over_stuff_and_areas_stay_those_of_before(tmp_path):
    folder = ade(tmp_path)
    prepare("ade20k_panoptic", options(tmp_path, splits=("val",)))
    content = json.loads((folder / "ade20k_panoptic_val.json").read_text())
    annotation = content["annotations"][0]
    ids = read_segment_ids(folder / "ade20k_panoptic_val" / annotation["file_name"])
    assert annotation["image_id"] == content["images"][0]["id"] == "ADE_val_00000001"
    found = [(segment["category_id"], segment["area"]) for segment in annotation["segments_info"]]
    floor = 12 * 32 - 24
    assert found == [(0, 8 * 32), (3, floor), (7, 24), (7, 16), (8, 8)]
    floor_id = annotation["segments_info"][1]["id"]
    assert (ids == floor_id).sum() == floor - 16  # less than the recorded area: the second bed lies over it
    assert set(np.unique(ids[8:12])) == {0}
    assert {segment["iscrowd"] for segment in annotation["segments_info"]} == {0}
    assert sum(category["isthing"] for category in content["categories"]) == 100


def test_ade_instance_json_has_thing_ids_and_boxes(tmp_path):
    folder = ade(tmp_path)
    prepare("ade20k_instance", options(tmp_path, splits=("val",)))
    content = json.loads((folder / "ade20k_instance_val.json").read_text())
    assert len(content["categories"]) == 100
    assert [annotation["id"] for annotation in content["annotations"]] == list(range(1, 7))
    first = content["annotations"][0]
    assert (first["category_id"], first["bbox"], first["area"]) == (7, [2, 16, 6, 4], 24)
    assert decode_mask(first["segmentation"])[16:20, 2:8].all()
    [result] = check_benchmark("ade20k_instance", tmp_path)
    assert result.problems == ["2 images, expected 2000."]


def test_ade_panoptic_goes_on_where_it_stopped(tmp_path):
    folder = ade(tmp_path)
    broken = folder / "annotations_instance/validation/ADE_val_00000002.png"
    content = broken.read_bytes()
    broken.write_bytes(content[:40])
    with pytest.raises(ValueError, match=r"1 of 2 files.*ADE_val_00000002.png cannot be read"):
        prepare("ade20k_panoptic", options(tmp_path, splits=("val",)))
    assert not (folder / "ade20k_panoptic_val.json").exists()
    broken.write_bytes(content)
    report = prepare("ade20k_panoptic", options(tmp_path, splits=("val",)))
    assert (report.made, report.kept) == (1, 1)
    assert not list(folder.glob(".ade20k*"))
    assert prepare("ade20k_panoptic", options(tmp_path, splits=("val",))).kept == 1


def test_ade_instance_class_above_100_is_refused(tmp_path):
    folder = ade(tmp_path)
    path = folder / "annotations_instance/validation/ADE_val_00000001.png"
    values = np.asarray(Image.open(path)).copy()
    values[0, 0] = (101, 1, 0)
    save(path, values)
    with pytest.raises(ValueError, match="instance class id 101"):
        prepare("ade20k_instance", options(tmp_path, splits=("val",)))


# Others ---------------------------------------------------------------------------------------------------------------


def test_voc_augmentation_leaves_out_validation_images(tmp_path):
    voc = voc_with_sbd(tmp_path)
    report = prepare("voc_aug", options(tmp_path, splits=("aug",)))
    assert report.counts == {"aug": 1}
    assert (voc / "ImageSets/Segmentation/aug.txt").read_text() == "2008_000003\n"
    assert (voc / "ImageSets/Segmentation/trainaug.txt").read_text() == "2007_000001\n2008_000003\n"
    assert set(np.unique(read_label_map(voc / "SegmentationClassAug/2008_000003.png"))) == {0, 1, 20, 255}


def test_cityscapes_label_ids_become_train_ids(tmp_path):
    folder = cityscapes(tmp_path)
    prepare("cityscapes", options(tmp_path))
    label = read_label_map(folder / "gtFine/val/aachen/aachen_000000_000019_gtFine_labelTrainIds.png")
    ids = load_benchmark("cityscapes_19")["dataset_ids"]
    assert label.ravel()[:34].tolist() == [ids.index(value) if value in ids else 255 for value in range(34)]
    [result] = check_benchmark("cityscapes", tmp_path)
    assert (result.classes_seen, result.problems) == (19, ["1 images, expected 500."])


def test_second_run_converts_nothing_and_overwrite_everything(tmp_path):
    cityscapes(tmp_path)
    assert prepare("cityscapes", options(tmp_path)).made == 2
    assert prepare("cityscapes", options(tmp_path)).kept == 2
    assert prepare("cityscapes", options(tmp_path, overwrite=True)).made == 2


@pytest.mark.parametrize("name", sorted(PREPARATIONS))
def test_missing_release_says_what_was_looked_for_and_where_to_get_it(tmp_path, name):
    chosen = PREPARATIONS[name]
    with pytest.raises(FileNotFoundError, match=r"(?s)was not found below.*missing .*Get it from .*http"):
        prepare(name, options(tmp_path, layout=chosen.layouts[0], splits=chosen.splits))


def test_benchmarks_that_need_no_preparation_say_so(tmp_path):
    with pytest.raises(KeyError, match="ade20k_150 needs no preparation"):
        prepare("ade20k_150", options(tmp_path))
    with pytest.raises(KeyError, match="unknown preparation 'ade'"):
        prepare("ade", options(tmp_path))
    with pytest.raises(ValueError, match="no split 'test'"):
        prepare("cityscapes", options(tmp_path, splits=("test",)))
