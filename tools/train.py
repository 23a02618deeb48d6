"""Train a model from a config file.

Examples:
  python tools/train.py configs/denseclip/denseclip_fpn_shapes-vit_1xb16-150_shapesworld-64x64.py
  python tools/train.py CONFIG --amp --cfg-options train_cfg.max_iters=100
  python tools/train.py CONFIG --resume
"""

import argparse

from mmengine.config import Config
from mmengine.runner import Runner

from mmseg_plugins.engine.cpu_amp import ACCELERATED_WRAPPER, amp_wrapper_type
from mmseg_plugins.engine.cpu_distributed import leave_process_group
from mmseg_plugins.engine.launch import add_common_arguments, load_config
from mmseg_plugins.engine.whole_checkpoints import latest_checkpoint


def parse_args() -> argparse.Namespace:
    """Read the command line; the arguments are those of mmseg's own tool."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="config file")
    add_common_arguments(parser)
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="CHECKPOINT",
        help="go on from this checkpoint, or from the last one in the work dir when none is named",
    )
    parser.add_argument("--amp", action="store_true", help="train in mixed precision")
    return parser.parse_args()


def build_config(args: argparse.Namespace) -> Config:
    """Merge the config file with the command line."""
    config = load_config(args)
    if args.amp:
        _enable_amp(config)
    if args.resume is not None:
        # The last checkpoint of the run replaces the config's starting point; a run without one starts from there.
        checkpoint = latest_checkpoint(config.work_dir) if args.resume == "auto" else args.resume
        config.resume = checkpoint is not None
        config.load_from = checkpoint or config.get("load_from")
    return config


def _enable_amp(config: Config) -> None:
    wrapper = config.optim_wrapper
    if wrapper.get("type", "OptimWrapper") not in ("OptimWrapper", ACCELERATED_WRAPPER):
        raise ValueError(f"--amp needs optim_wrapper.type 'OptimWrapper', but the config has {wrapper['type']!r}.")
    wrapper.type = amp_wrapper_type()
    wrapper.setdefault("loss_scale", "dynamic")


def main() -> None:
    """Build the runner from the config and train."""
    config = build_config(parse_args())
    runner = Runner.from_cfg(config)
    runner.train()


if __name__ == "__main__":
    main()
    leave_process_group()
