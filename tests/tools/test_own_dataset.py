"""Every command of docs/own_dataset.md runs as printed, in the printed order."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/own_dataset.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    ((?:mmseg-plugins|python) .*)$", PAGE, re.MULTILINE)


def run(command, folder):
    program, *arguments = shlex.split(command)
    start = [sys.executable] if program == "python" else [sys.executable, "-m", "mmseg_plugins.cli.main"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2"}
    done = subprocess.run(
        [*start, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=1800, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout + done.stderr


def figure(output):
    return float(re.findall(r"mIoU: ([\d.]+)", output)[-1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder that looks like the repository's root, with the files that the page tells to save."""
    root = tmp_path_factory.mktemp("own")
    for name in ("configs", "tools"):
        (root / name).symlink_to(ROOT / name)
    for name, content in re.findall(r"^```\w+ (\S+)\n(.*?)^```$", PAGE, re.S | re.M):
        (root / name).write_text(content, encoding="utf-8")
    return root


def test_the_page_up_to_the_score(folder):
    scenes, look, test, score = COMMANDS[:4]
    run(scenes, folder)
    run(look, folder)
    assert len(list((folder / "looked").glob("*.labels.png"))) == 60
    zero_shot = figure(run(test, folder))
    assert zero_shot > 40
    assert f"{zero_shot:.2f}" in run(score, folder)


@pytest.mark.training
@pytest.mark.slow
def test_the_page_from_training_on(folder):
    scenes, _, _, _, train, test, segment = COMMANDS
    run(scenes, folder)
    run(train, folder)
    assert figure(run(test, folder)) > 50  # 1 before training; one run gave 83
    run(segment, folder)
    assert len(list((folder / "named").glob("*.labels.png"))) == 60


def test_every_command_of_the_page_is_covered():
    assert len(COMMANDS) == 7
