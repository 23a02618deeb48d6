"""Label maps beyond 255 classes through loading, testing, saving and scoring, without losing a label."""

import json

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from mmseg.models import BaseSegmentor
from mmseg.registry import MODELS
from PIL import Image

import mmseg_plugins.datasets.register  # noqa: F401  (registers)
from mmseg_plugins.cli.main import main
from mmseg_plugins.datasets.label_files import read_label_map, write_label_map
from mmseg_plugins.vocabulary.benchmarks import load_benchmark

SIZE = (37, 53)


@MODELS.register_module()
class OracleSegmentor(BaseSegmentor):
    """Answers with the ground truth, and the first class where that is ignored."""

    def __init__(self, data_preprocessor):
        super().__init__(data_preprocessor)
        self.ignore_index = 65535

    def predict(self, inputs, data_samples):
        for sample in data_samples:
            labels = sample.gt_sem_seg.data
            sample.set_data({"pred_sem_seg": type(sample.gt_sem_seg)(data=torch.where(labels == 65535, 0, labels))})
        return data_samples

    def loss(self, inputs, data_samples):
        raise NotImplementedError

    _forward = extract_feat = encode_decode = loss


def toy_set(root, num_classes, images=3):
    """Every class occurs at least once; some pixels are ignored."""
    rng = np.random.default_rng(num_classes)
    order = rng.permutation(num_classes)
    per_image = np.array_split(order, images)
    truth = {}
    for number, classes in enumerate(per_image):
        labels = np.resize(classes, SIZE).astype(np.uint16)
        labels[0, :5] = 65535
        missing = sorted(set(classes.tolist()) - set(np.unique(labels).tolist()))
        labels[1, : len(missing)] = missing
        stem = f"img_{number}"
        (root / "images").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", SIZE[::-1], (number, 0, 0)).save(root / "images" / f"{stem}.jpg")
        write_label_map(root / "labels" / f"{stem}.{('png', 'tif')[number % 2]}", labels, largest=65535)
        truth[stem] = labels
    return truth


def run(config, work_dir):
    config = Config(
        {
            "default_scope": "mmseg",
            "model": {
                "type": "OracleSegmentor",
                "data_preprocessor": {"type": "SegDataPreProcessor", "size": (64, 64), "seg_pad_val": 65535},
            },
            "test_cfg": {"type": "TestLoop"},
            "work_dir": str(work_dir),
            "log_level": "ERROR",
            **config,
        }
    )
    return Runner.from_cfg(config).test()


def loader(dataset, batch_size=2):
    return {
        "batch_size": batch_size,
        "num_workers": 0,
        "sampler": {"type": "DefaultSampler", "shuffle": False, "round_up": False},
        "dataset": dataset,
    }


PIPELINE = [
    {"type": "LoadImageFromFile"},
    {"type": "Resize", "scale": (64, 64), "keep_ratio": True},
    {"type": "LoadLabelMap"},
    {"type": "PackSegInputs"},
]


def assert_nothing_lost(truth, out, num_classes):
    seen = set()
    for stem, labels in truth.items():
        saved = read_label_map(out / "predictions" / f"{stem}.png")
        assert saved.dtype == np.uint16
        assert np.array_equal(saved, np.where(labels == 65535, 0, labels))
        seen |= set(np.unique(labels).tolist())
    assert seen >= set(range(num_classes))


def score(capsys, truth, out, classes, *extra):
    capsys.readouterr()
    arguments = ["score", "semantic", "--gt", str(truth), "--pred", str(out / "predictions")]
    assert main([*arguments, "--classes", classes, "--json", *extra]) == 0
    return json.loads(capsys.readouterr().out)


def figure(report, name):
    return report["figures"][name] if "figures" in report else report[name]


def test_300_class_folder_keeps_every_label(tmp_path, capsys):
    truth = toy_set(tmp_path / "data", 300)
    names = [f"thing {number}" for number in range(300)]
    (tmp_path / "classes.txt").write_text("\n".join(names))
    dataset = {
        "type": "FolderDataset",
        "data_root": str(tmp_path / "data"),
        "vocabulary": names,
        "ignore_index": 65535,
        "pipeline": PIPELINE,
    }
    evaluator = {"type": "OpenVocabularyIoUMetric", "ignore_index": 65535, "output_dir": str(tmp_path / "out")}
    figures = run({"test_dataloader": loader(dataset), "test_evaluator": evaluator}, tmp_path / "work")
    assert figures["mIoU"] == 100.0
    assert figures["mIoU_classes_absent_error"] == 300
    assert_nothing_lost(truth, tmp_path / "out", 300)
    report = score(capsys, tmp_path / "data/labels", tmp_path / "out", str(tmp_path / "classes.txt"))
    assert figure(report, "mIoU") == 1.0
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert (manifest["num_classes"], manifest["num_images"]) == (300, 3)
    assert manifest["config_sha256"]


@pytest.mark.parametrize(
    ("name", "type_", "image_folder", "label_folder", "suffix"),
    [
        ("ade20k_847", "ADE20K847Benchmark", "images_detectron2", "annotations_detectron2", "tif"),
        ("context459", "Context459Benchmark", "images", "annotations_ctx459", "tif"),
    ],
)
def test_benchmarks_beyond_255_classes_keep_every_label(
    tmp_path, capsys, name, type_, image_folder, label_folder, suffix
):
    num_classes = len(load_benchmark(name)["classes"])
    truth = toy_set(tmp_path / "toy", num_classes)
    base = tmp_path / ("ADE20K_2021_17_01" if name == "ade20k_847" else "pascal_ctx_d2")
    for stem, labels in truth.items():
        target = base / image_folder / "validation" / f"{stem}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((tmp_path / f"toy/images/{stem}.jpg").read_bytes())
        write_label_map(base / label_folder / "validation" / f"{stem}.{suffix}", labels, largest=65535)
    config = Config.fromfile(f"configs/_base_/datasets/{name}.py")
    dataset = {**config.test_dataloader.dataset, "data_root": str(tmp_path)}
    evaluator = {**config.test_evaluator, "output_dir": str(tmp_path / "out")}
    figures = run({"test_dataloader": loader(dataset, 1), "test_evaluator": evaluator}, tmp_path / "work")
    assert figures["mIoU_unrounded"] == 100.0
    assert_nothing_lost(truth, tmp_path / "out", num_classes)
    report = score(capsys, base / label_folder / "validation", tmp_path / "out", name)
    assert figure(report, "mIoU") == 1.0


def test_an_interrupted_test_goes_on_with_the_images_that_are_left(tmp_path, capsys):
    truth = toy_set(tmp_path / "data", 300)
    dataset = {
        "type": "FolderDataset",
        "data_root": str(tmp_path / "data"),
        "vocabulary": [f"thing {number}" for number in range(300)],
        "ignore_index": 65535,
        "pipeline": PIPELINE,
    }
    evaluator = {"type": "SavePredictions", "output_dir": str(tmp_path / "out")}
    first = run({"test_dataloader": loader({**dataset, "indices": 2}), "test_evaluator": evaluator}, tmp_path / "work")
    rest = {**dataset, "skip_saved": str(tmp_path / "out")}
    second = run({"test_dataloader": loader(rest), "test_evaluator": evaluator}, tmp_path / "work")
    assert (first["saved/images"], second["saved/images"]) == (2, 1)
    assert_nothing_lost(truth, tmp_path / "out", 300)


def test_300_classes_with_an_8_bit_ignore_value_are_refused(tmp_path):
    toy_set(tmp_path / "data", 300)
    dataset = {"type": "FolderDataset", "data_root": str(tmp_path / "data"), "vocabulary": list("abc")}
    names = [f"thing {number}" for number in range(300)]
    with pytest.raises(ValueError, match="ignore_index 255 is the index of a class.*ignore_index=65535"):
        run(
            {
                "test_dataloader": loader({**dataset, "vocabulary": names}),
                "test_evaluator": {"type": "SavePredictions"},
            },
            tmp_path / "work",
        )
