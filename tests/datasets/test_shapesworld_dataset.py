from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mmseg", reason="needs mmseg")

from mmseg.registry import DATASETS

import mmseg_plugins.register  # noqa: F401  (registers the data sets)
from mmseg_plugins.datasets.shapesworld import generate_scene, world
from mmseg_plugins.datasets.shapesworld.writer import SetOptions, write_set

LOAD = [{"type": "LoadImageFromFile"}, {"type": "mmseg.LoadAnnotations"}]
COUNT = 12


@pytest.fixture(scope="module")
def data_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("shapes")
    write_set(root, SetOptions(split="validation", count=COUNT, formats=("ade", "coco"), seen_only=True))
    return root


@pytest.fixture(scope="module")
def scenes():
    return [generate_scene(0, index, split="validation") for index in range(COUNT)]


def _build(kind, data_root, **options):
    return DATASETS.build({"type": kind, "data_root": str(data_root), "split": "val", **options})


def _seen(labels):
    return np.where(np.isin(labels, world.held_out_classes(38)), 255, labels)


@pytest.mark.parametrize("granularity", [38, 14, 10])
def test_one_set_serves_every_granularity(data_root, scenes, granularity):
    dataset = _build("ShapesWorldDataset", data_root, granularity=granularity, pipeline=LOAD)
    assert len(dataset) == COUNT
    assert dataset.metainfo["classes"] == world.class_names(granularity)
    assert len(dataset.metainfo["palette"]) == granularity
    for index, scene in enumerate(scenes):
        sample = dataset[index]
        assert (sample["img"][..., ::-1] == scene.image).all()
        assert (sample["gt_seg_map"] == scene.labels(granularity)).all()


@pytest.mark.parametrize("loader", ["LoadAnnotations", "LoadLabelMap"])
def test_seen_only_ignores_unseen_classes(data_root, scenes, loader):
    pipeline = [{"type": f"mmseg.{loader}"}]
    dataset = _build("ShapesWorldDataset", data_root, seen_only=True, pipeline=pipeline)
    for index, scene in enumerate(scenes):
        assert (dataset[index]["gt_seg_map"] == _seen(scene.labels(38))).all()


def test_a_subset_of_the_classes_can_be_kept(data_root, scenes):
    kept = ["snow", "blue thing"]
    dataset = _build("ShapesWorldDataset", data_root, granularity=14, metainfo={"classes": kept}, pipeline=LOAD)
    for index, scene in enumerate(scenes):
        labels, found = scene.labels(14), dataset[index]["gt_seg_map"]
        assert (found == np.where(labels == 13, 0, np.where(labels == 2, 1, 255))).all()
    with pytest.raises(ValueError, match="'dog' is not one of the 38 classes"):
        _build("ShapesWorldDataset", data_root, metainfo={"classes": ["dog"]})


@pytest.mark.parametrize("seen_only", [False, True])
def test_panoptic_and_instance_sets_agree_with_the_labels(data_root, scenes, seen_only):
    panoptic = [{"type": "mmseg.LoadPanopticSegments", "with_semantic": True}]
    segments = _build("ShapesWorldPanopticDataset", data_root, seen_only=seen_only, pipeline=panoptic)
    masks = [{"type": "mmseg.LoadInstanceMasks"}]
    instances = _build("ShapesWorldInstanceDataset", data_root, seen_only=seen_only, pipeline=masks)
    assert segments.metainfo["classes"] == world.class_names(38)
    for index, scene in enumerate(scenes):
        labels = _seen(scene.labels(38)) if seen_only else scene.labels(38)
        assert (segments[index]["gt_seg_map"] == labels).all()
        item = instances[index]
        painted = np.full_like(labels, 255)
        for mask, label in zip(item["gt_masks"], item["gt_labels"], strict=True):
            painted[mask] = label
        assert (painted == np.where(labels < 32, labels, 255)).all()


def test_seen_classes_may_be_counted_alone(data_root):
    load = [{"type": "mmseg.LoadPanopticSegments"}]
    plain = _build("ShapesWorldPanopticDataset", data_root, seen_only=True, pipeline=load)
    counted = _build("ShapesWorldPanopticDataset", data_root, seen_only=True, renumber_seen=True, pipeline=load)
    assert len(counted.metainfo["classes"]) == 30
    for index in range(len(plain)):
        names = [
            [dataset.metainfo["classes"][segment["label"]] for segment in dataset[index]["segments_info"]]
            for dataset in (plain, counted)
        ]
        assert names[0] == names[1]
    with pytest.raises(ValueError, match="seen_only=True"):
        _build("ShapesWorldPanopticDataset", data_root, renumber_seen=True)


def test_missing_splits_and_wrong_granularity_name_the_remedy(data_root, tmp_path):
    with pytest.raises(FileNotFoundError, match="mmseg-plugins shapes --out .* --split train"):
        DATASETS.build({"type": "ShapesWorldDataset", "data_root": str(data_root), "split": "train"})
    with pytest.raises(ValueError, match="train, validation, test"):
        DATASETS.build({"type": "ShapesWorldDataset", "data_root": str(data_root), "split": "dev"})
    write_set(tmp_path, SetOptions(split="validation", count=1, granularity=14))
    with pytest.raises(ValueError, match="holds 14 classes, from which 38 cannot be made"):
        _build("ShapesWorldDataset", tmp_path)
    with pytest.raises(ValueError, match="seen_only needs granularity 38"):
        _build("ShapesWorldDataset", tmp_path, granularity=14, seen_only=True)


@pytest.mark.parametrize("kind", ["ShapesWorldPanopticDataset", "ShapesWorldInstanceDataset"])
def test_segments_that_are_predicted_already_are_left_out(tmp_path, data_root, kind):
    paths = [entry["img_path"] for entry in _entries(_build(kind, data_root))]
    saved = tmp_path / "out/predictions" / Path(paths[1]).name
    saved.parent.mkdir(parents=True)
    saved.touch()
    rest = _entries(_build(kind, data_root, skip_saved=str(tmp_path / "out")))
    assert [entry["img_path"] for entry in rest] == [paths[0], *paths[2:]]


def _entries(dataset):
    return [dataset.get_data_info(index) for index in range(len(dataset))]
