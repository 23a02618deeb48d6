import re
import shlex
from pathlib import Path

import pytest

from mmseg_plugins.cli.main import main

ROOT = Path(__file__).parents[2]
COMMANDS = re.findall(r"^    mmseg-plugins (score .*)$", (ROOT / "docs" / "scoring.md").read_text(), re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS, ids=[f"command {number}" for number in range(len(COMMANDS))])
def test_commands_of_the_page_run_as_printed(command, monkeypatch, capsys):
    if " instance " in command:
        pytest.importorskip("pycocotools", reason="instance AP is pycocotools' own")
    monkeypatch.chdir(ROOT)
    assert main(shlex.split(command)) == 0
    assert capsys.readouterr().out


def test_the_page_has_commands():
    assert len(COMMANDS) == 5
