"""The main job, offline: write a validation set, evaluate MaskCLIP on it, segment a picture with words.

Examples:
  python tools/demo.py --out demo_output
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "configs/maskclip/maskclip_shapes-vit_shapesworld-64x64.py"
PICTURE = ROOT / "mmseg_plugins/assets/demo/shapes.png"
WORDS = (
    "water; snow; grass; orange plain thing; orange checked thing; red plain thing; green striped thing; "
    "blue checked thing; pink checked thing; purple: purple plain thing, purple striped thing, purple checked thing"
)


def run_step(title: str, arguments: list[str | Path]) -> None:
    """Run one step, shown with the command that a user would type."""
    shown = " ".join(_quoted(str(argument)) for argument in arguments)
    print(f"\n=== {title}\n$ {shown}", flush=True)
    started = time.perf_counter()
    subprocess.run([str(argument) for argument in [*_interpreter(arguments[0]), *arguments[1:]]], check=True, cwd=ROOT)
    print(f"--- done in {time.perf_counter() - started:.0f} s", flush=True)


def _interpreter(command: str | Path) -> list[str]:
    return [sys.executable] if command == "python" else [sys.executable, "-m", "mmseg_plugins.cli.main"]


def _quoted(text: str) -> str:
    text = text.removeprefix(f"{ROOT}/")
    return f'"{text}"' if " " in text else text


def main() -> int:
    """Run the three steps and say where the results are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="demo_output", type=Path, help="folder of the results (default: %(default)s)")
    parser.add_argument("--count", default=200, type=int, help="validation scenes (default: %(default)s)")
    options = parser.parse_args()
    out = options.out.resolve()
    scenes, overlay = out / "shapesworld", out / "shapes.png"
    started = time.perf_counter()
    run_step(
        "1/3  write a ShapesWorld validation set in the ADE20K layout",
        ["mmseg-plugins", "shapes", "--out", scenes, "--split", "validation", "--count", str(options.count)],
    )
    run_step(
        "2/3  evaluate MaskCLIP on it",
        ["python", "tools/test.py", CONFIG, "--work-dir", out / "evaluation"]
        + ["--cfg-options", f"test_dataloader.dataset.data_root={scenes}"],
    )
    run_step(
        "3/3  name every pixel of a picture with words",
        ["mmseg-plugins", "segment", PICTURE, "--model", "maskclip-shapes", "--classes", WORDS, "--out", overlay]
        + ["--overwrite"],
    )
    print(f"\nfinished in {time.perf_counter() - started:.0f} s. Results:")
    print(f"  {overlay}  overlay with legend; the label map is beside it")
    print(f"  {out / 'evaluation'}  log and figures of the evaluation")
    print(f"  {scenes}  the validation set")
    return 0


if __name__ == "__main__":
    sys.exit(main())
