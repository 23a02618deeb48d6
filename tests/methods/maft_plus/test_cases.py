from pathlib import Path

import pytest
import torch

from mmseg_plugins.cases import Case, verify
from tests.reference_cases import assert_agrees

FIXTURES = Path(__file__).parents[2] / "fixtures" / "maft_plus"
CASES = sorted(path.stem for path in FIXTURES.glob("*.json"))


def test_all_cases_are_here():
    assert len(CASES) == 6


@pytest.mark.parametrize("name", CASES)
def test_reference_case_agrees(name):
    assert_agrees(FIXTURES / f"{name}.json")


def test_unknown_kind_lists_what_there_is():
    case = Case.load(FIXTURES / "losses.json")
    case.spec["kind"] = "adapter"
    with pytest.raises(ValueError, match="pool_classify"):
        verify(case)


def test_the_other_token_order_gives_other_tokens_and_other_rows():
    from mmseg_plugins.methods.maft_plus.whole_cases import run_whole

    case = Case.load(FIXTURES / "e2e_semantic.json")
    with torch.no_grad():
        stages = run_whole(case, "cpu", torch.float32, token_order="channels_last")
    failed = {result.name for result in case.compare(stages) if not result.passed}
    assert {"cdt_image_tokens", "text_after_cdt", "out_vocab_logits"} <= failed
    assert (stages["cdt_image_tokens"] - case.tensor("cdt_image_tokens")).abs().max() > 0.5
    assert not failed & {"mask_logits", "in_vocab_logits", "pooled_clip_embedding"}


def test_the_other_variant_gives_other_rows():
    case = Case.load(FIXTURES / "cdt_semantic.json")
    case.config["panoptic_variant"] = True
    assert [result.name for result in verify(case) if not result.passed] == ["text_after"]


def test_reduced_precision_runs():
    results = verify(Case.load(FIXTURES / "e2e_semantic.json"), dtype=torch.bfloat16)
    assert [result.name for result in results if result.detail == "not produced"] == []
