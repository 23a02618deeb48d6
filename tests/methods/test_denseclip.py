"""DenseCLIP against its reference cases."""

import json
from pathlib import Path

import pytest

from mmseg_plugins.cases import Case, verify

FIXTURES = Path(__file__).parent.parent / "fixtures" / "denseclip"
CASES = sorted(path for path in FIXTURES.glob("*.json") if json.loads(path.read_text()).get("stages"))


def test_the_cases_are_there():
    assert {path.stem for path in CASES} >= {"rn_small", "vit_small", "clip_init_rn", "clip_init_vit"}


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_reference_case_agrees(path):
    results = verify(Case.load(path))
    assert results
    assert [result for result in results if not result.passed] == []
