"""The presets of the eight benchmarks against the published settings, written here once more as a table."""

from functools import cache
from pathlib import Path

import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmseg.registry import MODELS

import mmseg_plugins.register
from mmseg_plugins.engine.harness import describe_harness
from mmseg_plugins.evaluation.published import read_results

_ = mmseg_plugins.register  # imported for its effect
ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "configs/training_free"
BENCHMARKS = ("voc21", "context60", "coco-object", "voc20", "context59", "coco-stuff164k", "cityscapes", "ade20k")
THRESHOLDS = {
    "sclip": (0.1, 0.1, 0.1), "naclip": (0.1, 0.1, 0.1), "clearclip": (0.5, 0.15, 0.4), "resclip": (0.1, 0.1, 0.1),
    "proxyclip": (0.2, 0.15, 0.25), "corrclip": (0.2, 0.15, 0.25), "trident": (0.2, 0.15, 0.25),
}  # fmt: skip
# Short side for voc21, context60, coco-object, voc20, context59, coco-stuff164k, cityscapes, ade20k.
SIDES = {
    "sclip": (336, 336, 336, 336, 336, 448, 560, 336),
    "naclip": (336, 336, 336, 336, 336, 336, 560, 336),
    "resclip": (336, 336, 336, 336, 336, 336, 560, 336),
    "clearclip": (448,) * 8,
    "proxyclip": (336, 336, 336, 336, 336, 336, 448, 448),
    "corrclip": (336, 336, 336, 336, 336, 336, 448, 448),
    "trident": (448, 576, 448, 336, 576, 448, 688, 576),
}
MULTIPLES = {"clearclip": 16, "proxyclip": 56, "corrclip": 56, "trident": 16}
# temperature and share of RCS, of SFR, and the least probability of the first answer
RESCLIP = {
    "voc21": ((2.0, 0.3), (2.2, 0.7), 0.5), "voc20": ((2.0, 0.6), (2.1, 0.6), 0.1),
    "context59": ((2.0, 0.4), (1.8, 0.7), 0.25), "context60": ((2.0, 0.3), (1.8, 0.7), 0.3),
    "coco-object": ((2.0, 0.4), (1.8, 0.7), 0.11), "coco-stuff164k": ((2.0, 0.4), (1.8, 0.7), 0.11),
    "cityscapes": ((2.0, 0.2), (2.1, 0.6), 0.1), "ade20k": ((2.0, 0.3), (2.1, 0.7), 0.25),
}  # fmt: skip


@cache
def read(method, benchmark):
    return Config.fromfile(FOLDER / f"{method}_vit-b16_{benchmark}.py")


def resize_of(config):
    [step] = [step for step in config.test_dataloader.dataset.pipeline if step["type"] == "Resize"]
    assert step["keep_ratio"]
    return min(step["scale"])


def windows(method, benchmark):
    """Crop and stride, None for the whole image."""
    if method in ("sclip", "naclip", "resclip"):
        return None if method != "sclip" and benchmark.startswith("voc") else (224, 112)
    if method == "clearclip":
        return (224, 224) if benchmark == "cityscapes" else (448, 224)
    return (224, 112) if benchmark == "cityscapes" else (336, 112)


@pytest.mark.parametrize("method", SIDES)
def test_settings_are_the_published_ones(method):
    for benchmark, side in zip(BENCHMARKS, SIDES[method], strict=True):
        config = read(method, benchmark)
        test = config.model.test_cfg
        assert resize_of(config) == side, benchmark
        assert config.test_pipeline == config.test_dataloader.dataset.pipeline
        scale = {"voc21": 65, "context60": 50, "coco-object": 50}.get(benchmark, 40) if method == "sclip" else 40
        assert test.logit_scale == (50 if method == "clearclip" else scale), benchmark
        assert test.get("pad_multiple") == MULTIPLES.get(method)
        assert test.get("area_threshold") == (0.1 if (method, benchmark) == ("sclip", "voc21") else None)
        background = config.model.vocabulary.get("background")
        expected = dict(zip(BENCHMARKS[:3], THRESHOLDS[method], strict=True)).get(benchmark)
        assert (None if not background else background.threshold) == expected, benchmark


@pytest.mark.parametrize("method", ["sclip", "naclip", "resclip", "clearclip", "proxyclip", "corrclip"])
def test_windows_are_the_published_ones(method):
    for benchmark in BENCHMARKS:
        test, expected = read(method, benchmark).model.test_cfg, windows(method, benchmark)
        assert test.mode == ("whole" if expected is None else "slide"), benchmark
        if expected is None:
            assert not {"crop_size", "stride"} & test.keys(), "windows that do not count are not printed"
        else:
            assert (test.crop_size[0], test.stride[0]) == expected, benchmark
            assert test.crop_size[0] == test.crop_size[1]
            assert test.stride[0] == test.stride[1]


def test_tridents_windows_lie_in_the_method():
    for benchmark in BENCHMARKS:
        config = read("trident", benchmark)
        assert config.model.test_cfg.mode == "whole"
        assert config.model.crop_size == (336, 336)
        assert config.model.stride == ((112, 112) if benchmark == "voc20" else (224, 224))
        assert config.model.get("splits", 1) == (2 if benchmark == "cityscapes" else 1)


@pytest.mark.parametrize("method", [*SIDES, "clip", "maskclip-harness", "gem", "clip-surgery"])
def test_a_preset_builds_and_says_what_its_figure_depends_on(method):
    config = read(method, "voc21")
    with torch.device("meta"), DefaultScope.overwrite_default_scope("mmseg"):
        model = MODELS.build(config.model)
    settings = describe_harness(model, config.test_dataloader.dataset.pipeline)
    assert settings["resize"] == f"(2048, {resize_of(config)}), ratio kept"
    assert f"mode {config.model.test_cfg.mode}" in settings["test_cfg"]
    assert f"logit_scale {config.model.test_cfg.logit_scale}" in settings["test_cfg"]
    assert settings["vocabulary"].startswith("benchmark voc21: 21 classes, ")
    assert settings["background"].startswith("class 0 with ")
    assert {"method", "dense", "templates", "pamr"} <= settings.keys()
    assert any(hook["type"] == "HarnessHook" for hook in config.custom_hooks), "settings are printed with results"


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_resclips_strengths_are_the_published_ones(benchmark):
    model = read("resclip", benchmark).model
    residual = {"temperature": 2.0, "share": 0.3, **model.get("residual", {})}
    feedback = {"temperature": 2.2, "share": 0.7, "threshold": 0.5, **model.get("feedback", {})}
    found = (
        (residual["temperature"], residual["share"]),
        (feedback["temperature"], feedback["share"]),
        feedback["threshold"],
    )
    assert found == RESCLIP[benchmark]


@pytest.mark.parametrize(("name", "method"), [("clip", "clip"), ("maskclip-harness", "maskclip")])
def test_baselines_share_sclips_harness(name, method):
    for benchmark in BENCHMARKS:
        baseline, sclip = read(name, benchmark), read("sclip", benchmark)
        assert baseline.model.method == method
        assert baseline.model.test_cfg == sclip.model.test_cfg
        assert baseline.model.vocabulary == sclip.model.vocabulary
        assert baseline.test_dataloader == sclip.test_dataloader


def test_only_naclip_refines_its_maps():
    assert read("naclip", "voc21").model.pamr == {"steps": 10, "dilations": (8, 16)}
    assert all("pamr" not in read(method, "voc21").model for method in SIDES if method != "naclip")


def test_metafile_says_what_the_published_records_say():
    content = yaml.safe_load((FOLDER / "metafile.yml").read_text(encoding="utf-8"))
    found = {entry["Name"]: entry["Results"][0]["Metrics"]["mIoU"] for entry in content["Models"]}
    methods = ("sclip", "clearclip", "naclip", "resclip", "proxyclip")
    assert found == {result.config: result.value for result in read_results() if result.method in methods}
    assert len(found) == 40
    assert all((ROOT / entry["Config"]).is_file() for entry in content["Models"])
