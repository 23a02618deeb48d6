import logging
from dataclasses import replace

import pytest
import torch
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from PIL import Image

from mmseg_plugins.masks.proposals import MaskProposals, ProposalSource
from mmseg_plugins.methods.mask_adapter.checkpoint import inspect_file
from mmseg_plugins.methods.mask_adapter.matching import AdapterMasks
from mmseg_plugins.methods.mask_adapter.options import MaskSkipping
from mmseg_plugins.methods.mask_adapter.skipping import masks_that_matter
from mmseg_plugins.prediction.segments import MaskGeometry, semantic_scores
from mmseg_plugins.segmentors.mask_options import MaskOutputs
from tests.methods.mask_adapter.models import (
    ADAPTER,
    TRANSFER,
    VISION,
    build,
    published,
    sample,
    settings,
    without_adapter,
)

GROUND_TRUTH = {"phase": "ground_truth", "num_masks": 4}
ELSEWHERE = {"proposals": {"type": "HalvesForAdapterTest"}, "scoring": {"rule": "clip"}}
MIXED = {"phase": "mixed", "num_gt": 3, "num_matched": 2, "iou_threshold": 0.1}


@MODELS.register_module(force=True)
class HalvesForAdapterTest(ProposalSource):
    """Left and right half of the image, also compressed into something that cannot be pooled."""

    def propose(self, request):
        masks = torch.full((2, *request.image_sizes[0]), -20.0)
        middle = request.image_sizes[0][1] // 2
        masks[0, :, :middle], masks[1, :, middle:] = 20.0, 20.0
        return [MaskProposals(mask_logits=masks, covers="image", poolable=object()) for _ in request.images]


def batch(size=(64, 64)):
    torch.manual_seed(3)
    masks = torch.zeros(3, *size, dtype=torch.bool)
    masks[0, :30], masks[1, 30:, :40] = True, True  # the third one is empty
    return torch.randn(2, 3, *size), [sample([0, 1, 0], masks), sample([1], masks[:1])]


def trainable(model):
    return {name.split(".")[0] for name, parameter in model.named_parameters() if parameter.requires_grad}


# --- what trains ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", sorted(VISION))
@pytest.mark.parametrize("training", [GROUND_TRUTH, MIXED], ids=["ground_truth", "mixed"])
@pytest.mark.parametrize("transfer", [None, TRANSFER], ids=["fcclip", "maft"])
def test_only_adapter_and_void_learn(family, training, transfer):
    model = build(family, training=training, text_transfer=transfer).train()
    assert trainable(model) == {"mask_classifier", "void_embedding"}
    assert [
        name for name, part in model.named_children() if part.training and any(True for _ in part.parameters())
    ] == [
        "mask_classifier",
        "void_embedding",
    ]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(learning, lr=0.1)
    inputs, samples = batch()
    losses = model.loss(inputs, samples)
    assert set(losses) == {"loss_mask_class", *(["loss_consistency"] if training is MIXED else [])}
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in learning), "processes must agree on what has gradients"
    optimizer.step()
    moved = {name.split(".")[0] for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"mask_classifier", "void_embedding"}


def test_the_second_phase_on_maft_leaves_void_alone():
    model = build(training={**MIXED, "train_void": False}, text_transfer=TRANSFER)
    assert trainable(model) == {"mask_classifier"}


def test_the_first_phase_never_runs_the_decoder(monkeypatch):
    model = build(training=GROUND_TRUTH).train()
    monkeypatch.setattr(model, "decode", lambda *_, **__: pytest.fail("the decoder ran"))
    model.loss(*batch())


def test_images_without_segments_give_zero_and_gradients():
    model = build(training=GROUND_TRUTH).train()
    empty = sample([], torch.zeros(0, 64, 64, dtype=torch.bool))
    losses = model.loss(torch.randn(1, 3, 64, 64), [empty])
    losses["loss_mask_class"].backward()
    assert losses["loss_mask_class"] == 0
    mixed = build(training=MIXED).train().loss(torch.randn(1, 3, 64, 64), [empty])
    assert mixed["loss_mask_class"] == 0
    assert mixed["loss_consistency"].abs() < 1e-5, "padding pairs agree with themselves"


@torch.no_grad()
def test_padding_embedded_once_gives_what_embedding_all_of_it_gives():
    model = build()
    inputs, _ = batch()
    features = model.encode(inputs).features
    for rows in ([3, 1], [4, 0], [4, 4]):
        masks = torch.zeros(2, 4, 64, 64)
        labels = torch.full((2, 4), -1)
        for image, count in enumerate(rows):
            places = torch.randperm(4)[:count]
            masks[image, places] = (torch.rand(count, 64, 64) > 0.5).float()
            labels[image, places] = 0
        given = AdapterMasks(masks, labels, labels.new_zeros((0, 2)))
        torch.testing.assert_close(
            model.embed_masks(features, given), model.mask_classifier.embed(features, masks), atol=1e-5, rtol=1e-4
        )


# --- inference --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", sorted(VISION))
@pytest.mark.parametrize("transfer", [None, TRANSFER], ids=["frozen", "fine-tuned"])
@pytest.mark.parametrize("source", ["decoder", "elsewhere"])
def test_every_crossing_gives_every_output(family, transfer, source):
    options = {"outputs": {"panoptic": True, "instance": True}, "text_transfer": transfer}
    if source == "elsewhere":
        options |= {**ELSEWHERE, "pyramid": None}
    model = build(family, **options)
    [result] = model.predict(torch.randn(1, 3, 50, 70), [SegDataSample(metainfo={"ori_shape": (40, 60)})])
    assert result.pred_sem_seg.data.shape == (1, 40, 60)
    assert result.pred_instances.scores.isfinite().all()
    assert result.pred_panoptic_seg.data.shape == (1, 40, 60)


def test_masks_of_segment_anything_are_named_too(tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(torch.randint(0, 255, (64, 64, 3), dtype=torch.uint8).numpy()).save(path)
    sam = {
        "type": "SamProposals",
        "model": {"image_size": 64, "patch": 8, "width": 32, "depth": 1},
        "automatic": {"points_per_side": 2, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0},
    }
    model = build(proposals=sam, scoring={"rule": "clip"}, outputs={"panoptic": True})
    meta = {"ori_shape": (64, 64), "img_path": str(path)}
    [result] = model.predict(torch.randn(1, 3, 64, 64), [SegDataSample(metainfo=meta)])
    assert result.pred_sem_seg.data.shape == (1, 64, 64)


def test_activation_maps_for_drawing():
    model = build()
    maps = model.activation_maps(torch.randn(2, 3, 50, 70))
    assert maps.shape == (2, 6, 4, 2, 3)
    torch.testing.assert_close(maps.sum((-2, -1)), torch.ones(2, 6, 4))
    assert model.activation_maps(torch.randn(1, 3, 50, 70), torch.randn(1, 2, 50, 70)).shape == (1, 2, 4, 2, 3)
    other = build(**ELSEWHERE)
    with pytest.raises(ValueError, match="pass the masks"):
        other.activation_maps(torch.randn(1, 3, 50, 70))


# --- skipping ---------------------------------------------------------------------------------------------------------


def logits_of_void(*void):
    """(Q, 4) logits of three equal classes and the given probabilities of void."""
    void = torch.tensor(void)
    return torch.stack([*([(1 - void) / 3] * 3), void], dim=1).log()


@pytest.mark.parametrize(
    ("skipping", "outputs", "kept"),
    [
        ({}, {}, [0, 1, 2, 3, 4]),
        ({"semantic_budget": 1e-2}, {}, [0, 1, 2, 3]),
        ({"semantic_budget": 0.5}, {}, [0, 1, 2]),
        ({"panoptic": True}, {}, [0, 1, 2, 3, 4]),
        ({"panoptic": True}, {"semantic": False, "panoptic": True}, [0, 1]),
        ({"panoptic": True, "semantic_budget": 0.5}, {"panoptic": True}, [0, 1, 2]),
        ({"panoptic": True, "semantic_budget": 9.0}, {"panoptic": True}, [0, 1]),
        ({"panoptic": True, "semantic_budget": 9.0}, {"panoptic": True, "instance": True}, [0, 1, 2, 3, 4]),
    ],
)
def test_masks_are_skipped_only_where_every_output_allows_it(skipping, outputs, kept):
    logits = logits_of_void(0.1, 0.49, 0.6, 0.7, 0.995)
    got = masks_that_matter(logits, MaskSkipping(**skipping), MaskOutputs(**outputs))
    assert got.nonzero().flatten().tolist() == kept


def with_void_spread(model):
    """Spread the decoder's probabilities of void over the whole range."""
    original = model.decode

    def decode(stages, text, **options):
        final = original(stages, text, **options)[-1]
        logits = final.class_logits.clone()
        logits[..., -1] = logits[..., -1] + torch.linspace(-8, 12, logits.shape[1])
        return [replace(final, class_logits=logits)]

    model.decode = decode
    return model


def test_skipping_is_exact_for_panoptic_output():
    outputs, image = {"semantic": False, "panoptic": True}, torch.randn(1, 3, 64, 64)
    whole = with_void_spread(build(outputs=outputs))
    fewer = with_void_spread(build(outputs=outputs, skipping={"panoptic": True}))
    [expected], [got] = whole.predict(image), fewer.predict(image)
    assert torch.equal(got.pred_panoptic_seg.data, expected.pred_panoptic_seg.data)
    assert got.pred_panoptic_seg.segments_info == expected.pred_panoptic_seg.segments_info
    assert 0 < fewer.skip_count.skipped < fewer.skip_count.masks == 6
    assert "of 6 masks" in fewer.harness_settings()["skipping"]
    assert "skipping" not in whole.harness_settings()


@pytest.mark.parametrize("budget", [0.05, 0.7, 100.0])
def test_skipping_stays_within_the_semantic_budget(budget):
    image = torch.randn(1, 3, 64, 64)
    outputs = {"keep_logits": True}
    whole = with_void_spread(build(outputs=outputs))
    fewer = with_void_spread(build(outputs=outputs, skipping={"semantic_budget": budget}))
    [expected], [got] = whole.predict(image), fewer.predict(image)
    assert fewer.skip_count.skipped > 0
    difference = (got.seg_logits.data - expected.seg_logits.data).abs().max()
    assert difference <= budget + 1e-5


def test_semantic_scores_need_no_masks_at_all():
    scores = torch.tensor([[1e-8, 1e-8, 1.0]]).log()
    geometry = MaskGeometry(output_size=(8, 8))
    assert semantic_scores(scores, torch.randn(1, 4, 4), geometry).max() < 1e-6


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask_classifier": {"type": "MaskPoolingClassifier"}}, "MaskAdapterClassifier"),
        ({"mask_classifier": {**ADAPTER, "embed_dim": 16}}, "embed_dim=12"),
        ({"freeze_clip": False}, "frozen CLIP"),
        ({"training": {"fase": "mixed"}}, "unknown training keys"),
        (
            {
                "proposals": {"type": "HalvesForAdapterTest"},
                "scoring": {"rule": "clip"},
                "skipping": {"panoptic": True},
            },
            "probability of void",
        ),
        ({"proposals": {"type": "HalvesForAdapterTest"}}, "rule='clip'"),
    ],
)
def test_what_cannot_work_is_refused_with_a_reason(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


@pytest.mark.parametrize("kind", ["FCCLIP", "MAFTPlus", "MaskSegmentor"])
def test_other_segmentors_refuse_the_adapter_and_its_files_with_the_remedy(kind):
    options = {
        "type": kind,
        **settings(),
        **({"variant": "semantic", "transfer_heads": 2} if kind == "MAFTPlus" else {}),
    }
    with pytest.raises(ValueError, match=rf"{kind} neither .* Set type='MaskAdapterSegmentor'.*text_transfer"):
        MODELS.build(options)
    del options["mask_classifier"]
    for file in (published(build()), published(build(text_transfer=TRANSFER))):
        with pytest.raises(ValueError, match=rf"mask_adapter\.\*, which this {kind} .* named mask-adapter_"):
            MODELS.build(options).load_state_dict(file)
    if kind != "MAFTPlus":
        with pytest.raises(ValueError, match=rf"cdt\.\*, which this {kind} .* named maftp_"):
            MODELS.build(options).load_state_dict(without_adapter(build(text_transfer=TRANSFER)))


def test_a_model_says_once_which_parts_no_file_and_no_training_has_filled(caplog):
    def warned(model):
        caplog.clear()
        for _ in range(2):
            model.predict(torch.randn(1, 3, 64, 64))
        return [text for text in caplog.messages if text.startswith("random weights:")]

    file, first_phase = published(build()), published(build(), phase=1)
    model = build()
    model.load_state_dict(without_adapter(model))
    assert warned(model) == ["random weights: mask adapter. Load a checkpoint that holds them"]
    model.load_state_dict(file)
    assert warned(model) == []
    model = build(training=GROUND_TRUTH).train()
    model.loss(*batch())
    assert warned(model.eval()) == []
    model = build(text_transfer=TRANSFER)
    model.load_state_dict(first_phase)
    assert warned(model) == ["random weights: text transfer. Load a checkpoint that holds them"]


def test_the_mixed_phase_needs_a_decoder():
    model = build(**ELSEWHERE, training=MIXED).train()
    inputs, samples = batch()
    with pytest.raises(ValueError, match="ground_truth"):
        model.loss(inputs, samples)


# --- files ------------------------------------------------------------------------------------------------------------


def other_values(state):
    return {
        key: value + 0.25 if value.is_floating_point() and value.dim() and not key.endswith("pos") else value
        for key, value in state.items()
    }


def write(folder, name, content):
    torch.save(content, folder / name)
    return str(folder / name)


@pytest.mark.parametrize("wrap", [True, False])
@pytest.mark.parametrize("transfer", [None, TRANSFER], ids=["fcclip", "maft"])
def test_published_files_load_key_for_key(wrap, transfer):
    source = build(text_transfer=transfer)
    source.load_state_dict(other_values(source.state_dict()))
    model = build(text_transfer=transfer)
    model.load_state_dict(published(source, wrap=wrap))
    got = model.state_dict()
    assert [
        key for key, value in source.state_dict().items() if "extra" not in key and not torch.equal(value, got[key])
    ] == []
    assert model.mask_classifier.token_order == ("channels_last" if transfer is None else "legacy")


@pytest.mark.parametrize("change", ["missing", "shape", "unexpected"])
def test_wrong_files_are_refused_with_the_key_and_change_nothing(change):
    model = build()
    state = published(build(), wrap=False)
    name = "mask_adapter.cnext2.gamma"
    if change == "missing":
        del state[name]
    elif change == "shape":
        state[name] = torch.zeros(7)
    else:
        name = "mask_adapter.cnext4.gamma"
        state[name] = torch.zeros(7)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=name.removeprefix("mask_adapter.").replace(".", r"\.")):
        model.load_state_dict(state)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_choices_stay_open_until_a_file_or_a_training_makes_them(tmp_path):
    source = build(text_transfer=TRANSFER)
    path = write(tmp_path, "base.pth", without_adapter(source))
    model = build(text_transfer=TRANSFER, base_checkpoint=path)
    model.init_weights()
    assert not model.mask_classifier.has_token_order
    model.load_state_dict(published(source))
    assert model.mask_classifier.token_order == "legacy"
    new = build(text_transfer=TRANSFER, training=GROUND_TRUTH).train()
    new.loss(*batch())
    with pytest.raises(ValueError, match="token_order='channels_last'"):
        model.load_state_dict(new.state_dict())


def test_files_say_what_they_are():
    queries = {"sem_seg_head.predictor.query_feat.weight": torch.zeros(100, 1), "mask_adapter.final.bias": None}
    assert str(inspect_file(queries)) == "Mask-Adapter on MAFT+, 100 queries"
    queries["sem_seg_head.predictor.query_feat.weight"] = torch.zeros(250, 1)
    assert str(inspect_file(queries)) == "Mask-Adapter on FC-CLIP, 250 queries"
    assert str(inspect_file({"cdt.x": None, "mask_adapter.final.bias": None})).startswith("Mask-Adapter on MAFT+, no")


def test_a_file_of_the_other_base_is_refused():
    fcclip, maft = published(build()), published(build(text_transfer=TRANSFER))
    with pytest.raises(ValueError, match="maftp"):
        build().load_state_dict(maft)
    with pytest.raises(ValueError, match="fcclip"):
        build(text_transfer=TRANSFER).load_state_dict(fcclip)


def test_a_first_phase_file_alone_leaves_the_decoder_random_and_the_base_completes_it(tmp_path, caplog):
    base, first = build(), build()
    base.load_state_dict(other_values(base.state_dict()))
    first.load_state_dict(other_values(base.state_dict()))
    path = write(tmp_path, "base.pth", without_adapter(base))
    alone = build()
    alone.load_state_dict(published(first, phase=1))
    with caplog.at_level(logging.WARNING):
        alone.predict(torch.randn(1, 3, 64, 64))
    assert "random weights" in caplog.text
    whole = build(base_checkpoint=path, training=MIXED)
    whole.load_state_dict(published(first, phase=1))
    got, from_base, from_first = whole.state_dict(), base.state_dict(), first.state_dict()
    for key, value in got.items():
        if "_extra_state" not in key:
            assert torch.equal(value, (from_first if key.startswith("mask_classifier.") else from_base)[key]), key


def test_training_starts_on_the_base_and_its_checkpoints_go_on(tmp_path):
    base = build()
    base.load_state_dict(other_values(base.state_dict()))
    path = write(tmp_path, "base.pth", without_adapter(base))
    model = build(base_checkpoint=path, training=GROUND_TRUTH)
    model.init_weights()
    own = {key: value for key, value in base.state_dict().items() if not key.startswith("mask_classifier.")}
    assert all(torch.equal(model.state_dict()[key], value) for key, value in own.items())
    parts = ("mask_classifier.", "void_embedding.")  # what CheckpointParts keeps
    kept = {key: value.clone() for key, value in other_values(model.state_dict()).items() if key.startswith(parts)}
    for phase, void in ((GROUND_TRUTH, kept["void_embedding.weight"]), (MIXED, own["void_embedding.weight"])):
        again = build(base_checkpoint=path, training=phase)
        again.load_state_dict(dict(kept))
        state = again.state_dict()
        assert torch.equal(state["void_embedding.weight"], void)
        assert torch.equal(state["mask_classifier.adapter.final.bias"], kept["mask_classifier.adapter.final.bias"])
        assert torch.equal(state["proposals.predictor.query_feat.weight"], own["proposals.predictor.query_feat.weight"])


def test_a_base_that_is_not_there_is_named_with_the_option():
    with pytest.raises(FileNotFoundError, match=r"nowhere/base\.pth.*Set model\.base_checkpoint"):
        build(base_checkpoint="nowhere/base.pth").init_weights()


def test_a_base_without_decoder_is_refused(tmp_path):
    path = write(tmp_path, "base.pth", published(build(), phase=1))
    model = build(base_checkpoint=path)
    with pytest.raises(ValueError, match="no decoder"):
        model.load_state_dict(published(build(), phase=1))


def test_masks_from_elsewhere_take_clip_and_adapter_of_a_whole_file():
    source = build()
    source.load_state_dict(other_values(source.state_dict()))
    model = build(**ELSEWHERE)
    for state in (published(source), source.state_dict()):
        model.load_state_dict(state)
        got = model.state_dict()
        assert all(torch.equal(value, source.state_dict()[key]) for key, value in got.items() if "extra" not in key)
