"""tools/train.py with FC-CLIP's configs on a small generated set: going on, mixed precision, several processes."""

import importlib.util
import itertools
import json
import multiprocessing
import os
import shutil
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmseg.registry import MODELS

import mmseg_plugins.register  # noqa: F401  (registers)
from mmseg_plugins.cli.main import main as command_line
from mmseg_plugins.engine.parameter_groups import parameter_groups
from mmseg_plugins.towers.files import read_tensors

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs/fcclip"
CONFIG = CONFIGS / "fcclip_shapes-vit_1xb16-300_shapesworld-64x64.py"
PUBLISHED = CONFIGS / "fcclip_convnext-l_8xb2-369k_coco-panoptic-1024x1024.py"
RUNS = itertools.count()

pytestmark = pytest.mark.training


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    given = ["--count", "5", "--seed", "5", "--format", "coco", "--seen-only"]
    assert command_line(["shapes", "--out", str(folder), *given]) == 0
    return folder


def load_tool():
    spec = importlib.util.spec_from_file_location("train_tool", ROOT / "tools/train.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def train(scenes, folder, *arguments, iterations=4, **more):
    """Run the tool; returns the losses of every iteration that it ran."""
    name = f"fcclip{next(RUNS)}"  # mmengine hands out visualizers and loggers by name: runs must not share one
    settings = {
        **{f"{part}_dataloader.dataset.data_root": scenes for part in ("train", "val", "test")},
        "train_dataloader.batch_size": 2,
        "model.proposals.num_queries": 6,
        "model.proposals.decoder_layers": 2,
        "train_cfg.max_iters": iterations,
        "train_cfg.val_interval": 1000,
        "default_hooks.checkpoint.interval": 2,
        "default_hooks.logger.interval": 1,
        "log_processor.window_size": 1,
        "experiment_name": name,
        "visualizer.name": name,
        **more,
    }
    before = set(folder.glob("*/vis_data/scalars.json"))
    call = [sys.argv[0], str(CONFIG), "--work-dir", str(folder), *arguments, "--cfg-options"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [*call, *(f"{key}={value}" for key, value in settings.items())])
        load_tool().main()
    written = set(folder.glob("*/vis_data/scalars.json")) - before
    rows = [json.loads(line) for path in written for line in path.read_text(encoding="utf-8").splitlines()]
    return {row["step"]: (row["loss"], row["d0.loss_mask"], row["base_lr"]) for row in rows if "loss" in row}


@pytest.mark.parametrize("flags", [(), ("--amp",)], ids=["float32", "amp"])
def test_a_stopped_training_goes_on_to_the_same_losses_and_weights(scenes, tmp_path, flags):
    whole, rest = tmp_path / "whole", tmp_path / "rest"
    expected = train(scenes, whole, *flags)
    assert sorted(expected) == [1, 2, 3, 4]
    assert np.isfinite(list(expected.values())).all()
    rest.mkdir()
    shutil.copy(whole / "iter_2.pth", rest)
    (rest / "last_checkpoint").write_text(str(rest / "iter_2.pth"), encoding="utf-8")
    assert train(scenes, rest, *flags, "--resume") == {step: expected[step] for step in (3, 4)}
    one, other = (read_tensors(folder / "iter_4.pth")["state_dict"] for folder in (whole, rest))
    assert all(torch.equal(one[key], other[key]) for key in one)
    start = read_tensors(whole / "iter_2.pth")["state_dict"]
    moved = {key.split(".")[0] for key in one if not torch.equal(one[key], start[key])}
    assert moved == {"proposals", "pyramid", "void_embedding"}, "CLIP must stay as it is"


def test_mixed_precision_differs_but_little(scenes, tmp_path):
    exact = train(scenes, tmp_path / "exact", iterations=1)
    mixed = train(scenes, tmp_path / "mixed", "--amp", iterations=1)
    assert exact[1] != mixed[1]
    assert exact[1][0] == pytest.approx(mixed[1][0], rel=0.05)


def run_process(scenes, folder, rank, port):
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    train(scenes, folder, "--launcher", "pytorch", iterations=2, **{"train_cfg.val_interval": 2})
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(torch.cuda.is_available(), reason="processes are forked, which CUDA does not allow")
def test_two_processes_train_and_validate(scenes, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=run_process, args=(scenes, tmp_path, rank, port)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        if process.is_alive():
            process.kill()
    assert [process.exitcode for process in processes] == [0, 0]
    rows = [json.loads(line) for path in tmp_path.rglob("scalars.json") for line in path.read_text().splitlines()]
    assert all(np.isfinite(row["loss"]) for row in rows if "loss" in row)
    assert any("PQ" in row for row in rows)
    assert (tmp_path / "iter_2.pth").exists()


def test_masks_of_seen_classes_train_under_their_own_class_list(scenes, tmp_path):
    seen = {
        "train_dataloader.dataset.seen_only": True,
        "train_dataloader.dataset.renumber_seen": True,
        "model.train_vocabulary.source": "shapesworld_38_seen",
    }
    losses = train(scenes, tmp_path, iterations=1, **seen)
    assert np.isfinite(losses[1]).all()


def test_published_recipe_decays_all_but_norms_and_embeddings():
    config = Config.fromfile(PUBLISHED)
    settings = dict(config.model.proposals, type="OpenVocabularyMask2Former")
    head = MODELS.build({**settings, "num_queries": 3, "encoder_layers": 1, "decoder_layers": 1})
    wrapper = config.optim_wrapper
    options = {**wrapper.paramwise_cfg, "lr_mult": {}}
    groups = parameter_groups(head, lr=wrapper.optimizer.lr, weight_decay=wrapper.optimizer.weight_decay, **options)
    decay_of = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    undecayed = {name for name, parameter in head.named_parameters() if decay_of[id(parameter)] == 0}
    assert len(decay_of) == len(list(head.parameters()))
    for name, parameter in head.named_parameters():
        is_norm = parameter.dim() == 1 and ("norm" in name or "pooling_proj.0" in name or "input_proj" in name)
        is_norm &= not name.endswith(".0.bias") or "pooling_proj" in name
        is_embedding = name in {f"predictor.{part}.weight" for part in ("query_feat", "query_embed", "level_embed")}
        assert (name in undecayed) == (is_norm or is_embedding), name
    assert (wrapper.clip_grad.max_norm, config.train_cfg.max_iters) == (0.01, 368750)
    assert config.train_dataloader.batch_size == 2
