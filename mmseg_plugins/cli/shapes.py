"""Write a ShapesWorld set: generated scenes of coloured, textured shapes with exact ground truth.

Writing again goes on where it stopped; a higher count or another format adds to what is there.
"""

import argparse
import sys
import time
from functools import partial

from mmseg_plugins.cli.progress import ProgressLine

EXAMPLES = """  mmseg-plugins shapes --out data/shapesworld
  mmseg-plugins shapes --out data/shapes_coco --split train validation --count 500 --format both --seen-only
  mmseg-plugins shapes --out pictures --split test --count 4 --size 192x256 --format images"""

_FORMATS = {"ade": ("ade",), "coco": ("coco",), "both": ("ade", "coco"), "images": ()}


def _size(text: str) -> tuple[int, int]:
    try:
        numbers = [int(part) for part in text.lower().split("x")]
        height, width = numbers if len(numbers) == 2 else numbers * 2
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected HEIGHTxWIDTH or one number, in pixels, but got {text!r}") from None
    return height, width


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the verb."""
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the set")
    parser.add_argument(
        "--split",
        nargs="+",
        default=["train", "validation"],
        choices=["train", "validation", "test"],
        help="splits to write (default: train validation)",
    )
    parser.add_argument("--count", type=int, default=200, help="scenes per split (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the whole set (default: %(default)s)")
    parser.add_argument(
        "--size", type=_size, default=(64, 64), metavar="HxW", help="scene size in pixels (default: 64x64)"
    )
    parser.add_argument(
        "--granularity",
        type=int,
        default=38,
        choices=[38, 14, 10],
        help="classes: 38 colour-texture pairs and grounds, 14 colours and grounds, 10 textures and grounds "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--format",
        default="ade",
        choices=list(_FORMATS),
        help="ade: label maps, coco: panoptic and instances, both, images: no ground truth (default: %(default)s)",
    )
    parser.add_argument(
        "--pairs",
        default="all",
        choices=["all", "seen"],
        help="seen: training scenes leave out the eight held-out pairs (default: %(default)s)",
    )
    parser.add_argument(
        "--seen-only", action="store_true", help="add ground truth in which only the seen classes are annotated"
    )
    parser.add_argument("--overwrite", action="store_true", help="write again what is there")


def run(options: argparse.Namespace) -> int:
    """Write the splits and say where they are."""
    from mmseg_plugins.api.result import check_writable
    from mmseg_plugins.datasets.shapesworld import SceneOptions
    from mmseg_plugins.datasets.shapesworld.writer import SetOptions, write_set

    check_writable(options.out)
    started = time.perf_counter()
    for split in options.split:
        pairs = options.pairs if split == "train" else "all"
        set_options = SetOptions(
            split=split,
            count=options.count,
            seed=options.seed,
            granularity=options.granularity,
            formats=_FORMATS[options.format],
            seen_only=options.seen_only,
            scene=SceneOptions(size=options.size, pairs=pairs),
        )
        written = write_set(
            options.out, set_options, overwrite=options.overwrite, progress=partial(ProgressLine(), split)
        )
        print(f"{split}: {options.count} scenes in {options.out} ({written} written now)")
    print(f"done in {time.perf_counter() - started:.1f} s", file=sys.stderr)
    return 0
