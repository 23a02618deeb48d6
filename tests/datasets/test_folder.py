import numpy as np
import pytest
from mmseg.registry import DATASETS
from PIL import Image

import mmseg_plugins.datasets.register  # noqa: F401  (registers)
from mmseg_plugins.datasets.label_files import write_label_map

PIPELINE = [{"type": "LoadImageFromFile"}, {"type": "LoadLabelMap"}, {"type": "PackSegInputs"}]


def write(root, stem, labels=((0, 1, 255),), image=".jpg", label=".png"):
    labels = np.array(labels)
    (root / "images" / stem).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", labels.shape[::-1]).save(root / "images" / f"{stem}{image}")
    if label:
        write_label_map(root / "labels" / f"{stem}{label}", labels)


def build(root, vocabulary=("road", "sky"), **changes):
    config = {"type": "FolderDataset", "data_root": str(root), "vocabulary": list(vocabulary), "pipeline": PIPELINE}
    return DATASETS.build({**config, **changes})


def labels_of(dataset, index=0):
    return dataset[index]["data_samples"].gt_sem_seg.data[0].numpy()


def test_images_and_label_maps_are_paired_by_name_through_sub_folders(tmp_path):
    write(tmp_path, "b", image=".png", label=".tif")
    write(tmp_path, "a/x", image=".JPG", labels=((1, 1, 1),))
    dataset = build(tmp_path)
    assert dataset.metainfo["classes"] == ("road", "sky")
    assert len(dataset.metainfo["palette"]) == 2
    assert [labels_of(dataset, index)[0].tolist() for index in range(2)] == [[1, 1, 1], [0, 1, 255]]


@pytest.mark.parametrize(
    ("vocabulary", "classes"),
    [
        ("cat; sofa, couch", ("cat", "sofa")),
        ({"source": ["a", "b"], "templates": "vild14"}, ("a", "b")),
        ("voc20", None),
    ],
)
def test_classes_come_from_any_form_of_vocabulary(tmp_path, vocabulary, classes):
    write(tmp_path, "a")
    got = DATASETS.build(
        {"type": "FolderDataset", "data_root": str(tmp_path), "vocabulary": vocabulary, "pipeline": PIPELINE}
    ).metainfo["classes"]
    assert got == classes if classes else len(got) == 20


def test_a_class_file_may_be_given(tmp_path):
    write(tmp_path, "a")
    (tmp_path / "classes.txt").write_text("road\nsky\n")
    dataset = DATASETS.build(
        {"type": "FolderDataset", "data_root": str(tmp_path), "vocabulary": str(tmp_path / "classes.txt")}
    )
    assert dataset.metainfo["classes"] == ("road", "sky")


def test_a_list_file_chooses_images(tmp_path):
    for stem in "abc":
        write(tmp_path, stem)
    (tmp_path / "val.txt").write_text("c\n\na\n")
    dataset = build(tmp_path, split_file="val.txt")
    assert [dataset.get_data_info(index)["img_path"][-5] for index in range(2)] == ["c", "a"]
    (tmp_path / "val.txt").write_text("z\n")
    with pytest.raises(FileNotFoundError, match="1 of 1 images have no image in.*'z'"):
        build(tmp_path, split_file="val.txt")
    with pytest.raises(FileNotFoundError, match="split_file.*no.txt does not exist"):
        build(tmp_path, split_file="no.txt")


def test_images_alone_are_enough_to_predict(tmp_path):
    write(tmp_path, "a", label="")
    pipeline = [{"type": "LoadImageFromFile"}, {"type": "PackSegInputs"}]
    assert "gt_sem_seg" not in build(tmp_path, labels="", pipeline=pipeline)[0]["data_samples"]


def test_other_encodings_are_a_rule_away(tmp_path):
    write(tmp_path, "a", labels=((0, 1, 2),))
    assert labels_of(build(tmp_path, label_rule="reduce_zero"))[0].tolist() == [255, 0, 1]
    with pytest.raises(ValueError, match="as_stored, reduce_zero"):
        build(tmp_path, label_rule="x")


def test_missing_label_maps_and_folders_are_named(tmp_path):
    write(tmp_path, "a")
    write(tmp_path, "b", label="")
    with pytest.raises(FileNotFoundError, match="1 of 2 images have no label map in.*'b'"):
        build(tmp_path)
    with pytest.raises(FileNotFoundError, match="folder of images"):
        build(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no label maps in"):
        build(tmp_path, labels="empty")


def test_two_images_of_one_name_are_refused(tmp_path):
    write(tmp_path, "a")
    write(tmp_path, "a", image=".png")
    with pytest.raises(ValueError, match="have the same name"):
        build(tmp_path)


def test_an_ignore_value_must_not_be_a_class(tmp_path):
    write(tmp_path, "a")
    with pytest.raises(ValueError, match="ignore_index 1 is the index of a class"):
        build(tmp_path, ignore_index=1)
