"""Mask-Adapter's configs: what they say beside what was published, and that the models they build are its."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner.checkpoint import load_checkpoint
from mmseg.registry import MODELS

import mmseg_plugins.register  # noqa: F401  (registers)
from mmseg_plugins.cases import Case

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "configs/mask_adapter"
ALL = sorted(path.stem for path in FOLDER.glob("*.py"))
TESTS = [name for name in ALL if "896x896" in name]
TRAININGS = [name for name in ALL if "4xb" in name]
PUBLISHED = {
    "fcclip-convnext-l": (0.5, 0.7, 0.9, 250),
    "maftp-convnext-b": (0.45, 0.7, 1.0, 100),
    "maftp-convnext-l": (0.4, 0.8, 1.0, 100),
}


def read(name):
    return Config.fromfile(FOLDER / f"{name}.py")


def base_of(name):
    return next(base for base in PUBLISHED if base in name)


def test_every_base_and_benchmark_has_a_config():
    for base in PUBLISHED:
        for benchmark in ("ade20k", "ade20k-847", "context459", "context59", "voc20"):
            assert f"mask-adapter_{base}_{benchmark}-896x896" in TESTS
    assert len(TRAININGS) == 6


@pytest.mark.parametrize("name", [name for name in TESTS + TRAININGS if "sam" not in name])
def test_threshold_alpha_beta_and_queries_are_those_of_the_base(name):
    model = read(name).model
    scoring = model.scoring
    got = (model.mask_classifier.threshold, scoring.alpha, scoring.beta, model.proposals.num_queries)
    assert got == PUBLISHED[base_of(name)]
    assert not scoring.get("valid_only", False)
    assert ("text_transfer" in model) is ("maftp" in name)
    if "maftp" in name:
        assert model.text_transfer.token_order == "legacy"
        assert model.text_transfer.variant == "semantic"


@pytest.mark.parametrize("name", TESTS)
def test_the_long_side_becomes_896(name):
    config = read(name)
    [resize] = [step for step in config.test_dataloader.dataset.pipeline if step.type == "Resize"]
    assert tuple(resize.scale) == (896, 896)
    assert resize.keep_ratio
    assert resize.backend == "pillow"
    assert (config.test_evaluator.get("absent") == "skip") is ("847" in name or "459" in name)


@pytest.mark.parametrize("name", TRAININGS)
def test_trainings_are_the_published_ones(name):
    config, mixed, maft = read(name), "mixed" in name, "maftp" in name
    wrapper, options = config.optim_wrapper, config.model.training
    assert (wrapper.type, wrapper.optimizer.lr, wrapper.clip_grad.max_norm) == ("AmpOptimWrapper", 1e-4, 1.0)
    assert wrapper.optimizer.weight_decay == (2e-5 if mixed and maft else 0.05)
    assert config.train_cfg.max_iters == (49286 if mixed else 295717)
    assert config.train_dataloader.batch_size * 4 == (24 if mixed else 8)
    steps = {step.type: step for step in config.train_dataloader.dataset.pipeline}
    assert steps["LargeScaleJitterCrop"]["size"] == ((1024, 1024) if mixed else (768, 768))
    assert ("PhotoMetricDistortion" in steps) is not mixed
    assert options.phase == ("mixed" if mixed else "ground_truth")
    [schedule] = config.param_scheduler
    assert schedule.type == ("PolyLR" if mixed and maft else "MultiStepLR")
    assert "milestones" not in schedule or schedule.type == "MultiStepLR"
    if mixed:
        assert options.iou_binarise == (0.5 if maft else 0.4)
        assert options.detach_target is not maft
        assert options.get("train_void", True) is not maft
        first = config.load_from.split("/")[1]
        assert (FOLDER / f"{first}.py").is_file()
        assert str(read(first).train_cfg.max_iters) in config.load_from


@pytest.mark.filterwarnings("ignore:for .* copying from a non-meta:UserWarning")
@pytest.mark.parametrize("name", [name for name in TESTS if "sam" in name or "ade20k-896" in name])
def test_full_size_files_load_key_for_key(name, tmp_path):
    base = base_of(name)
    size = "large" if base.endswith("l") else "base"
    case = Case.load(ROOT / f"tests/fixtures/mask_adapter/adapter_{size}.json")
    layout = json.loads((ROOT / f"tests/fixtures/maft_plus/layouts/layout_{size}_semantic.json").read_text())["layout"]
    layout |= {key: shape for key, shape in case.spec["layout"].items() if key.startswith("mask_adapter.")}
    if "fcclip" in base:  # the same but for the text transfer, the frozen copy and the number of queries
        layout = {key: shape for key, shape in layout.items() if not key.startswith(("cdt.", "backbone_t."))}
        layout |= {f"sem_seg_head.predictor.query_{kind}.weight": [250, 256] for kind in ("feat", "embed")}
    torch.save({"model": {key: torch.rand(()).expand(shape) for key, shape in layout.items()}}, tmp_path / "file.pth")
    init_default_scope("mmseg")
    with torch.device("meta"):
        model = MODELS.build({**read(name).model, "text_cache": False})
    load_checkpoint(model, str(tmp_path / "file.pth"), logger="silent")  # refuses what is missing or has no place
    assert not model.random_parts
    assert model.mask_classifier.token_order == ("channels_last" if "fcclip" in base else "legacy")


@pytest.mark.parametrize("name", [name for name in ALL if "shapes" in name])
def test_configs_of_generated_scenes_build(name):
    init_default_scope("mmseg")
    config = read(name)
    model = MODELS.build({**config.model, "base_checkpoint": None})
    assert model.mask_classifier.adapter.embed_dim == 96


def test_metafile_names_configs_that_exist_with_their_figures():
    content = yaml.safe_load((FOLDER / "metafile.yml").read_text(encoding="utf-8"))
    assert len(content["Models"]) == 15
    for entry in content["Models"]:
        assert (ROOT / entry["Config"]).stem == entry["Name"]
        assert (ROOT / entry["Config"]).is_file()
