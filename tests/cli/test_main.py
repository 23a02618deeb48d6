import os
import subprocess
import sys
import types

import pytest

from mmseg_plugins.cli import main as command
from mmseg_plugins.cli.main import main


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (KeyError("unknown name 'cat'.\n  Available: dog."), "unknown name 'cat'. Available: dog."),
        (ValueError("two\nlines"), "two lines"),
        (KeyError(), "KeyError"),
        (RuntimeError(), "RuntimeError"),
        (OSError(28, "disk is full"), "disk is full"),
        (PermissionError(13, "Permission denied", "a.zip"), "a.zip: Permission denied. Check that the path is right"),
    ],
)
def test_a_failure_is_one_line_without_the_quotes_of_a_repr(monkeypatch, capsys, error, shown):
    def run(options):
        raise error

    verb = types.SimpleNamespace(__doc__="Fail.", EXAMPLES="", add_arguments=lambda parser: None, run=run)
    monkeypatch.setattr(command.importlib, "import_module", lambda name: verb)
    assert main(["doctor"]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith(f"mmseg-plugins doctor: error: {shown}")
    assert printed.count("\n") == 1
    with pytest.raises(type(error)):
        main(["doctor", "--debug"])


def test_without_a_verb_the_verbs_are_listed(capsys):
    assert main([]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert all(verb in printed.err for verb in command.VERBS)


@pytest.mark.parametrize("arguments", [["models"], ["models", "--all"]])
def test_a_reader_that_leaves_is_no_error(arguments):
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "mmseg_plugins.cli.main", *arguments]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")
