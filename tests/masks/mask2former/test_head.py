"""Both decoders against the reference cases, and what training and inference rely on."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from mmseg_plugins.cases import Case
from mmseg_plugins.masks.mask2former import query_decoder
from mmseg_plugins.masks.mask2former.criterion import SetCriterion
from mmseg_plugins.masks.mask2former.head import Mask2FormerHead
from mmseg_plugins.masks.mask2former.positions import sine_positions
from mmseg_plugins.masks.mask2former.query_decoder import _allowed
from mmseg_plugins.masks.targets import SegmentTargets
from mmseg_plugins.ops import mask_pool

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


def tiny_head(**options):
    settings = {"conv_dim": 16, "mask_dim": 16, "hidden_dim": 16, "num_queries": 4, "encoder_layers": 1}
    settings |= {"decoder_layers": 3, "heads": 2, "encoder_ffn": 16, "decoder_ffn": 16, "norm_groups": 4}
    return Mask2FormerHead(stage_channels=[4, 6, 8, 10], embed_dim=12, **settings, **options)


def tiny_stages(batch=2):
    return [torch.randn(batch, width, 32 // 2**i, 48 // 2**i) for i, width in enumerate((4, 6, 8, 10))]


def unit_rows(*shape):
    return F.normalize(torch.randn(*shape, 12), dim=-1)


def test_best_name_of_a_class_counts():
    head, stages, rows = tiny_head(), tiny_stages(), unit_rows(5)
    row_class = torch.tensor([0, 0, 1, 1, 2])
    names = head(stages, rows, torch.arange(5), 5)[-1].class_logits
    classes = head(stages, rows, row_class, 3)[-1].class_logits
    expected = torch.stack([names[..., :2].amax(-1), names[..., 2:4].amax(-1), names[..., 4]], -1)
    torch.testing.assert_close(classes, expected)


def test_every_image_may_have_rows_of_its_own():
    head, stages, rows = tiny_head().eval(), tiny_stages(), unit_rows(2, 3)
    together = head(stages, rows, torch.arange(3), 3)[-1].class_logits
    for index in range(2):
        alone = head([stage[index : index + 1] for stage in stages], rows[index], torch.arange(3), 3)[-1].class_logits
        torch.testing.assert_close(together[index], alone[0], rtol=1e-4, atol=1e-4)


def test_training_reaches_every_parameter():
    head = tiny_head()
    # initial offsets and weights do not depend on the query yet
    attention = head.pixel_decoder.transformer.encoder.layers[0].self_attn
    for linear in (attention.sampling_offsets, attention.attention_weights):
        torch.nn.init.normal_(linear.weight, std=0.1)
    targets = [SegmentTargets(torch.tensor([0, 1]), torch.rand(2, 128, 192) > 0.5) for _ in range(2)]
    losses = SetCriterion(num_points=64)(head(tiny_stages(), unit_rows(3), torch.arange(3), 3), targets)
    sum(losses.values()).backward()
    without = [name for name, parameter in head.named_parameters() if parameter.grad is None]
    assert not without
    still = {name for name, parameter in head.named_parameters() if not parameter.grad.any()}
    assert not still


def test_pixel_decoder_is_float32_under_autocast_as_published():
    head, stages = tiny_head(), tiny_stages()
    expected = head.pixel_decoder(stages).mask_features
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(head.pixel_decoder(stages).mask_features, expected)
        assert tiny_head(float32=False).pixel_decoder(stages).mask_features.dtype == torch.bfloat16
        predictions = head(stages, unit_rows(3), torch.arange(3), 3)
    assert predictions[-1].class_logits.dtype == torch.float32
    assert predictions[-1].mask_logits.isfinite().all()


def test_half_precision_weights_give_finite_predictions():
    head = tiny_head().bfloat16()
    last = head([stage.bfloat16() for stage in tiny_stages()], unit_rows(3), torch.arange(3), 3)[-1]
    assert last.mask_logits.dtype == torch.bfloat16
    assert last.mask_logits.isfinite().all()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 8e-2), (torch.float16, 1e-2)])
def test_half_precision_strays_by_masks_at_the_threshold_alone(monkeypatch, dtype, tolerance):
    """Where logits near 0 are cut as in float32, all that the rest of half precision does is to round."""
    case = Case.load(FIXTURES / "head_odd_batch2.json")
    head, (stages, rows, row_class, num_classes) = build_from_case(case), case_inputs(case)
    cut = []  # all logits that are compared with 0, in order: attention masks and pooled masks

    def remember(logits):
        cut.append(logits)
        return logits

    def give_back(logits):
        return next(given)

    def run(kind, choose=lambda logits: logits):
        monkeypatch.setattr(query_decoder, "_allowed", lambda logits: _allowed(choose(logits)))
        monkeypatch.setattr(
            query_decoder, "mask_pool", lambda maps, masks, **more: mask_pool(maps, choose(masks), **more)
        )
        with torch.no_grad():
            last = head.to(kind)([stage.to(kind) for stage in stages], rows.to(kind), row_class, num_classes)[-1]
        return last.mask_logits.float(), last.class_logits.float()

    exact = run(torch.float32, remember)
    given = iter(cut)
    halves = {"cut in float32": run(dtype, give_back), "cut in half": run(dtype)}
    error = {
        name: max(float((got - want).abs().max() / want.abs().max()) for got, want in zip(half, exact, strict=True))
        for name, half in halves.items()
    }
    assert error["cut in float32"] < tolerance < error["cut in half"]


def test_query_blocked_everywhere_looks_everywhere():
    logits = torch.full((1, 3, 2, 2), -5.0)
    logits[0, 1, 0, 0] = 1.0
    logits[0, 2] = 0.0  # the sigmoid of 0 is inside
    expected = torch.tensor([[[True] * 4, [True, False, False, False], [True] * 4]])
    assert torch.equal(_allowed(logits), expected)


def test_class_without_a_name_never_wins():
    logits = tiny_head()(tiny_stages(), unit_rows(3), torch.tensor([0, 2, 3]), 4)[-1].class_logits
    assert (logits[..., 1] == -torch.inf).all()


def test_rows_and_classes_must_fit():
    with pytest.raises(ValueError, match="there are 3 text rows"):
        tiny_head()(tiny_stages(), unit_rows(3), torch.arange(4), 4)
    with pytest.raises(ValueError, match="mask_dim"):
        Mask2FormerHead(stage_channels=[4, 6, 8, 10], embed_dim=12, mask_dim=8, hidden_dim=16)
    with pytest.raises(ValueError, match="res2"):
        tiny_head().pixel_decoder(tiny_stages()[1:])
