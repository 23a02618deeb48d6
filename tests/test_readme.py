"""The README's commands: those that need no download are run as written, the others must name what exists."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, flags=re.DOTALL)
COMMANDS = [line for language, block in BLOCKS if language == "bash" for line in block.splitlines() if line.strip()]


@pytest.fixture
def workplace(tmp_path):
    """A folder that looks like the checkout but keeps what is written to itself."""
    for name in ("mmseg_plugins", "configs", "tools", "tests"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def run(command, folder):
    scripts = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_examples_run_one_after_the_other(workplace):
    [example] = [block for language, block in BLOCKS if language == "python" and "Segmenter" in block]
    assert len([line for line in example.splitlines() if line.strip()]) <= 5
    run([sys.executable, "-c", example], workplace)
    [command] = [line for line in COMMANDS if line.startswith("mmseg-plugins segment mmseg_plugins/")]
    run(shlex.split(command), workplace)
    assert all((workplace / name).is_file() for name in ("overlay.png", "named.png", "named.labels.png", "named.json"))


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("make ")])
def test_make_targets_exist(line):
    target = shlex.split(line, comments=True)[1]
    run(["make", "--dry-run", target], ROOT)


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith(("python ", "bash "))])
def test_named_files_exist(line):
    named = [word for word in shlex.split(line, comments=True) if word.startswith(("tools/", "configs/"))]
    assert named
    for word in named:
        assert (ROOT / word).is_file(), word


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("mmseg-plugins ")])
def test_options_of_every_command_exist(line):
    from mmseg_plugins.cli.main import VERBS, _build_verb_parser

    verb, *arguments = shlex.split(line, comments=True)[1:]
    assert verb in VERBS
    _build_verb_parser(verb)[0].parse_args(arguments)


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(((?!http)[^)#]+)\)", TEXT))))
def test_links_lead_somewhere(target):
    assert (ROOT / target).exists(), target


def test_every_method_has_a_row():
    methods = [folder.name for folder in (ROOT / "mmseg_plugins/methods").iterdir() if (folder / "model.py").is_file()]
    table = TEXT[TEXT.index("## Methods") : TEXT.index("## In mmseg")]
    for name in methods:
        assert f"configs/{name}" in TEXT or name in table.lower(), f"{name} has no row in the README's table"
