import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("open_clip", reason="the training script builds open_clip's model")

TOOLS = Path(__file__).parents[2] / "tools"
sys.path.insert(0, str(TOOLS))

import shapes_clip_model  # noqa: E402  (a script's module, not part of the package)
import shapes_clip_scores  # noqa: E402
import train_shapes_clip  # noqa: E402
from train_shapes_clip import Recipe, Trainer, learning_rate  # noqa: E402

from mmseg_plugins.datasets.shapesworld import generate_scene  # noqa: E402
from mmseg_plugins.towers.clip import build_clip  # noqa: E402
from mmseg_plugins.towers.dense import DenseOptions  # noqa: E402
from mmseg_plugins.towers.files import asset_path  # noqa: E402

TINY = Recipe(close_up_steps=2, scene_steps=3, close_up_scenes=20, scenes=20, batch=4, warm_up=2)


@pytest.fixture(autouse=True)
def _quick_validation(monkeypatch):
    quick = {"scores": {"miou_38": 0.0}}
    monkeypatch.setattr(train_shapes_clip, "evaluate", lambda *_, **__: quick)


def _run(folder, recipe, *, stop_at=None, resume=False):
    folder.mkdir(exist_ok=True)
    trainer = Trainer(recipe, folder, "cpu")
    if resume:
        trainer.resume()
    if stop_at is not None:
        write = train_shapes_clip.write_asset

        def interrupt(current, path, *, final):
            write(current, path, final=final)
            if current.step == stop_at:
                raise KeyboardInterrupt

        train_shapes_clip.write_asset = interrupt
        try:
            with pytest.raises(KeyboardInterrupt):
                trainer.run(validate_every=2, save_every=1, out=folder / "clip.safetensors")
        finally:
            train_shapes_clip.write_asset = write
    else:
        trainer.run(validate_every=2, save_every=100, out=folder / "clip.safetensors")
    return trainer


@pytest.mark.parametrize("stop_at", [1, 3])
def test_resumed_run_ends_with_the_same_weights(tmp_path, stop_at):
    whole = _run(tmp_path / "whole", TINY)
    _run(tmp_path / "cut", TINY, stop_at=stop_at)
    resumed = _run(tmp_path / "cut", TINY, resume=True)
    assert resumed.step == whole.step == 5
    assert [row["step"] for row in resumed.history] == [2, 4]
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_resuming_another_recipe_is_refused(tmp_path):
    _run(tmp_path / "run", TINY, stop_at=1)
    other = Trainer(Recipe(seed=1), tmp_path / "run", "cpu")
    with pytest.raises(ValueError, match="another --work-dir"):
        other.resume()


def test_written_asset_loads_with_its_record(tmp_path):
    trainer = _run(tmp_path, TINY)
    out = tmp_path / "clip.safetensors"
    train_shapes_clip.write_asset(trainer, out, final=True)
    record = json.loads(out.with_suffix(".json").read_text())
    assert record["training"]["steps"] == 5
    assert record["training"]["images"] == 20
    assert {"64 px", "96 px", "64 px, untrained"} <= set(record["fresh_scenes"])
    loaded = shapes_clip_model.load_asset(out)
    for name, value in trainer.model.clip.state_dict().items():
        torch.testing.assert_close(loaded.clip.state_dict()[name], value.half().float())
    assert not list(tmp_path.glob("*.tmp"))


def test_training_lowers_the_loss(tmp_path):
    recipe = Recipe(close_up_steps=30, scene_steps=0, close_up_scenes=200, scenes=1, batch=16, warm_up=5)
    trainer = Trainer(recipe, tmp_path, "cpu")
    pool = trainer._make_pool(True)
    losses = []
    for _ in range(30):
        losses.append(trainer._train_step(pool, True))
        trainer.step += 1
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.2


def test_learning_rate_warms_up_and_falls_to_zero():
    recipe = Recipe(close_up_steps=100, scene_steps=100, warm_up=10, lr=1.0)
    rates = [learning_rate(recipe, step) for step in range(201)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(1.0, abs=1e-3)
    assert rates[-1] == pytest.approx(0.0, abs=1e-6)


def test_towers_compute_what_was_trained():
    model = shapes_clip_model.load_asset(asset_path("shapes_clip"))
    clip = build_clip("shapesworld").eval()
    images = torch.from_numpy(np.stack([generate_scene(1, index).image for index in range(3)])).permute(0, 3, 1, 2)
    pixels = (images.float() - model.mean) / model.std
    with torch.no_grad():
        for rule, expected in (("qk", model.patches(images)), ("value", model.value_patches(images))):
            found = clip.forward_dense(pixels, DenseOptions(rule=rule)).pixels.flatten(2).transpose(1, 2)
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
        # The image embedding is the mean over patches, as the full captions were trained with.
        torch.testing.assert_close(clip.encode_image(pixels), model.patches(images).mean(1), atol=1e-4, rtol=1e-4)
        names = ["a photo of a red striped thing.", "grass"]
        ours = torch.nn.functional.normalize(clip.encode_text(names), dim=-1)
        torch.testing.assert_close(ours, model.encode_text(model.words.encode(names)), atol=1e-5, rtol=1e-4)


def test_scores_of_larger_scenes_use_windows():
    model = shapes_clip_model.load_asset(asset_path("shapes_clip"))
    report = shapes_clip_scores.evaluate(model, 1, 2, "validation", size=96, rule="qk")
    assert report["scores"]["miou_38"] > 20
