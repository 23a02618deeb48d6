"""The shipped configs build, and say the published settings."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS, MODELS

import mmseg_plugins.register
from mmseg_plugins.api.segmenter import Segmenter
from mmseg_plugins.engine.harness import describe_harness
from mmseg_plugins.evaluation.published import read_results
from mmseg_plugins.towers.weights import find_file, find_record

_ = mmseg_plugins.register  # imported for its effect
FOLDER = Path(__file__).resolve().parents[2] / "configs/clip_dinoiser"
# benchmark -> classes, whether objectness decides the background
PUBLISHED = {
    "voc21": (21, True), "context60": (60, False), "coco-object": (81, True), "voc20": (20, False),
    "context59": (59, False), "coco-stuff164k": (171, False), "cityscapes": (19, False), "ade20k": (150, False),
}  # fmt: skip


ROOT = FOLDER.parents[1]
PAGE = (ROOT / "docs/clip_dinoiser.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", PAGE, re.S) for line in block.splitlines()]


def build(config):
    """The model without its memory: weights are loaded later in any case."""
    init_default_scope("mmseg")
    with torch.device("meta"):
        return MODELS.build(config.model)


@pytest.mark.parametrize("benchmark", PUBLISHED)
def test_a_benchmark_has_the_published_settings(benchmark):
    classes, is_decided = PUBLISHED[benchmark]
    config = Config.fromfile(FOLDER / f"clip-dinoiser_vit-b16_{benchmark}-448x448.py")
    model = build(config)
    settings = describe_harness(model, config.test_dataloader.dataset.pipeline)
    assert settings["model"] == "CLIPDINOiser"
    assert settings["resize"] == "(2048, 448), ratio kept"
    assert settings["test_cfg"] == "mode slide, crop_size (448, 448), stride (224, 224)"
    assert f": {classes} classes, {classes} names" in settings["vocabulary"]
    assert settings["gamma"] == "0.2"
    assert settings["templates"] == "80"
    assert settings["background decided by objectness"] == ("True, delta 0.99" if is_decided else "False")
    assert any(hook["type"] == "HarnessHook" for hook in config.custom_hooks), "settings are printed with results"
    shapes = {name: tuple(value.shape) for name, value in model.layers.state_dict().items()}
    assert shapes == {
        "obj_proj.weight": (256, 768, 3, 3), "obj_proj.bias": (256,),
        "bkg_decoder.weight": (1, 768, 1, 1), "bkg_decoder.bias": (1,),
    }  # fmt: skip
    assert find_record(model.layers_pretrained).licence == "Apache-2.0"
    assert len(DATASETS.get(config.test_dataloader.dataset.type).METAINFO.get("classes", ())) in (0, classes)


def test_both_trainings_differ_only_in_views_and_cache():
    images, views = (
        Config.fromfile(FOLDER / f"clip-dinoiser_vit-b16_1xb16-6k_{name}-448x448.py") for name in ("images", "views")
    )
    steps = images.train_dataloader.dataset.pipeline
    assert views.train_dataloader.dataset.pipeline[1].transforms == steps[1:-1]
    assert views.model.pop("teacher_cache")
    assert views.model == images.model
    assert views.optim_wrapper == images.optim_wrapper


def test_the_model_of_generated_scenes_comes_with_its_layers():
    segmenter = Segmenter.from_pretrained("clip-dinoiser-shapes", device="cpu")
    result = segmenter.segment(str(ROOT / "mmseg_plugins/assets/demo/shapes.png"), "grass; sand; water")
    assert result.labels.shape == (192, 256)
    assert find_file("asset://shapes_clip_dinoiser").stat().st_size < 200_000


def test_a_training_of_its_own_starts_from_new_layers():
    config = Config.fromfile(FOLDER / "clip-dinoiser_shapes-vit_1xb32-300_shapesworld-64x64.py")
    assert config.model.get("layers_pretrained") is None


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("python ")])
def test_a_command_of_the_page_names_files_and_entries_that_exist(line):
    words = shlex.split(line)
    tool, config = (ROOT / word for word in words[1:3])
    assert tool.is_file()
    assert config.is_file()
    content = Config.fromfile(config)
    for entry in words[words.index("--cfg-options") + 1 :] if "--cfg-options" in words else []:
        assert content.get(entry.split(".")[0]) is not None, entry


def test_the_page_shows_the_records_of_published_figures():
    figures = {result.config: result.value for result in read_results() if result.method == "clip_dinoiser"}
    assert len(figures) == 8
    for config, value in figures.items():
        assert re.search(rf"\| `{config}` \|.*\| {value} \|", PAGE), config
