"""What a mask adapter is worth on generated scenes, shortened: the shipped one on new scenes, and a short training."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mmseg_plugins.classify.pooling import MaskPoolingClassifier
from mmseg_plugins.masks.mask2former.predictions import MaskPrediction
from mmseg_plugins.masks.targets import SegmentTargets
from mmseg_plugins.towers.files import read_tensors

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools/benchmarks/mask_adapter_shapes.py"
TRAINED = ROOT / "mmseg_plugins/assets/shapes_mask_adapter.safetensors"

pytestmark = pytest.mark.training


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("mask_adapter_shapes", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def scenes(tool, model, count, *, seed, split, options):
    tower = model.clip.visual
    mean, std = (torch.tensor(numbers, dtype=torch.float32)[:, None, None] for numbers in (tower.mean, tower.std))
    return tool.make_scenes(count, seed=seed, split=split, options=options, mean=mean, std=std)


@pytest.fixture(scope="module")
def trained(tool):
    model = tool.build_model(0)
    model.load_state_dict(read_tensors(TRAINED))
    return model.eval()


@pytest.mark.parametrize("grown", [False, True])
def test_the_trained_adapter_names_masks_of_crowded_scenes_better_than_pooling(tool, trained, grown):
    new = scenes(tool, trained, 120, seed=4242, split="test", options=tool.CROWDED)
    change = tool.dilate if grown else None
    adapter = tool.score(trained, trained.mask_classifier, new, change)
    pooling = tool.score(trained, MaskPoolingClassifier(), new, change)
    assert adapter["seen"] > pooling["seen"] + 0.5
    # about 230 masks: two or three points are noise (1.7 ahead on 400 scenes)
    assert adapter["unseen"] > pooling["unseen"] - 3


def test_large_objects_which_pooling_names_without_fault_lose_little(tool, trained):
    new = scenes(tool, trained, 60, seed=4242, split="test", options=tool.USUAL)
    adapter = tool.score(trained, trained.mask_classifier, new)["seen"]
    pooling = tool.score(trained, MaskPoolingClassifier(), new)["seen"]
    assert pooling > 97
    assert adapter > pooling - 4


def test_a_few_steps_teach_an_adapter_most_of_what_pooling_knows(tool):
    model = tool.build_model(1)
    some = scenes(tool, model, 60, seed=1, split="train", options=tool.CROWDED)
    new = scenes(tool, model, 30, seed=1, split="test", options=tool.CROWDED)
    before = tool.score(model, model.mask_classifier, new)
    tool.train(model, some, steps=60, seed=1, batch=8, lr=4e-3)
    after = tool.score(model, model.mask_classifier, new)
    assert before["seen"] < 30
    assert after["seen"] > 50
    assert after["unseen"] > 35, "it has learned where to look, and not the classes"


def test_the_second_phase_goes_on_with_the_adapter_on_the_decoder_of_a_checkpoint(tool, tmp_path):
    decoder, first = tool.build_model(2), tool.build_model(3)
    state = {key: value for key, value in decoder.state_dict().items() if not key.startswith("mask_classifier.")}
    torch.save({"state_dict": state}, tmp_path / "base.pth")
    some = scenes(tool, first, 2, seed=1, split="train", options=tool.USUAL)
    mixed = tool.second_phase(first, tmp_path / "base.pth", some, steps=1, seed=0)
    moved = {key for key, value in mixed.state_dict().items() if not torch.equal(value, (state | learned(first))[key])}
    assert {key.split(".")[0] for key in moved} == {"mask_classifier", "void_embedding"}
    assert (mixed.mask_classifier.adapter.fuse.bias - first.mask_classifier.adapter.fuse.bias).abs().max() < 0.01


def learned(model):
    return {key: value for key, value in model.state_dict().items() if key.startswith("mask_classifier.")}


def test_predictions_take_the_place_of_annotated_masks_that_they_overlap_by_more_than_half(tool):
    model = tool.build_model(0)
    masks = torch.zeros(3, 64, 64, dtype=torch.bool)
    masks[0, :32], masks[1, 32:, :32], masks[2, 32:, 32:] = True, True, True
    logits = torch.full((3, 16, 16), -9.0)
    logits[2, :7], logits[0, 8:, :8], logits[1, 8:, 8:11] = 9.0, 9.0, 9.0  # the last one misses more than half
    model.decode = lambda *_, **__: [MaskPrediction(mask_logits=logits[None], class_logits=None)]
    encoded = SimpleNamespace(stages=None)
    found, labels = tool.best_predictions(model, encoded, SegmentTargets(torch.tensor([5, 6, 7]), masks))
    assert labels.tolist() == [5, 6]
    assert torch.equal(found, logits[[2, 0]])
