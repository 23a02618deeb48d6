"""Evaluate a model on the test set of a config file.

Without a checkpoint the weights that the config names are loaded (the embedded model, a download, a local file).

Examples:
  python tools/test.py configs/maskclip/maskclip_shapes-vit_shapesworld-64x64.py
  python tools/test.py CONFIG ViT-B-16.safetensors --out predictions
  python tools/test.py CONFIG CHECKPOINT --tta --show-dir overlays
"""

import argparse

from mmengine.config import Config
from mmengine.runner import Runner

from mmseg_plugins.engine.bare_model import bare_model
from mmseg_plugins.engine.cpu_distributed import leave_process_group
from mmseg_plugins.engine.launch import add_common_arguments, load_config


def parse_args() -> argparse.Namespace:
    """Read the command line; the arguments are those of mmseg's own tool."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="config file")
    parser.add_argument("checkpoint", nargs="?", help="published or trained weights (default: those of the config)")
    add_common_arguments(parser)
    parser.add_argument("--out", metavar="DIR", help="save the predictions for offline scoring or submission")
    parser.add_argument("--show", action="store_true", help="show the overlays in a window")
    parser.add_argument("--show-dir", metavar="DIR", help="save the overlays")
    parser.add_argument("--wait-time", type=float, default=2, metavar="SECONDS", help="how long a shown overlay stays")
    parser.add_argument("--tta", action="store_true", help="test-time augmentation as the config describes it")
    return parser.parse_args()


def build_config(args: argparse.Namespace) -> Config:
    """Merge the config file with the command line."""
    config = load_config(args)
    if args.checkpoint is not None:
        config.load_from = args.checkpoint
    if args.show or args.show_dir:
        _enable_overlays(config, args)
    if args.tta:
        _enable_tta(config)
    if args.out is not None:
        _save_predictions(config, args.out)
    return config


def _enable_overlays(config: Config, args: argparse.Namespace) -> None:
    hooks = config.get("default_hooks", {})
    if "visualization" not in hooks or "visualizer" not in config:
        raise ValueError("--show and --show-dir need 'visualizer' and 'default_hooks.visualization' in the config.")
    hooks.visualization.update(draw=True, show=args.show, wait_time=args.wait_time)
    if args.show_dir:
        config.visualizer.save_dir = args.show_dir


def _enable_tta(config: Config) -> None:
    if "tta_model" not in config or "tta_pipeline" not in config:
        raise ValueError("--tta needs 'tta_model' and 'tta_pipeline' in the config.")
    _take_test_scale(config.tta_pipeline, config.test_dataloader.dataset.pipeline)
    config.test_dataloader.dataset.pipeline = config.tta_pipeline
    config.tta_model.module = config.model
    config.model = config.tta_model


def _take_test_scale(views: list[dict], test_pipeline: list[dict]) -> None:
    """Give ``MultiScaleFlip`` the scale and options of the test pipeline's Resize.

    A benchmark's file brings the one, a method's the other, and ratios mean the scale that is tested with. For views at
    another scale write ``TestTimeAug``.
    """
    resize = next((dict(step) for step in test_pipeline if step["type"] == "Resize"), None)
    for step in views:
        if resize is not None and step["type"] == "MultiScaleFlip":
            step["scale"] = tuple(resize["scale"])
            step["resize"] = {key: value for key, value in resize.items() if key not in ("type", "scale")}


def _save_predictions(config: Config, folder: str) -> None:
    evaluator = config.get("test_evaluator")
    if isinstance(evaluator, (list, tuple)) and evaluator:
        evaluator = evaluator[0]  # one metric writes the predictions of all kinds
    if not isinstance(evaluator, dict):
        raise ValueError(
            f"--out needs a metric as test_evaluator in the config, but got {type(evaluator).__name__}. "
            "Name the metric that writes predictions as a dict, or first in a list."
        )
    evaluator["output_dir"] = folder
    evaluator["keep_results"] = True


def main() -> None:
    """Build the runner from the config and test."""
    config = build_config(parse_args())
    runner = Runner.from_cfg(config)
    if config.get("load_from") is None:
        bare_model(runner.model).init_weights()
    runner.test()


if __name__ == "__main__":
    main()
    leave_process_group()
