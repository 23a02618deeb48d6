"""tools/train.py with Mask-Adapter's configs on a small generated set: both phases, going on, mixed precision, two
processes, accumulated gradients."""

from functools import partial

import numpy as np
import pytest
import torch

import mmseg_plugins.register  # noqa: F401  (registers)
from mmseg_plugins.towers.files import read_tensors
from tests.tools import training_runs
from tests.tools.training_runs import ROOT

FIRST = ROOT / "configs/mask_adapter/mask-adapter_shapes-vit_1xb16-400_shapesworld-64x64.py"
SECOND = ROOT / "configs/mask_adapter/mask-adapter_shapes-vit_1xb16-200-mixed_shapesworld-64x64.py"
BASE = ROOT / "configs/fcclip/fcclip_shapes-vit_1xb16-300_shapesworld-seen-64x64.py"
# the second phase on a decoder and an adapter with random weights, of which enough predictions match something
ALONE = {"model.base_checkpoint": "None", "load_from": "None", "model.training.iou_threshold": 0.1}

pytestmark = pytest.mark.training


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return training_runs.write_scenes(tmp_path_factory.mktemp("scenes"))


def train(scenes, folder, *arguments, config=FIRST, **more):
    """Run the tool; returns the losses of every iteration that it ran."""
    parts = ("train", "val", "test") if config in (SECOND, BASE) else ("train",)
    rows = training_runs.train(config, scenes, folder, *arguments, parts=parts, **more)
    return {step: (row["loss"], row["lr"]) for step, row in rows.items()}


@pytest.mark.parametrize(
    ("config", "flags"),
    [(FIRST, ()), (FIRST, ("--amp",)), (SECOND, ("--amp",))],
    ids=["first", "first-amp", "second-amp"],
)
def test_a_stopped_training_goes_on_to_the_same_losses_and_weights(scenes, tmp_path, config, flags):
    run = partial(train, scenes, config=config, **(ALONE if config == SECOND else {}))
    moved = training_runs.check_going_on(run, tmp_path, flags)
    assert moved == {"mask_classifier", "void_embedding"}, "all else must stay as it is"


def test_the_second_phase_starts_on_the_first_and_on_the_base(scenes, tmp_path):
    train(scenes, tmp_path / "base", config=BASE, iterations=2, **{"model.criterion.num_points": 64})
    base = tmp_path / "base/iter_2.pth"
    config = tmp_path / "parts.py"
    hooks = "[dict(type='CheckpointParts', parts=('mask_classifier.', 'void_embedding.'))]"
    config.write_text(f"_base_ = [{str(FIRST)!r}]\ncustom_hooks = {hooks}\n", encoding="utf-8")
    train(scenes, tmp_path / "first", config=config, iterations=2, **{"model.base_checkpoint": base})
    first = tmp_path / "first/iter_2.pth"
    saved = read_tensors(first)["state_dict"]
    assert {key.split(".")[0] for key in saved} == {"mask_classifier", "void_embedding"}
    options = {
        "model.base_checkpoint": base,
        "load_from": first,
        "model.training.iou_threshold": 0.1,
        "train_cfg.val_interval": 2,
    }
    losses = train(scenes, tmp_path / "second", config=SECOND, iterations=2, **options)
    assert np.isfinite(list(losses.values())).all()
    last, decoder = (read_tensors(path)["state_dict"] for path in (tmp_path / "second/iter_2.pth", base))
    assert all(torch.equal(last[key], decoder[key]) for key in last if key.startswith(("proposals.", "pyramid.")))
    assert not torch.equal(last["void_embedding.weight"], decoder["void_embedding.weight"])


@pytest.mark.parametrize("config", [FIRST, SECOND], ids=["first", "second"])
def test_accumulated_gradients_move_the_weights_every_other_step(scenes, tmp_path, config):
    options = {"optim_wrapper.accumulative_counts": 2, "default_hooks.checkpoint.interval": 1}
    train(scenes, tmp_path, config=config, **options, **(ALONE if config == SECOND else {}))
    states = [read_tensors(tmp_path / f"iter_{step}.pth")["state_dict"] for step in (2, 3, 4)]
    biases = [state["mask_classifier.adapter.final.bias"] for state in states]
    assert torch.equal(biases[0], biases[1])
    assert not torch.equal(biases[1], biases[2])


@pytest.mark.skipif(torch.cuda.is_available(), reason="processes are forked, which CUDA does not allow")
def test_two_processes_train_both_phases(scenes, tmp_path):
    def work(folder):
        for config, name in ((FIRST, "first"), (SECOND, "second")):
            options = ALONE if config == SECOND else {}
            train(scenes, folder / name, "--launcher", "pytorch", config=config, iterations=2, **options)

    training_runs.in_two_processes(work, tmp_path)
    assert (tmp_path / "first/iter_2.pth").exists()
    assert (tmp_path / "second/iter_2.pth").exists()
