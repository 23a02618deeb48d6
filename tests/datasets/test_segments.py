import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine import Config
from mmseg.registry import DATASETS, TRANSFORMS
from PIL import Image

import mmseg_plugins.datasets.register  # noqa: F401  (registers)
from mmseg_plugins.datasets.preparation.jobs import PrepareOptions
from mmseg_plugins.datasets.preparation.registry import prepare
from mmseg_plugins.datasets.segment_files import LARGEST_ID, id_to_rgb, read_segment_ids, rgb_to_id
from mmseg_plugins.datasets.segment_loading import PackSegments, decode_segmentation, semantic_from_segments
from mmseg_plugins.datasets.segments import SEGMENT_CLASSES
from mmseg_plugins.evaluation.rle import encode_mask
from mmseg_plugins.vocabulary.benchmarks import load_benchmark
from tests.datasets.raw_releases import ade

SAMPLE = Path("tests/fixtures/samples/coco_panoptic/annotations")


def coco(root, layout="detectron2"):
    base = root / "coco"
    (base / "annotations").mkdir(parents=True)
    (base / "val2017").mkdir()
    shutil.copy(SAMPLE / "panoptic_examples.json", base / "annotations/panoptic_val2017.json")
    target = base if layout == "detectron2" else base / "annotations"
    shutil.copytree(SAMPLE / "panoptic_examples", target / "panoptic_val2017")
    for image in json.loads((SAMPLE / "panoptic_examples.json").read_text())["images"]:
        Image.new("RGB", (image["width"], image["height"])).save(base / "val2017" / image["file_name"])
    return base


def build(name, root, **changes):
    config = Config.fromfile(f"configs/_base_/datasets/{name}.py")
    return DATASETS.build({**config.test_dataloader.dataset, "data_root": str(root), **changes})


@pytest.mark.parametrize("layout", ["mmseg", "detectron2"])
def test_coco_panoptic_loads_segments_and_semantic_labels(tmp_path, layout):
    coco(tmp_path, layout)
    dataset = build("coco_panoptic", tmp_path)
    assert (dataset.layout, len(dataset)) == (layout, 2)
    assert len(dataset.metainfo["isthing"]) == 133
    sample = dataset[0]["data_samples"]
    ids = sample.gt_panoptic_seg.data[0].numpy()
    annotation = json.loads((SAMPLE / "panoptic_examples.json").read_text())["annotations"][0]
    assert sample.img_id == annotation["image_id"]
    assert set(np.unique(ids)) - {0} == {segment["id"] for segment in annotation["segments_info"]}
    dataset_ids = load_benchmark("coco_panoptic_133")["dataset_ids"]
    for segment in annotation["segments_info"]:
        labels = sample.gt_sem_seg.data[0].numpy()[ids == segment["id"]]
        assert set(labels) == {dataset_ids.index(segment["category_id"])}
    assert set(sample.gt_sem_seg.data[0].numpy()[ids == 0]) <= {255}


def test_instances_of_a_panoptic_map_are_its_segments_without_crowds(tmp_path):
    coco(tmp_path)
    pipeline = [{"type": "LoadImageFromFile"}, {"type": "LoadPanopticSegments"}, {"type": "PackSegments"}]
    dataset = build("coco_panoptic", tmp_path, pipeline=pipeline)
    for index in range(2):
        sample = dataset[index]["data_samples"]
        wanted = [segment for segment in sample.gt_panoptic_seg.segments_info if not segment["is_crowd"]]
        instances = sample.gt_instances
        assert instances.labels.tolist() == [segment["label"] for segment in wanted]
        for mask, segment in zip(instances.masks, wanted, strict=True):
            assert torch.equal(mask, sample.gt_panoptic_seg.data[0] == segment["id"])


def test_segments_that_a_crop_has_emptied_are_dropped_or_kept_on_request():
    info = [{"id": key, "label": key, "is_crowd": False, "area": 1} for key in (1, 2)]
    results = {"gt_panoptic_map": np.full((2, 3), 2, np.int32), "segments_info": info}
    assert PackSegments().transform(dict(results))["data_samples"].gt_instances.labels.tolist() == [2]
    kept = PackSegments(keep_empty=True).transform(dict(results))["data_samples"].gt_instances
    assert kept.labels.tolist() == [1, 2]
    assert kept.masks.flatten(1).sum(1).tolist() == [0, 6]


def test_an_image_without_segments_is_legal():
    results = {"gt_panoptic_map": np.zeros((2, 3), np.int32), "segments_info": []}
    instances = PackSegments().transform(results)["data_samples"].gt_instances
    assert (instances.masks.shape, instances.labels.shape) == ((0, 2, 3), (0,))


def test_geometric_transforms_carry_the_panoptic_map(tmp_path):
    coco(tmp_path)
    flip = {"type": "RandomFlip", "prob": 1.0}
    pipeline = [{"type": "LoadImageFromFile"}, {"type": "LoadPanopticSegments"}]
    plain = build("coco_panoptic", tmp_path, pipeline=[*pipeline, {"type": "PackSegments"}])
    flipped = build("coco_panoptic", tmp_path, pipeline=[*pipeline, flip, {"type": "PackSegments"}])
    first, second = (dataset[0]["data_samples"].gt_panoptic_seg.data for dataset in (plain, flipped))
    assert torch.equal(first.flip(-1), second)


def test_category_0_of_ade_is_a_class_and_not_void(tmp_path):
    ade(tmp_path)
    prepare("ade20k_panoptic", PrepareOptions(tmp_path, tmp_path, splits=("val",)))
    sample = build("ade20k_panoptic", tmp_path)[0]["data_samples"]
    assert sample.gt_sem_seg.data.unique().tolist() == [0, 3, 7, 8, 255]
    assert sample.img_id == "ADE_val_00000001"
    assert len(build("ade20k_panoptic", tmp_path).metainfo["classes"]) == 150


def test_ade_instances_load_masks_in_the_150_numbering(tmp_path):
    ade(tmp_path)
    prepare("ade20k_instance", PrepareOptions(tmp_path, tmp_path, splits=("val",)))
    sample = build("ade20k_instance", tmp_path)[0]["data_samples"]
    assert sample.gt_instances.labels.tolist() == [7, 7, 8]
    assert sample.gt_instances.masks.flatten(1).sum(1).tolist() == [24, 16, 8]


def test_images_without_an_annotation_leave_training_on_request(tmp_path):
    folder = ade(tmp_path)
    Image.new("RGB", (32, 24)).save(folder / "annotations_instance/validation/ADE_val_00000002.png")
    prepare("ade20k_instance", PrepareOptions(tmp_path, tmp_path, splits=("val",)))
    assert len(build("ade20k_instance", tmp_path)) == 2
    assert len(build("ade20k_instance", tmp_path, filter_empty=True)) == 1


def spoil(base, change):
    path = base / "annotations/panoptic_val2017.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("images"), "panoptic_val2017.json lacks images"),
        (lambda c: c["annotations"][0]["segments_info"][0].update(category_id=12), "the category id 12"),
        (lambda c: c["annotations"][0].update(image_id=1), "annotates the image id 1, which it does not list"),
        (lambda c: c["images"][0].update(file_name="gone.jpg"), "1 of the 2 images.*gone.jpg"),
    ],
)
def test_a_json_that_does_not_fit_is_named(tmp_path, change, message):
    base = coco(tmp_path)
    spoil(base, change)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        build("coco_panoptic", tmp_path)


def test_png_ids_that_the_json_lacks_name_the_png(tmp_path):
    base = coco(tmp_path)
    spoil(base, lambda content: content["annotations"][0]["segments_info"].pop())
    with pytest.raises(ValueError, match=r"000000142238.png has segment ids that its JSON does not list"):
        build("coco_panoptic", tmp_path)[0]


def test_images_alone_make_a_test_split(tmp_path):
    (tmp_path / "coco/test2017").mkdir(parents=True)
    Image.new("RGB", (4, 3)).save(tmp_path / "coco/test2017/000000000001.jpg")
    pipeline = [{"type": "LoadImageFromFile"}, {"type": "PackSegments"}]
    dataset = build("coco_panoptic", tmp_path, split="test", pipeline=pipeline)
    assert dataset[0]["inputs"].shape == (3, 3, 4)


@pytest.mark.parametrize("name", sorted(SEGMENT_CLASSES.values()))
def test_class_names_are_our_own(name):
    assert DATASETS.get(name).__module__ == "mmseg_plugins.datasets.segments"


def test_segment_ids_and_colours_are_inverse():
    ids = np.array([[0, 1, 255], [256, 65536, LARGEST_ID]])
    assert np.array_equal(rgb_to_id(id_to_rgb(ids)), ids)
    assert id_to_rgb(np.array([[65536 * 3 + 256 * 2 + 1]])).tolist() == [[[1, 2, 3]]]
    for wrong in (-1, LARGEST_ID + 1):
        with pytest.raises(ValueError, match="24 bits"):
            id_to_rgb(np.array([[wrong]]))


def test_panoptic_files_that_cannot_be_read_are_named(tmp_path):
    Image.new("L", (2, 2)).save(tmp_path / "grey.png")
    with pytest.raises(ValueError, match=r"grey.png has mode L, expected RGB"):
        read_segment_ids(tmp_path / "grey.png")
    (tmp_path / "broken.png").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"broken.png cannot be read"):
        read_segment_ids(tmp_path / "broken.png")
    with pytest.raises(FileNotFoundError, match=r"gone.png"):
        read_segment_ids(tmp_path / "gone.png")


def test_semantic_labels_of_crowds_count_and_16_bits_are_kept():
    ids = np.array([[0, 1, 2]])
    info = [{"id": 1, "label": 400, "is_crowd": True}, {"id": 2, "label": 3, "is_crowd": False}]
    assert semantic_from_segments(ids, info, 65535).tolist() == [[65535, 400, 3]]


def test_masks_come_from_polygons_and_both_kinds_of_rle():
    mask = np.zeros((6, 8), bool)
    mask[1:4, 2:6] = True
    runs = {"size": [6, 8], "counts": [13, 3, 3, 3, 3, 3, 3, 3, 14]}
    polygon = [[2, 1, 6, 1, 6, 4, 2, 4]]
    for form in (encode_mask(mask), runs, polygon):
        assert np.array_equal(decode_segmentation(form, (6, 8), "x"), mask), form
    assert not decode_segmentation([], (6, 8), "x").any()
    with pytest.raises(ValueError, match=r"annotation 3: its mask is \(6, 8\), but the image is \(6, 9\)"):
        decode_segmentation(encode_mask(mask), (6, 9), "annotation 3")
    with pytest.raises(ValueError, match="annotation 3: "):
        decode_segmentation({"size": [6, 8], "counts": "01"}, (6, 8), "annotation 3")


@pytest.mark.parametrize("name", ["LoadLabelMap", "LoadPanopticSegments", "LoadInstanceMasks", "PackSegments"])
def test_transforms_are_registered(name):
    assert TRANSFORMS.get(name).__module__.startswith("mmseg_plugins")
