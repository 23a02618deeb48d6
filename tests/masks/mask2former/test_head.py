"""Both decoders against the reference cases, and what training and inference rely on."""

from pathlib import Path

import pytest
import torch

from mmseg_plugins.cases import Case
from mmseg_plugins.masks.mask2former.head import Mask2FormerHead
from mmseg_plugins.masks.mask2former.positions import sine_positions

FIXTURES = Path(__file__).parents[2] / "fixtures" / "fcclip"
CASES = sorted(FIXTURES.glob("head_*.json"))


def build_from_case(case: Case) -> Mask2FormerHead:
    config = case.config
    head = Mask2FormerHead(
        stage_channels=config["dims"],
        embed_dim=config["embed"],
        conv_dim=config["conv_dim"],
        mask_dim=config["mask_dim"],
        hidden_dim=config["hidden"],
        num_queries=config["q"],
        encoder_layers=config["encoder_layers"],
        decoder_layers=config["decoder_layers"],
        heads=config["nheads"],
        points=config["n_points"],
        encoder_ffn=config["ff_enc"],
        decoder_ffn=config["ff"],
        norm_groups=config["gn_groups"],
    )
    state = {key.removeprefix("sem_seg_head."): value for key, value in case.weights["layout"].items()}
    head.load_state_dict(state, strict=True)
    return head.eval()


def case_inputs(case: Case):
    stages = [case.tensor(name) for name in ("res2", "res3", "res4", "res5")]
    counts = torch.cat([case.tensor("num_templates"), torch.ones(1, dtype=torch.long)])
    row_class = torch.arange(len(counts)).repeat_interleave(counts)
    return stages, case.tensor("text_classifier"), row_class, len(counts)


def failures(case: Case, computed) -> list:
    results = [result for result in case.compare(computed) if result.name in computed]
    assert results
    return [result for result in results if not result.passed]


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_pixel_decoder_agrees_with_the_reference(path):
    case = Case.load(path)
    head, (stages, *_) = build_from_case(case), case_inputs(case)
    with torch.no_grad():
        decoded = head.pixel_decoder(stages)
    computed = {f"multi_scale_{level}": source for level, source in enumerate(decoded.sources)}
    computed["mask_features"] = decoded.mask_features
    computed["encoder_memory"] = torch.cat([source.flatten(2).transpose(1, 2) for source in decoded.sources], 1)
    positions = sine_positions(*stages[3].shape[-2:], case.config["conv_dim"])
    computed["pos_res5"] = positions.expand(stages[3].shape[0], -1, -1, -1)
    assert not failures(case, computed)


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_every_prediction_agrees_with_the_reference(path):
    case = Case.load(path)
    with torch.no_grad():
        predictions = build_from_case(case)(*case_inputs(case))
    computed = {f"aux{index}_logits": prediction.class_logits for index, prediction in enumerate(predictions[:-1])}
    computed["aux0_masks"] = predictions[0].mask_logits
    computed["pred_masks"], computed["pred_logits"] = predictions[-1].mask_logits, predictions[-1].class_logits
    assert len(predictions) == case.config["decoder_layers"] + 1
    assert not failures(case, computed)


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_last_prediction_alone_is_the_same(path):
    case = Case.load(path)
    with torch.no_grad():
        (last,) = build_from_case(case)(*case_inputs(case), all_predictions=False)
    assert not failures(case, {"pred_masks": last.mask_logits, "pred_logits": last.class_logits})
