from pathlib import Path

import pytest
import torch

from mmseg_plugins.cases import Case, verify
from mmseg_plugins.methods.mask_adapter.cases import run
from tests.reference_cases import assert_agrees

FIXTURES = Path(__file__).parents[2] / "fixtures" / "mask_adapter"
CASES = sorted(path.stem for path in FIXTURES.glob("*.json"))


def test_all_cases_are_here():
    assert len(CASES) == 6


@pytest.mark.parametrize("name", CASES)
def test_reference_case_agrees(name):
    assert_agrees(FIXTURES / f"{name}.json")


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


def test_a_whole_model_on_maft_with_instances_runs_from_its_configuration_alone():
    case = Case.load(FIXTURES / "full_fcclip_base.json")
    width = case.config["embed_dim"]
    case.spec["layout"] |= {
        "cdt.cross_atten.multihead_attn.in_proj_weight": [3 * width, width],
        "cdt.cross_atten.multihead_attn.in_proj_bias": [3 * width],
        "cdt.cross_atten.multihead_attn.out_proj.weight": [width, width],
        "cdt.cross_atten.multihead_attn.out_proj.bias": [width],
        "cdt.cross_atten.norm.weight": [width],
        "cdt.cross_atten.norm.bias": [width],
        "cdt.cross_atten.MLP.weight": [width, width],
        "cdt.cross_atten.MLP.bias": [width],
    }
    case.config.update(mask_threshold=0.45, instance_on=True, geometric_ensemble_beta=1.0)
    with torch.no_grad():
        stages = run(case)
    expected = case.compare(stages)
    same = {result.name for result in expected if result.passed}
    assert {"pred_masks", "clip_vis_dense", "text_classifier"} <= same
    assert {"clip_vis_embed", "activation_maps"}.isdisjoint(same), "MAFT+'s tokens are scrambled"
    assert stages["text_after_cdt"].shape == (1, 11, width)
    assert len(stages["inst_masks"]) == len(stages["inst_scores"])
