import numpy as np
import pytest
from PIL import Image

from mmseg_plugins.evaluation.class_lists import ClassList, class_indices, load_class_list
from mmseg_plugins.evaluation.label_tables import IGNORED, UNKNOWN, build_label_table, record_of
from mmseg_plugins.vocabulary.benchmarks import load_benchmark


def plain(num_classes):
    return ClassList("test", tuple(f"class {i}" for i in range(num_classes)), tuple(range(num_classes)))


def table(encoding, classes, ignore_index=255, **options):
    return build_label_table(encoding, classes, ignore_index=ignore_index, **options).values.tolist()


def test_as_stored():
    values = table("as_stored", plain(3))
    assert values[:4] == [0, 1, 2, UNKNOWN]
    assert values[255] == IGNORED
    assert values[65535] == UNKNOWN


def test_reduce_zero_keeps_255_ignored():
    values = table("reduce_zero", plain(150))
    assert values[0] == values[255] == IGNORED
    assert values[1:151] == list(range(150))
    assert values[151] == UNKNOWN


def test_background_rules():
    assert table("add_background", plain(3))[:3] == [1, 2, UNKNOWN]
    assert table("add_background", plain(3))[255] == 0
    assert table("background_last", plain(3))[:4] == [2, 0, 1, 2]
    folded = table("fold_last", plain(3), prediction=True)
    assert folded[:2] == [0, 1]
    assert set(folded[2:255]) == {2}
    assert folded[255] == IGNORED


def test_cityscapes_label_ids():
    values = table("label_ids", load_class_list("cityscapes"))
    ids = load_benchmark("cityscapes")["dataset_ids"]
    assert [values[i] for i in ids] == list(range(19))
    assert values[0] == values[6] == values[29] == values[255] == IGNORED
    assert values[34] == UNKNOWN


def test_raw_coco_stuff_maps():
    content = load_benchmark("coco_stuff")
    values = table("stuff_raw", load_class_list("coco_stuff"))
    assert [values[i - 1] for i in content["dataset_ids"]] == list(range(171))
    assert values[255] == IGNORED
    objects = table("object_raw", load_class_list("coco_object"))
    assert objects[255] == 0
    assert objects[0] == 1
    assert objects[181] == 0


def test_16_bit_values_keep_their_class():
    values = table("as_stored", load_class_list("ade20k_847"), 65535)
    assert values[846] == 846
    assert values[255] == 255
    assert values[65535] == IGNORED


def test_predictions_may_leave_pixels_unanswered():
    values = table("as_stored", plain(10), 255, prediction=True)
    assert values[255] == values[65535] == IGNORED
    assert values[100] == UNKNOWN
    assert table("as_stored", plain(300), 65535, prediction=True)[255] == 255


@pytest.mark.parametrize(
    ("encoding", "classes", "ignore", "message"),
    [
        ("raw", 5, 255, "Available: as_stored"),
        ("as_stored", 300, 255, "Use 65535"),
        ("label_ids", 5, 255, "needs a list with dataset_ids"),
        ("stuff_raw", 5, 255, "171 classes but test has 5"),
        ("as_stored", 70000, 255, "do not fit 16-bit"),
    ],
)
def test_encodings_that_cannot_be_are_refused(encoding, classes, ignore, message):
    with pytest.raises(ValueError, match=message):
        build_label_table(encoding, plain(classes), ignore_index=ignore)


def test_decoding_names_the_file_and_the_values(tmp_path):
    path = tmp_path / "x.png"
    Image.fromarray(np.array([[0, 5], [7, 255]], np.uint8)).save(path)
    with pytest.raises(ValueError, match=r"x\.png: values 5, 7 are neither one of the 3 classes"):
        build_label_table("as_stored", plain(3), ignore_index=255).decode(path)


def test_records_are_found_by_benchmark_and_by_class_file():
    assert record_of(load_class_list("cityscapes_19")).name == "cityscapes"
    assert record_of(load_class_list("coco_stuff10k")).name == "coco_stuff10k"
    assert record_of(plain(3)) is None


def test_class_lists_of_every_form(tmp_path):
    (tmp_path / "a.txt").write_text("cat\ndog\n")
    assert load_class_list(str(tmp_path / "a.txt")).names == ("cat", "dog")
    (tmp_path / "b.json").write_text('{"classes": ["x ", "y"], "dataset_ids": [4, 9], "isthing": [1, 0]}')
    given = load_class_list(str(tmp_path / "b.json"))
    assert (given.names, given.category_ids, given.is_thing) == (("x", "y"), (4, 9), (True, False))
    assert given.things_only().category_ids == (4,)
    (tmp_path / "c.json").write_text('{"categories": [{"id": 3, "name": "z", "isthing": 0}]}')
    assert load_class_list(str(tmp_path / "c.json")).index_of_category == {3: 0}
    (tmp_path / "d.json").write_text('["p", "q", "r"]')
    assert load_class_list(str(tmp_path / "d.json")).num_classes == 3
    assert load_class_list("voc20b").names[-1] == "background"


def test_wrong_class_lists_are_refused(tmp_path):
    with pytest.raises(KeyError, match="ade20k_150"):
        load_class_list("ade20k_151")
    with pytest.raises(FileNotFoundError, match=r"absent\.txt"):
        load_class_list(str(tmp_path / "absent.txt"))
    (tmp_path / "b.json").write_text('{"classes": ["x", "y"], "dataset_ids": [4]}')
    with pytest.raises(ValueError, match="2 classes but 1 entries in 'dataset_ids'"):
        load_class_list(str(tmp_path / "b.json"))
    (tmp_path / "c.json").write_text('{"categories": [{"id": 3}, {"id": 3}]}')
    with pytest.raises(ValueError, match="distinct ids"):
        load_class_list(str(tmp_path / "c.json"))


def test_classes_are_named_by_name_or_index():
    assert class_indices(["Dog ", 0, "1"], ["cat", "dog"]) == [1, 0, 1]
    with pytest.raises(ValueError, match=r"\['bird', 2\] are neither"):
        class_indices(["bird", 2], ["cat", "dog"])
