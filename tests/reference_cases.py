"""What the tests of every method ask of a reference case."""

from mmseg_plugins.cases import Case, verify


def assert_agrees(path):
    """Every stage of the case is there and within its tolerance; failures are shown with their differences."""
    results = verify(Case.load(path))
    assert results, f"{path} has no outputs"
    failed = [result for result in results if not result.passed]
    assert not failed, failed
