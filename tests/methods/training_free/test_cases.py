from pathlib import Path

import pytest
import torch

from mmseg_plugins.cases import Case, verify

FIXTURES = Path(__file__).parents[2] / "fixtures" / "training_free"
CASES = sorted(path.stem for path in FIXTURES.glob("*.json"))


def test_all_cases_are_here():
    assert len(CASES) == 16


@pytest.mark.parametrize("name", CASES)
def test_reference_case_agrees(name):
    results = verify(Case.load(FIXTURES / f"{name}.json"))
    assert results
    assert [result for result in results if not result.passed] == []


def test_unknown_kind_lists_what_there_is():
    case = Case.load(FIXTURES / "sclip.json")
    case.spec["kind"] = "lavg"
    with pytest.raises(ValueError, match="corrclip_region"):
        verify(case)


@pytest.mark.parametrize("name", ["sclip", "pamr"])
def test_reduced_precision_runs(name):
    results = verify(Case.load(FIXTURES / f"{name}.json"), dtype=torch.bfloat16)
    assert [result.name for result in results if result.detail == "not produced"] == []
