"""The hook that says what a figure depends on, through mmengine's runner."""

import json
import math
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.runner import Runner
from mmseg.structures import SegDataSample
from torch import nn
from torch.utils.data import DataLoader, Dataset

from mmseg_plugins.engine import harness
from mmseg_plugins.engine.harness import RESULT_FILE, HarnessHook, describe_harness, peak_memory
from mmseg_plugins.vocabulary.vocabulary import Vocabulary

SHARED = {"type": "Resize", "scale": (2048, 448), "keep_ratio": True}


class Named(nn.Module):
    """What the hook reads of a segmentor."""

    def __init__(self, background="none"):
        super().__init__()
        self.test_cfg = {"mode": "slide", "crop_size": (336, 336)}
        self.vocabulary = Vocabulary.parse("other: wall, fence; cat; dog", background=background)

    def harness_settings(self):
        return {"method": "naclip"}


def test_everything_a_figure_depends_on_is_described():
    background = {"name": "other", "threshold": 0.2}
    settings = describe_harness(Named(background), [{"type": "LoadImageFromFile"}, SHARED])
    assert settings["model"] == "Named"
    assert settings["resize"] == "(2048, 448), ratio kept"
    assert settings["test_cfg"] == "mode slide, crop_size (336, 336)"
    assert settings["vocabulary"].endswith("3 classes, 4 names")
    assert settings["background"] == "class 0 with 2 names, threshold 0.2"
    assert settings["method"] == "naclip"


def test_what_is_not_there_is_left_out():
    assert describe_harness(nn.Linear(1, 1)) == {"model": "Linear", "resize": "none"}
    assert describe_harness(Named())["background"] == "none"
    tta = describe_harness(nn.Linear(1, 1), [{"type": "TestTimeAug", "transforms": []}])
    assert tta["resize"] == "test-time augmentation"
    factor = describe_harness(nn.Linear(1, 1), [{"type": "Resize", "scale_factor": 1.5}])
    assert factor["resize"] == "1.5"


class Clock:
    """Advances by what the test says."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class SlowModel(Named):
    """Takes 5 s for its first batch and 0.2 s for each image after it."""

    def __init__(self, clock):
        super().__init__()
        self.clock, self.calls = clock, 0
        self.weight = nn.Parameter(torch.zeros(1))

    def test_step(self, batch):
        self.clock.now += 0.2 * len(batch) if self.calls else 5.0
        self.calls += 1
        return [SegDataSample() for _ in batch]


class Numbers(Dataset):
    def __init__(self, length):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return index


class Fixed(BaseMetric):
    """A metric whose figures are known."""

    def process(self, data_batch, data_samples):
        self.results += [1] * len(data_samples)

    def compute_metrics(self, results):
        return {"mIoU": 41.25, "images": len(results), "note": "text"}


def run(folder, monkeypatch, length, batch_size=4):
    clock = Clock()
    monkeypatch.setattr(harness.time, "perf_counter", clock)
    monkeypatch.setattr(harness.time, "process_time", lambda: clock.now / 2)
    runner = Runner(
        model=SlowModel(clock),
        work_dir=str(folder),
        test_dataloader=DataLoader(Numbers(length), batch_size=batch_size, collate_fn=list),
        test_cfg={},
        test_evaluator=[Fixed()],
        custom_hooks=[HarnessHook()],
        default_scope="mmseg",
        cfg=Config({"test_dataloader": {"dataset": {"pipeline": [SHARED]}}}),
        experiment_name=folder.name,
    )
    runner.test()
    [path] = Path(folder).rglob(RESULT_FILE)
    log = "\n".join(found.read_text(encoding="utf-8") for found in Path(folder).rglob("*.log"))
    return json.loads(path.read_text(encoding="utf-8")), log


def test_settings_cost_and_figures_stand_together(tmp_path, monkeypatch):
    result, log = run(tmp_path, monkeypatch, 10)
    assert result["figures"] == {"mIoU": 41.25, "images": 10.0}
    assert result["settings"]["resize"] == "(2048, 448), ratio kept"
    # the first of three batches, which loads weights, does not count
    assert result["images"] == 6
    assert result["ms_per_image"] == pytest.approx(200)
    assert result["process_ms_per_image"] == pytest.approx(100)
    assert result["peak_memory_mib"] >= result["memory_before_mib"] > 0
    assert log.count("resize: (2048, 448), ratio kept") == 2
    assert "measured with model: SlowModel" in log
    assert "200.0 ms per image" in log


def test_a_single_batch_counts(tmp_path, monkeypatch):
    result, _ = run(tmp_path, monkeypatch, 4)
    assert result["images"] == 4
    assert result["ms_per_image"] == pytest.approx(1250)


def test_memory_is_that_of_the_process():
    assert 50 < peak_memory() < 2**20 or math.isnan(peak_memory())
