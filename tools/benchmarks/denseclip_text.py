"""What DenseCLIP's text side is worth on generated scenes: the same training with it and without it, several seeds.

Every seed has scenes of its own, new ones for the scores, and trains each variant on the same scenes for as many
iterations, through tools/train.py. Three minutes for each seed on one core; a run that is called again goes on.

    python tools/benchmarks/denseclip_text.py --work-dir work_dirs/denseclip_text --seeds 1 2 3
    python tools/benchmarks/denseclip_text.py --work-dir work_dirs/denseclip_text --seeds 1 --variants text no-text
"""

import argparse
import json
import logging
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CONFIG = "configs/denseclip/denseclip_fpn_{}_1xb16-150_shapesworld-64x64.py"
TEXT, NO_TEXT = (ROOT / CONFIG.format(name) for name in ("shapes-vit", "shapes-vit-no-text"))
# Name of a variant -> tool, config, options.
VARIANTS = {
    "map": ("tools/test.py", TEXT, ("model.predict_from=score_map",)),
    "no-text": ("tools/train.py", NO_TEXT, ()),
    "raw": ("tools/train.py", TEXT, ("model.is_score_map_scaled=False",)),
    "text": ("tools/train.py", TEXT, ()),
}
DESCRIPTIONS = {
    "map": "score map of the embedded model, untrained",
    "no-text": "trained without text",
    "raw": "DenseCLIP, cosines as they are (published)",
    "text": "DenseCLIP, cosines over tau (the config)",
}

logger = logging.getLogger(__name__)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", type=Path, required=True, help="where scenes, runs and scores go")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="of scenes and training")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument(
        "--scenes", type=int, default=200, help="scenes to train on, and as many to score (default: 200)"
    )
    parser.add_argument(
        "--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="further config entries for every variant"
    )
    return parser.parse_args()


def write_scenes(folder: Path, seed: int, count: int) -> None:
    """Write the training and validation scenes of a seed; what is there stays."""
    run([sys.executable, "-m", "mmseg_plugins.cli.main", "shapes", "--out", folder, "--seed", seed, "--count", count])


def score(variant: str, seed: int, scenes: Path, folder: Path, options: list[str]) -> float:
    """Train (or only test) a variant and return its mIoU on the validation scenes, in percent."""
    tool, config, own = VARIANTS[variant]
    roots = [f"{name}_dataloader.dataset.data_root={scenes}" for name in ("train", "val", "test")]
    command = [sys.executable, ROOT / tool, config, "--work-dir", folder, "--cfg-options", f"randomness.seed={seed}"]
    output = run([*command, *roots, *own, *options])
    return float(re.findall(r"mIoU: ([\d.]+)", output)[-1])


def run(command: list) -> str:
    """Run a command on one thread and return what it printed.

    Raises:
        RuntimeError: with the last lines, if it fails.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[1]} failed:\n{done.stderr[-2000:]}")
    return done.stdout + done.stderr


def as_table(scores: dict[str, dict[str, float]]) -> str:
    """Return the scores as a Markdown table: a row for each variant with its seeds, mean and spread."""
    seeds = sorted({seed for row in scores.values() for seed in row}, key=int)
    lines = [
        "| | " + " | ".join(f"seed {seed}" for seed in seeds) + " | mean | spread |",
        "|---" * (len(seeds) + 3) + "|",
    ]
    for variant in (name for name in VARIANTS if scores.get(name)):
        row = scores[variant]
        shown = [f"{row[seed]:.1f}" if seed in row else "-" for seed in seeds]
        spread = max(row.values()) - min(row.values())
        shown += [f"{statistics.mean(row.values()):.1f}", f"{spread:.1f}"]
        lines.append(f"| {DESCRIPTIONS[variant]} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def main() -> None:
    """Score what is missing, keep every score in a file, and print the table."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    args = parse_args()
    for seed in args.seeds:
        write_scenes(args.work_dir / f"scenes_{seed}", seed, args.scenes)
        for variant in args.variants:
            folder = args.work_dir / f"{variant}_{seed}"
            kept = folder / "miou.json"
            if not kept.exists():
                scenes = (args.work_dir / f"scenes_{seed}").resolve()
                result = score(variant, seed, scenes, folder, args.cfg_options)
                kept.write_text(json.dumps({"mIoU": result}), encoding="utf-8")
            logger.info("seed %d, %s: %s", seed, variant, kept.read_text(encoding="utf-8"))
    print(as_table(read_scores(args.work_dir)))


def read_scores(folder: Path) -> dict[str, dict[str, float]]:
    """Return variant -> seed -> mIoU of everything that was scored in a folder."""
    scores: dict[str, dict[str, float]] = {}
    for path in sorted(folder.glob("*_*/miou.json")):
        variant, seed = path.parent.name.rsplit("_", 1)
        scores.setdefault(variant, {})[seed] = json.loads(path.read_text(encoding="utf-8"))["mIoU"]
    return scores


if __name__ == "__main__":
    main()
