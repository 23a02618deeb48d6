import json
import logging
import subprocess
import sys

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmseg.registry import METRICS

import mmseg_plugins.datasets.register  # noqa: F401  (registers)
from mmseg_plugins.datasets.label_files import read_label_map
from mmseg_plugins.datasets.segment_files import read_segment_ids
from mmseg_plugins.evaluation.rle import decode_mask
from mmseg_plugins.evaluation.saving import PredictionSaver, saved_stems, without_saved, write_json
from mmseg_plugins.evaluation.saving_manifest import build_manifest
from tests.evaluation.submissions import SIZE, instance_sample, meta, panoptic_sample, random_labels


def saver(folder, num_classes=150, **extra):
    return PredictionSaver(folder, dataset_meta={"classes": [str(index) for index in range(num_classes)], **extra})


def semantic_sample(labels, path="x/a.jpg"):
    return {"img_path": path, "ori_shape": labels.shape, "pred_sem_seg": {"data": torch.from_numpy(labels)[None]}}


@pytest.mark.parametrize(
    ("num_classes", "depth"), [(2, np.uint8), (256, np.uint8), (257, np.uint16), (300, np.uint16), (847, np.uint16)]
)
def test_every_class_survives_saving(tmp_path, num_classes, depth):
    labels = np.resize(np.arange(num_classes), (30, 30))
    saver(tmp_path, num_classes).save(semantic_sample(labels))
    got = read_label_map(tmp_path / "predictions/a.png")
    assert got.dtype == depth
    assert np.array_equal(got, labels)


def test_unanswered_pixels_keep_the_ignore_value(tmp_path):
    labels = np.array([[0, 255, 149]])
    saver(tmp_path, ignore_index=255).save(semantic_sample(labels))
    assert read_label_map(tmp_path / "predictions/a.png").tolist() == labels.tolist()
    wide = np.array([[0, 65535, 299]])
    saver(tmp_path, 300, ignore_index=65535).save(semantic_sample(wide))
    assert read_label_map(tmp_path / "predictions/a.png").tolist() == wide.tolist()


@pytest.mark.parametrize("value", [150, 254, -1])
def test_labels_out_of_range_name_the_image(tmp_path, value):
    with pytest.raises(ValueError, match=rf"x/a.jpg holds the class index {value}, but there are 150 classes"):
        saver(tmp_path).save(semantic_sample(np.array([[0, value]])))
    assert not (tmp_path / "predictions").exists()


def test_prediction_of_another_size_names_the_image(tmp_path):
    sample = semantic_sample(np.zeros((2, 3), int))
    sample["ori_shape"] = (4, 3)
    with pytest.raises(ValueError, match=r"x/a.jpg is \(2, 3\), but the image is \(4, 3\)"):
        saver(tmp_path).save(sample)


def test_two_images_of_one_name_are_refused(tmp_path):
    one = saver(tmp_path)
    one.save(semantic_sample(np.zeros((2, 2), int), "x/a.jpg"))
    with pytest.raises(ValueError, match="saved under the name 'a': x/a.jpg and y/a.jpg"):
        one.save(semantic_sample(np.zeros((2, 2), int), "y/a.jpg"))


def test_panoptic_png_and_json_agree(tmp_path):
    one = PredictionSaver(tmp_path, dataset_meta=meta("coco_panoptic_133"))
    sample = panoptic_sample("000000000139", ((1, 0), (70000, 132)))
    sample["pred_panoptic_seg"]["segments_info"].append({"id": 9, "category_id": 3})  # has no pixel
    one.save(sample)
    one.finish(1)
    content = json.loads((tmp_path / "panoptic.json").read_text())
    [annotation] = content["annotations"]
    assert annotation["image_id"] == 139
    assert annotation["segments_info"] == [{"id": 1, "category_id": 1}, {"id": 70000, "category_id": 200}]
    assert set(np.unique(read_segment_ids(tmp_path / "panoptic/000000000139.png"))) == {0, 1, 70000}


def test_panoptic_pixels_without_entry_are_refused(tmp_path):
    sample = panoptic_sample("000000000139")
    sample["pred_panoptic_seg"]["segments_info"].pop()
    with pytest.raises(ValueError, match=r"has pixels of ids without an entry: \[2\]"):
        PredictionSaver(tmp_path, dataset_meta=meta("coco_panoptic_133")).save(sample)
    sample["pred_panoptic_seg"]["segments_info"] *= 2
    with pytest.raises(ValueError, match="lists a segment id twice"):
        PredictionSaver(tmp_path, dataset_meta=meta("coco_panoptic_133")).save(sample)


def test_instances_are_joined_over_images(tmp_path):
    one = PredictionSaver(tmp_path, dataset_meta=meta("coco_panoptic_133"))
    samples = [instance_sample("000000000139", 3), {**instance_sample("b", 0), "img_id": 7}]
    for sample in samples:
        one.save(sample)
    one.finish(2)
    entries = json.loads((tmp_path / "instances.json").read_text())
    assert [entry["image_id"] for entry in entries] == [139] * 3
    masks = samples[0]["pred_instances"]["masks"]
    assert all(
        np.array_equal(decode_mask(entry["segmentation"]), mask) for entry, mask in zip(entries, masks, strict=True)
    )
    assert (tmp_path / "instances_parts/b.json").read_text() == "[]"


def test_a_second_run_finds_what_the_first_has_finished(tmp_path, caplog):
    first = saver(tmp_path)
    first.save(semantic_sample(np.zeros((2, 2), int), "x/a.jpg"))
    (tmp_path / "predictions/.b.123.part.png").write_bytes(b"half")
    assert saved_stems(tmp_path) == {"a"}
    entries = [{"img_path": "x/a.jpg"}, {"img_path": "x/b.jpg"}]
    assert without_saved(entries, tmp_path) == entries[1:]
    assert without_saved(entries, tmp_path / "nothing") == entries
    assert without_saved([], tmp_path) == []
    with pytest.raises(ValueError, match="all 1 images have a prediction .* Score the folder"):
        without_saved(entries[:1], tmp_path)
    second = saver(tmp_path)
    second.save(semantic_sample(np.zeros((2, 2), int), "x/b.jpg"))
    with caplog.at_level(logging.WARNING):
        second.finish(1)
    assert "holds predictions of 2 images, 1 of them made now" in caplog.text
    assert json.loads((tmp_path / "manifest.json").read_text())["num_images"] == 2


def test_an_image_counts_as_saved_only_with_all_its_kinds(tmp_path):
    one = PredictionSaver(tmp_path, dataset_meta=meta("coco_panoptic_133"))
    both = panoptic_sample("000000000139")
    both["pred_sem_seg"] = {"data": random_labels(133)[None]}
    one.save(both)
    one.save(panoptic_sample("000000000285"))
    assert saved_stems(tmp_path) == {"000000000139"}


def test_an_interrupted_write_leaves_no_half_file(tmp_path):
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"x": object()})
    assert not list(tmp_path.iterdir())


def test_stems_follow_the_benchmarks_image_suffix(tmp_path):
    one = saver(tmp_path, img_suffix="_leftImg8bit.png")
    assert one.stem_of("val/bonn/bonn_000000_000019_leftImg8bit.png") == "bonn_000000_000019"


CONFIG = """
model = dict(type='MaskCLIP', vocabulary=dict(source='voc20', templates='vild14'),
             test_cfg=dict(mode='slide', crop_size=(224, 224), stride=(112, 112)))
test_dataloader = dict(dataset=dict(pipeline=[dict(type='Resize', scale=(2048, 336), keep_ratio=True)]))
test_cfg = dict(type='TestLoop', fp16=True)
load_from = {checkpoint!r}
"""


def test_manifest_states_what_made_the_predictions(tmp_path):
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(b"abc")
    config = Config.fromstring(CONFIG.format(checkpoint=str(weights)), ".py")
    got = build_manifest(meta("voc20", split="val") | {"benchmark": "voc20"}, 3, config)
    assert (got["benchmark"], got["split"], got["num_images"], got["num_classes"]) == ("voc20", "val", 3, 20)
    assert got["checkpoint"]["sha256"].startswith("ba7816bf")
    assert got["slide"] == {"crop_size": (224, 224), "stride": (112, 112)}
    assert tuple(got["scale"]) == (2048, 336)
    assert got["precision"] == "float16"
    assert len(got["templates"]) == 14
    assert got["vocabulary"]["source"]
    assert len(got["vocabulary"]["sha256"]) == len(got["config_sha256"]) == 64
    assert got["versions"]["torch"] == torch.__version__.split("+")[0]
    assert not got["tta"]
    json.dumps(got)


def test_vocabulary_hash_follows_the_names():
    def digest(source):
        config = Config({"model": {"vocabulary": {"source": source}}})
        return build_manifest({"classes": ["a"]}, 1, config)["vocabulary"]["sha256"]

    assert digest(["cat", "dog"]) == digest("cat; dog")
    assert digest(["cat", "dog"]) != digest(["cat", "cow"])


def test_metric_that_only_saves_needs_a_folder_and_counts():
    metric = METRICS.build({"type": "mmseg.SavePredictions"})
    metric.dataset_meta = meta("voc20")
    with pytest.raises(ValueError, match="--out DIR"):
        metric.process(None, [semantic_sample(np.zeros(SIZE, int))])


def test_metric_that_only_saves_writes_the_manifest(tmp_path):
    metric = METRICS.build({"type": "mmseg.SavePredictions", "output_dir": str(tmp_path)})
    metric.dataset_meta = meta("voc20")
    metric.process(None, [semantic_sample(np.zeros(SIZE, int)), semantic_sample(np.ones(SIZE, int), "x/b.jpg")])
    assert metric.evaluate(2) == {"saved/images": 2.0}
    assert json.loads((tmp_path / "manifest.json").read_text())["num_images"] == 2


def test_saving_needs_neither_mmseg_nor_a_model():
    code = "import sys, mmseg_plugins.evaluation.saving\nassert not {'mmseg', 'mmcv', 'open_clip'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)


def test_instance_metric_saves_what_it_scores(tmp_path):
    metric = METRICS.build({"type": "mmseg.InstanceAPMetric", "output_dir": str(tmp_path), "keep_results": True})
    metric.dataset_meta = meta("coco_panoptic_133")
    sample = instance_sample("000000000139", 3)
    found = {key: torch.from_numpy(value) for key, value in sample["pred_instances"].items()}
    truth = {"masks": found["masks"], "labels": found["labels"]}
    metric.process(None, [{**sample, "img_id": 139, "pred_instances": found, "gt_instances": truth}])
    assert metric.evaluate(1)["AP"] == pytest.approx(100.0)
    assert len(json.loads((tmp_path / "instances.json").read_text())) == 3
    assert json.loads((tmp_path / "manifest.json").read_text())["num_images"] == 1
