from pathlib import Path

import pytest
import torch

from mmseg_plugins.cases import Case, verify

FIXTURES = Path(__file__).parents[2] / "fixtures" / "mask_adapter"
CASES = sorted(path.stem for path in FIXTURES.glob("*.json"))


def test_all_cases_are_here():
    assert len(CASES) == 6


@pytest.mark.parametrize("name", CASES)
def test_reference_case_agrees(name):
    results = verify(Case.load(FIXTURES / f"{name}.json"))
    assert results
    assert [result for result in results if not result.passed] == []


def test_unknown_kind_lists_what_there_is():
    case = Case.load(FIXTURES / "mixed_losses.json")
    case.spec["kind"] = "cdt"
    with pytest.raises(ValueError, match="mixed_losses"):
        verify(case)


def test_the_other_token_order_gives_other_maps():
    case = Case.load(FIXTURES / "adapter_maft_base.json")
    case.config["dense_reshape"] = "channels_last"
    failed = {result.name for result in verify(case) if not result.passed}
    assert {"clip_vis_embed", "activation_maps"} <= failed
    assert not failed & {"mask_input", "mask_embed_first8"}


def test_reduced_precision_runs():
    results = verify(Case.load(FIXTURES / "adapter_small_k4.json"), dtype=torch.bfloat16)
    assert [result.name for result in results if result.detail == "not produced"] == []
