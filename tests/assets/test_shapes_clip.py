import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from mmseg_plugins.datasets.shapesworld import GENERATOR_VERSION, generate_scene, world
from mmseg_plugins.datasets.shapesworld.scores import control_scores, count_answers, pair_scores
from mmseg_plugins.towers.clip import Clip, build_clip
from mmseg_plugins.vocabulary.embed import embed
from mmseg_plugins.vocabulary.templates import fill, load_templates
from mmseg_plugins.vocabulary.vocabulary import Vocabulary

ASSETS = Path(world.__file__).parents[2] / "assets"
FRESH_SEED = 7_001  # as tools/shapes_clip_scores.py: no choice was made on these scenes
COUNT = 100


@torch.no_grad()
def _tables(clip, templates):
    """Name every pixel of fresh scenes by MaskCLIP's value path."""
    rows = {}
    for granularity in world.GRANULARITIES:
        vocabulary = Vocabulary.from_benchmark(f"shapesworld_{granularity}")
        rows[str(granularity)] = embed(clip.text, vocabulary, templates).rows
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (clip.visual.mean, clip.visual.std))
    tables = {}
    for first in range(0, COUNT, 50):
        scenes = [generate_scene(FRESH_SEED, index, split="test") for index in range(first, first + 50)]
        images = torch.from_numpy(np.stack([scene.image for scene in scenes])).permute(0, 3, 1, 2)
        pixels = F.normalize(clip.forward_dense((images.float() - mean) / std).pixels, dim=1)
        logits = {
            name: F.interpolate(torch.einsum("bdhw,kd->bkhw", pixels, text), (64, 64), mode="bilinear").numpy()
            for name, text in rows.items()
        }
        count_answers(tables, np.stack([scene.labels() for scene in scenes]), logits)
    return tables


@pytest.fixture(scope="module")
def clip():
    return build_clip("shapesworld").eval()


@pytest.fixture(scope="module")
def tables(clip):
    return _tables(clip, "imagenet80")


@pytest.fixture(scope="module")
def scores(tables):
    return pair_scores(tables)


@pytest.fixture(scope="module")
def untrained(clip):
    torch.manual_seed(0)
    return pair_scores(_tables(Clip(clip.config).eval(), ["{}"]))


@pytest.mark.parametrize(
    ("score", "bar"),
    [
        ("miou_38", 45),
        ("miou_14", 60),
        ("miou_10", 60),
        ("miou_grounds", 68),
        ("miou_unseen_pairs", 28),
        ("pair_seen_both", 80),
        ("pair_unseen_texture", 45),
        ("pair_unseen_both", 40),
    ],
)
def test_every_pixel_is_named_well_enough(scores, bar, score):
    assert scores[score] >= bar


def test_objects_are_rarely_called_ground(scores):
    assert scores["objects_called_ground"] <= 12


@pytest.mark.parametrize("score", ["miou_38", "miou_14", "miou_10", "miou_grounds", "miou_unseen_pairs"])
def test_scores_are_three_times_the_untrained_towers(scores, untrained, score):
    assert scores[score] >= 3 * untrained[score]


def test_scores_are_beyond_guessing(tables, scores):
    controls = control_scores(tables)
    for granularity in ("38", "14", "10"):
        assert scores[f"miou_{granularity}"] >= 3 * controls[f"most_frequent_{granularity}"]
    # Knowing all places and colours would not be enough for pairs never seen in training.
    assert scores["miou_unseen_pairs"] > 1.5 * controls["colour_guesser_unseen"]
    assert scores["pair_seen_texture"] > 1.5 * controls["independent_texture_seen"]


@pytest.mark.parametrize("name", ["shapes_clip", "shapes_clip_all"])
def test_record_tells_how_the_weights_were_made(name):
    record = json.loads((ASSETS / f"{name}.json").read_text())
    training = record["training"]
    assert training["generator_version"] == GENERATOR_VERSION
    assert training["steps"] == training["recipe"]["close_up_steps"] + training["recipe"]["scene_steps"]
    assert training["images"] == training["steps"] * training["recipe"]["batch"]
    assert len(training["held_out_pairs"]) == (8 if name == "shapes_clip" else 0)
    for key in ("device", "threads", "seconds", "torch", "choices_on_validation_scenes", "validation_history"):
        assert training[key]
    assert record["fresh_scenes"]["64 px"]["scores"]["miou_38"] > 45
    tensors = load_file(ASSETS / f"{name}.safetensors")
    assert tensors["token_embedding.ids"].tolist() == record["known_token_ids"]
    assert len(tensors["token_embedding.rows"]) == len(record["known_token_ids"])
    assert {value.dtype for key, value in tensors.items() if key != "token_embedding.ids"} == {torch.float16}


def test_models_stay_small():
    assert sum(path.stat().st_size for path in ASSETS.glob("shapes_clip*")) <= 6_000_000


def test_recorded_scores_are_those_of_the_towers(scores):
    record = json.loads((ASSETS / "shapes_clip.json").read_text())["fresh_scenes"]["64 px"]["scores"]
    # The record counts 300 scenes, of which these are the first 100.
    for name in ("miou_38", "miou_14", "miou_10"):
        assert scores[name] == pytest.approx(record[name], abs=5)


def test_class_names_and_templates_use_known_words_only(clip):
    known = set(json.loads((ASSETS / "shapes_clip.json").read_text())["known_token_ids"])
    names = [name for granularity in world.GRANULARITIES for name in world.class_names(granularity)]
    prompts = [fill(template, name) for template in load_templates("imagenet80") for name in names]
    assert set(clip.text.tokenize(prompts).unique().tolist()) <= known
