"""Run the measurement of a published result as ``tools/test.py`` would."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.runner import Runner

from mmseg_plugins.engine.bare_model import bare_model
from mmseg_plugins.engine.launch import load_config


def measure(
    config_path: Path,
    *,
    options: Mapping[str, Any] | None = None,
    data_root: str | None = None,
    checkpoint: str | None = None,
    work_dir: str | None = None,
    out: str | None = None,
) -> Mapping[str, float]:
    """Test a config and return its figures.

    Args:
        config_path: the config file.
        options: config entries to change, ``{"model.ks_thresh": 0.0}``.
        data_root: folder of the data; None leaves the config's.
        checkpoint: weights to load; None takes what the config names.
        work_dir: for logs; None takes ``work_dirs/<config name>``.
        out: folder to save the predictions in.

    Raises:
        FileNotFoundError, ValueError: if data or weights are missing or do not fit.
    """
    config = build_config(config_path, options or {}, data_root, work_dir)
    if checkpoint is not None:
        config.load_from = checkpoint
    if out is not None:
        config.test_evaluator["output_dir"] = out
    runner = Runner.from_cfg(config)
    if config.get("load_from") is None:
        bare_model(runner.model).init_weights()
    return runner.test()


def build_config(config_path: Path, options: Mapping[str, Any], data_root: str | None, work_dir: str | None) -> Config:
    """Read a config as the test tool does; the training and validation sides are dropped."""
    arguments = argparse.Namespace(
        config=str(config_path), launcher="none", local_rank=0, cfg_options=dict(options) or None, work_dir=work_dir
    )
    config = load_config(arguments)
    if data_root is not None:
        config.test_dataloader.dataset.data_root = data_root
    for side in ("train", "val"):
        for part in ("dataloader", "cfg", "evaluator"):
            config.pop(f"{side}_{part}", None)
    config.pop("optim_wrapper", None)
    return config
