import doctest
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "shapesworld.md"


def test_examples_of_the_page_run():
    result = doctest.testfile(str(PAGE), module_relative=False)
    assert result.attempted > 0
    assert result.failed == 0
