from pathlib import Path

import numpy as np
import pytest
from mmengine import Config
from mmseg.registry import DATASETS, METRICS, TRANSFORMS

import mmseg_plugins.datasets.register  # noqa: F401  (registers)
from mmseg_plugins.datasets.benchmarks import RECORDS
from mmseg_plugins.datasets.preparation.jobs import PrepareOptions
from mmseg_plugins.datasets.preparation.registry import prepare
from mmseg_plugins.datasets.semantic import SEMANTIC_CLASSES
from mmseg_plugins.vocabulary.benchmarks import load_benchmark
from tests.datasets.raw_releases import context, photograph, save

PIPELINE = [{"type": "LoadImageFromFile"}, {"type": "LoadLabelMap"}, {"type": "PackSegInputs"}]


def build(name, root, **changes):
    return DATASETS.build(dict(type=SEMANTIC_CLASSES[name], data_root=str(root), pipeline=PIPELINE, **changes))


def labels_of(dataset, index=0):
    return dataset[index]["data_samples"].gt_sem_seg.data[0].numpy()


def voc(root, stored=((0, 1, 20, 255),)):
    folder = root / "VOCdevkit/VOC2012"
    stored = np.array(stored, np.uint8)
    photograph(folder / "JPEGImages/a.jpg", *stored.shape)
    save(folder / "SegmentationClass/a.png", stored)
    (folder / "ImageSets/Segmentation").mkdir(parents=True)
    (folder / "ImageSets/Segmentation/val.txt").write_text("a\n")


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("voc20", [255, 0, 19, 255]), ("voc21", [0, 1, 20, 255]), ("voc20b", [20, 0, 19, 255])],
)
def test_one_voc_file_serves_three_benchmarks(tmp_path, name, wanted):
    voc(tmp_path)
    assert labels_of(build(name, tmp_path))[0].tolist() == wanted


@pytest.mark.parametrize("name", ["context59", "context60", "context459"])
def test_both_context_layouts_load_the_same_labels(tmp_path, name):
    context(tmp_path)
    prepare(name, PrepareOptions(tmp_path, tmp_path))
    prepare(name, PrepareOptions(tmp_path, tmp_path / "d2", layout="detectron2"))
    first, second = build(name, tmp_path), build(name, tmp_path / "d2")
    assert (first.layout, second.layout) == ("mmseg", "detectron2")
    assert len(first) == len(second) == 2
    for index in range(2):
        assert np.array_equal(labels_of(first, index), labels_of(second, index))
    assert labels_of(first).max() == (65535 if name == "context459" else first.ignore_index if name[-1] == "9" else 59)


@pytest.mark.parametrize("name", sorted(SEMANTIC_CLASSES))
def test_classes_are_the_evaluators_own_and_cost_no_data(name):
    dataset = DATASETS.build({"type": SEMANTIC_CLASSES[name], "lazy_init": True})
    record = RECORDS[name]
    wanted = tuple(load_benchmark(record.class_file)["classes"]) + record.extra_classes
    assert dataset.metainfo["classes"] == wanted
    assert len(dataset.metainfo["palette"]) == len(wanted)


@pytest.mark.parametrize("name", sorted(SEMANTIC_CLASSES.values()))
def test_class_names_are_free_in_mmseg(name):
    module = DATASETS.get(name).__module__
    assert module.startswith("mmseg_plugins")


def test_ade_classes_equal_mmsegs_own():
    from mmseg.datasets import ADE20KDataset

    assert DATASETS.get("ADE20K150Benchmark").METAINFO["classes"] == ADE20KDataset.METAINFO["classes"]


def ade(root, stored, folder="annotations"):
    base = root / "ADEChallengeData2016"
    photograph(base / "images/validation/ADE_val_00000001.jpg", *np.shape(stored))
    save(base / folder / "validation/ADE_val_00000001.png", np.array(stored, np.uint8))


def test_both_ade_layouts_load_the_same_labels(tmp_path):
    ade(tmp_path / "raw", [[0, 1, 150]])
    ade(tmp_path / "reduced", [[255, 0, 149]], "annotations_detectron2")
    raw, reduced = build("ade20k_150", tmp_path / "raw"), build("ade20k_150", tmp_path / "reduced")
    assert labels_of(raw)[0].tolist() == labels_of(reduced)[0].tolist() == [255, 0, 149]
    assert (raw.metainfo["reduce_zero_label"], reduced.metainfo["reduce_zero_label"]) == (True, False)


def test_a_subset_of_classes_ignores_the_rest_and_blanks_do_not_matter(tmp_path):
    ade(tmp_path, [[0, 1, 8, 150]])
    dataset = build("ade20k_150", tmp_path, metainfo={"classes": ("bed", "wall")})
    assert dataset.metainfo["classes"] == ("bed ", "wall")
    assert labels_of(dataset)[0].tolist() == [255, 1, 0, 255]
    palette = load_benchmark("ade20k_150")["palette"]
    assert dataset.metainfo["palette"] == [palette[7], palette[0]]


def test_subset_of_a_16_bit_benchmark_ignores_with_its_own_value(tmp_path):
    context(tmp_path)
    prepare("context459", PrepareOptions(tmp_path, tmp_path))
    name = load_benchmark("context459")["classes"][458]
    assert set(np.unique(labels_of(build("context459", tmp_path, metainfo={"classes": [name]})))) == {0, 65535}


def test_words_of_ones_own_are_no_subset(tmp_path):
    ade(tmp_path, [[0]])
    with pytest.raises(ValueError, match="no classes named zebra.*vocabulary"):
        build("ade20k_150", tmp_path, metainfo={"classes": ["zebra"]})


def test_paths_may_be_given_instead_of_a_layout(tmp_path):
    photograph(tmp_path / "img/x.jpeg", 1, 3)
    save(tmp_path / "lab/x_l.png", np.array([[0, 1, 150]], np.uint8))
    dataset = build(
        "ade20k_150",
        tmp_path,
        data_prefix={"img_path": "img", "seg_map_path": "lab"},
        img_suffix=".jpeg",
        seg_map_suffix="_l.png",
        reduce_zero_label=False,
    )
    assert labels_of(dataset)[0].tolist() == [0, 1, 150]


def test_missing_label_maps_are_counted_and_named(tmp_path):
    ade(tmp_path, [[0]])
    photograph(tmp_path / "ADEChallengeData2016/images/validation/ADE_val_00000002.jpg", 2, 2)
    with pytest.raises(FileNotFoundError, match=r"1 of 2 label maps are missing.*ADE_val_00000002.png.*--check"):
        build("ade20k_150", tmp_path)


def test_object_and_stuff_labels_in_one_folder_are_told_apart(tmp_path):
    base = tmp_path / "coco_stuff164k"
    photograph(base / "images/val2017/000000000139.jpg", 1, 2)
    for suffix, values in (("", (1, 255)), ("_labelTrainIds", (7, 255)), ("_instanceTrainIds", (9, 0))):
        save(base / f"annotations/val2017/000000000139{suffix}.png", np.array([values], np.uint8))
    assert labels_of(build("coco_stuff164k", tmp_path))[0].tolist() == [7, 255]
    assert labels_of(build("coco_object", tmp_path))[0].tolist() == [9, 0]


def test_images_that_are_predicted_already_are_left_out(tmp_path):
    ade(tmp_path, [[0]])
    photograph(tmp_path / "ADEChallengeData2016/images/validation/ADE_val_00000002.jpg", 1, 1)
    save(tmp_path / "ADEChallengeData2016/annotations/validation/ADE_val_00000002.png", np.zeros((1, 1), np.uint8))
    save(tmp_path / "out/predictions/ADE_val_00000001.png", np.zeros((1, 1), np.uint8))
    dataset = build("ade20k_150", tmp_path, skip_saved=str(tmp_path / "out"))
    assert [dataset.get_data_info(0)["img_path"][-12:]] == ["00000002.jpg"]
    assert len(dataset) == 1


def test_unknown_label_rule_lists_the_known_ones():
    with pytest.raises(ValueError, match="reduce_zero"):
        DATASETS.build({"type": "VOC20Benchmark", "label_rule": "x", "lazy_init": True})


@pytest.mark.parametrize("name", sorted(set(SEMANTIC_CLASSES)))
def test_base_configs_name_their_data_set_and_do_not_repeat_samples(name):
    config = Config.fromfile(f"configs/_base_/datasets/{name}.py")
    for loader in (config.val_dataloader, config.test_dataloader):
        assert loader.dataset.type == SEMANTIC_CLASSES[name]
        assert loader.sampler.round_up is False
        assert [step.type for step in loader.dataset.pipeline][-2:] == ["LoadLabelMap", "PackSegInputs"]
    assert isinstance(config.test_evaluator, dict)
    assert config.test_evaluator.get("ignore_index", 255) == RECORDS[name].ignore_index


@pytest.mark.parametrize("path", sorted(Path("configs/_base_/datasets").glob("*.py")), ids=lambda path: path.stem)
def test_every_base_config_loads_and_names_registered_parts(path):
    config = Config.fromfile(path)
    for side in ("train", "val", "test"):
        dataset = config.get(f"{side}_dataloader", {}).get("dataset", {})
        for part in dataset.get("datasets", [dataset] if "type" in dataset else []):
            assert DATASETS.get(part.type) is not None
            assert all(TRANSFORMS.get(step.type) is not None for step in part.pipeline)
    if "test_evaluator" in config:
        assert METRICS.get(config.test_evaluator.type) is not None
        assert config.test_evaluator == config.val_evaluator
