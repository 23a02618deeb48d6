"""Commands of the pages on data sets and submissions run as printed, and their tables are complete."""

import re
import shlex
from pathlib import Path

import pytest

from mmseg_plugins.cli.main import main
from mmseg_plugins.cli.submit import KINDS
from mmseg_plugins.datasets.benchmarks import RECORDS
from mmseg_plugins.datasets.preparation.registry import PREPARATIONS
from mmseg_plugins.datasets.segments import SEGMENT_CLASSES
from mmseg_plugins.datasets.semantic import SEMANTIC_CLASSES

ROOT = Path(__file__).parents[2]
SUBMISSION = (ROOT / "docs/submission.md").read_text(encoding="utf-8")
DATASETS = (ROOT / "docs/datasets.md").read_text(encoding="utf-8")


def commands(page):
    """Commands without a placeholder in capitals."""
    found = re.findall(r"^    mmseg-plugins (.*)$", page, re.MULTILINE)
    return [command for command in found if not re.search(r"\b(DIR|NAME|ARCHIVE|KIND)\b", command)]


def test_commands_of_the_submission_page_run_as_printed(tmp_path, monkeypatch, capsys):
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    monkeypatch.chdir(tmp_path)
    found = commands(SUBMISSION)
    assert len(found) == 7
    for command in found:
        assert main(shlex.split(command)) == 0, command
        output = capsys.readouterr().out
        assert output
        if command.startswith("score"):
            assert "100.00" in output


def test_commands_of_the_data_set_page_run_as_printed(capsys):
    assert [main(shlex.split(command)) for command in commands(DATASETS)] == [0]


@pytest.mark.parametrize("name", sorted(RECORDS))
def test_every_benchmark_is_in_the_table_with_its_class(name):
    class_name = {**SEMANTIC_CLASSES, **SEGMENT_CLASSES}[name]
    assert f"| `{name}` | `{class_name}` |" in DATASETS
    assert (ROOT / f"configs/_base_/datasets/{name}.py").is_file()


def test_every_preparation_and_kind_is_described():
    assert all(f"`{name}`" in DATASETS for name in PREPARATIONS)
    assert all(f"| `{kind}` |" in SUBMISSION for kind in KINDS)
