from pathlib import Path

import pytest
import torch

from mmseg_plugins.cases import Case, verify
from mmseg_plugins.methods.training_free.cases import run
from tests.reference_cases import assert_agrees

FIXTURES = Path(__file__).parents[2] / "fixtures" / "training_free"
CASES = sorted(path.stem for path in FIXTURES.glob("*.json"))


def test_all_cases_are_here():
    assert len(CASES) == 16


@pytest.mark.parametrize("name", CASES)
def test_reference_case_agrees(name):
    assert_agrees(FIXTURES / f"{name}.json")


def test_unknown_kind_lists_what_there_is():
    case = Case.load(FIXTURES / "sclip.json")
    case.spec["kind"] = "lavg"
    with pytest.raises(ValueError, match="corrclip_region"):
        verify(case)


@pytest.mark.parametrize("name", ["sclip", "pamr"])
def test_reduced_precision_runs(name):
    results = verify(Case.load(FIXTURES / f"{name}.json"), dtype=torch.bfloat16)
    assert [result.name for result in results if result.detail == "not produced"] == []


def test_refinement_of_a_batch_is_that_of_its_images():
    case = Case.load(FIXTURES / "pamr_resized.json")
    single = run(case)
    case.arrays.update({name: torch.cat([torch.as_tensor(case.arrays[name])] * 2) for name in ("image", "maps")})
    for name, stage in run(case).items():
        assert torch.equal(stage, torch.cat([single[name]] * 2)), name
