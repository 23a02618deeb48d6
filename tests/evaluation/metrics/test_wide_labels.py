"""Label maps beyond 8 bits on their way from disk through a run of mmengine to files and a score."""

import json

import numpy as np
import pytest
import torch
from mmengine.runner import Runner
from mmseg.models import BaseSegmentor
from mmseg.registry import MODELS
from PIL import Image

import mmseg_plugins.register  # noqa: F401  (registers data sets, transforms and metrics)
from mmseg_plugins.cli.main import main
from mmseg_plugins.datasets.label_files import read_label_map
from tests.evaluation.scoring_files import label_maps, write_class_file, write_maps


@MODELS.register_module()
class AnswersFromTheLabels(BaseSegmentor):
    """Predicts the ground truth, and class 1 wherever that is ignored."""

    def __init__(self, **options):
        super().__init__(**options)
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def predict(self, inputs, data_samples):
        for sample in data_samples:
            label = sample.gt_sem_seg.data
            sample.pred_sem_seg = type(sample.gt_sem_seg)(data=torch.where(label == 65535, 1, label))
        return data_samples

    def extract_feat(self, inputs): ...

    def encode_decode(self, inputs, batch_data_samples): ...

    def loss(self, inputs, data_samples): ...

    def _forward(self, inputs, data_samples=None): ...


@pytest.mark.parametrize("num_classes", [300, 459, 847])
def test_load_test_save_and_score_lose_no_label(num_classes, tmp_path, capsys):
    maps = label_maps(num_classes)
    labels = [plane.copy() for plane in maps]
    for plane in labels:
        plane[0, :9:2] = 65535  # one pixel of a patch, so that every class keeps some
    write_maps(tmp_path / "labels", labels, dtype=np.uint16)
    for number, plane in enumerate(maps):
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.fromarray(np.zeros((*plane.shape, 3), np.uint8)).save(tmp_path / "images" / f"image_{number}.jpg")
    classes = write_class_file(tmp_path / "classes.txt", num_classes)
    dataset = {
        "type": "FolderDataset",
        "vocabulary": classes,
        "data_root": str(tmp_path),
        "ignore_index": 65535,
        "pipeline": [
            {"type": "LoadImageFromFile"},
            {"type": "LoadLabelMap"},
            {"type": "PackSegInputs"},
        ],
    }
    runner = Runner(
        model={"type": "AnswersFromTheLabels", "data_preprocessor": {"type": "SegDataPreProcessor"}},
        work_dir=str(tmp_path / "work"),
        test_dataloader={
            "batch_size": 1,
            "num_workers": 0,
            "sampler": {"type": "DefaultSampler", "shuffle": False, "round_up": False},
            "dataset": dataset,
        },
        test_cfg={"type": "TestLoop"},
        test_evaluator={
            "type": "OpenVocabularyIoUMetric",
            "ignore_index": 65535,
            "absent": "zero",
            "output_dir": str(tmp_path / "out"),
        },
        default_scope="mmseg",
        experiment_name=f"wide_labels_{num_classes}",
    )
    result = runner.test()
    assert result["mIoU"] == 100
    assert result["mIoU_classes_absent_zero"] == num_classes
    for number, plane in enumerate(maps):
        saved = read_label_map(tmp_path / "out" / "predictions" / f"image_{number}.png")
        np.testing.assert_array_equal(saved[1:], plane[1:])
    capsys.readouterr()
    arguments = ["--gt", tmp_path / "labels", "--pred", tmp_path / "out", "--classes", classes, "--absent", "zero"]
    assert main(["score", "semantic", *map(str, arguments), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["figures"]["mIoU"] == 1
    assert report["classes_in_mean"] == num_classes
