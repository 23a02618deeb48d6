"""What the train and test tools share: their common arguments, and the config that these lead to."""

import argparse
import os
from pathlib import Path
from typing import Any

from mmengine.config import Config, DictAction

from mmseg_plugins.engine.cpu_distributed import prepare_cpu_distributed


class _Overrides(DictAction):
    """mmengine's KEY=VALUE pairs, with an error for a pair that is none."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: list[str], *rest: Any) -> None:
        wrong = [value for value in values if not value.partition("=")[0] or "=" not in value]
        if wrong:
            parser.error(
                f"--cfg-options takes KEY=VALUE pairs, but got {wrong[0]!r}. Quote values that contain spaces."
            )
        super().__call__(parser, namespace, values, *rest)


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that both tools take, under the names of mmseg's own tools."""
    parser.add_argument("--work-dir", help="where logs and results go (default: work_dirs/<config name>)")
    parser.add_argument(
        "--cfg-options", nargs="+", action=_Overrides, metavar="KEY=VALUE", help="override config entries"
    )
    parser.add_argument("--launcher", choices=["none", "pytorch", "slurm", "mpi"], default="none")
    # torchrun sets LOCAL_RANK; older launchers pass the flag.
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)


def load_config(args: argparse.Namespace) -> Config:
    """Read ``args.config`` and merge the common arguments into it; command line wins over file."""
    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    if not Path(args.config).is_file():
        raise FileNotFoundError(f"Config file {args.config} does not exist. The configs are below configs/.")
    config = Config.fromfile(args.config)
    config.launcher = args.launcher
    if args.cfg_options is not None:
        config.merge_from_dict(args.cfg_options)
    if args.work_dir is not None:
        config.work_dir = args.work_dir
    elif config.get("work_dir") is None:
        config.work_dir = str(Path("work_dirs") / Path(args.config).stem)
    prepare_cpu_distributed(config)
    return config
