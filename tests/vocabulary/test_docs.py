"""The examples of docs/vocabulary.md and of the docstrings run as printed."""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import mmseg_plugins.vocabulary

PAGE = Path(__file__).parents[2] / "docs" / "vocabulary.md"
MODULES = [module.name for module in pkgutil.iter_modules(mmseg_plugins.vocabulary.__path__)]


def check(test):
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    runner.run(test)
    assert runner.tries > 0
    assert runner.failures == 0


def test_the_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MMSEG_PLUGINS_CACHE", str(tmp_path / "cache"))
    page = PAGE.read_text(encoding="utf-8")
    for name, content in re.findall(r"^```text (\S+)\n(.*?)^```$", page, re.S | re.M):
        Path(name).write_text(content, encoding="utf-8")
    examples = "\n".join(re.findall(r"^```python\n(.*?)^```$", page, re.S | re.M))
    check(doctest.DocTestParser().get_doctest(examples, {}, PAGE.name, str(PAGE), 0))


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name):
    module = importlib.import_module(f"mmseg_plugins.vocabulary.{name}")
    for test in doctest.DocTestFinder().find(module):
        if test.examples:
            check(test)


def test_every_benchmark_is_in_the_table():
    from mmseg_plugins.vocabulary.benchmarks import ALIASES, list_benchmarks

    page = PAGE.read_text(encoding="utf-8")
    assert all(f"`{key}`" in page for key in (*list_benchmarks(), *ALIASES))
