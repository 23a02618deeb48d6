from pathlib import Path

import pytest

from mmseg_plugins.cases import Case, verify
from mmseg_plugins.towers.cases import run

_CASES = sorted((Path(__file__).parents[1] / "fixtures" / "backbones").glob("*.json"))


@pytest.mark.parametrize("path", _CASES, ids=lambda path: path.stem)
def test_reference_case_agrees(path):
    results = verify(Case.load(path))
    assert results
    assert [result for result in results if not result.passed] == []


def test_an_unknown_kind_is_named():
    case = Case.load(_CASES[0])
    case.spec["kind"] = "other"
    with pytest.raises(KeyError, match="clip_moe"):
        run(case)
