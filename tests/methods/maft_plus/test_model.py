import pytest
import torch

from mmseg_plugins.cases import Case
from mmseg_plugins.engine.parameter_groups import parameter_groups
from mmseg_plugins.methods.maft_plus.original import mix_scores, trunk_parameters
from mmseg_plugins.methods.maft_plus.whole_cases import build_model, empty_model
from mmseg_plugins.vocabulary.class_logits import class_logits, clip_scale
from tests.methods.maft_plus.shapes_models import batch, shapes_model
from tests.methods.maft_plus.test_cases import FIXTURES

HEAD_OF_VIT = {"clip.visual.ln_post.weight", "clip.visual.ln_post.bias", "clip.visual.proj"}


def backward(model, data):
    losses = model.train().loss(*data)
    sum(losses.values()).backward()
    return losses


def with_gradient(model):
    return {name for name, value in model.named_parameters() if value.grad is not None and value.grad.abs().sum() > 0}


def trainable(model):
    return {name for name, value in model.named_parameters() if value.requires_grad}


def wanted_to_train(model):
    """Section 3 of the recipe, by name: everything but CLIP's head, text tower and scale, and the frozen copy."""
    names = {name for name, _ in model.named_parameters()}
    frozen = {name for name in names if name.startswith(("teacher.", "clip.text.", "clip.logit_"))}
    return names - frozen - HEAD_OF_VIT


def test_exactly_the_published_parts_train():
    model = shapes_model()
    assert trainable(model) == wanted_to_train(model)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    backward(model, batch(2, 3))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed <= trainable(model)
    parts = ("clip.visual.", "proposals.pixel_decoder.", "proposals.predictor.", "text_transfer.", "void_embedding")
    for part in parts:
        assert any(name.startswith(part) for name in changed), part


def test_what_trains_of_a_convnext():
    model = empty_model(Case.load(FIXTURES / "e2e_semantic.json"))
    trained = {name for name in trainable(model) if name.startswith("clip.")}
    assert trained == {name for name, _ in model.named_parameters() if name.startswith("clip.visual.trunk.st")}
    assert trunk_parameters(model.clip.visual).keys() == {name.removeprefix("clip.visual.") for name in trained}


def test_decay_and_rates_as_published():
    model = empty_model(Case.load(FIXTURES / "e2e_semantic.json"))
    groups = parameter_groups(
        model, lr=1e-4, weight_decay=2e-5, lr_mult={"clip.visual.": 0.1}, norm_decay_mult=0.0, embed_decay_mult=0.0
    )
    found = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    settings = {name: found[id(p)] for name, p in model.named_parameters() if p.requires_grad}
    block = "clip.visual.trunk.stages.0.blocks.0."
    assert settings[block + "gamma"] == pytest.approx((1e-5, 2e-5))
    assert settings[block + "mlp.fc1.weight"] == pytest.approx((1e-5, 2e-5))
    assert settings[block + "norm.weight"] == pytest.approx((1e-5, 0.0))
    assert settings["clip.visual.trunk.stem.1.bias"] == pytest.approx((1e-5, 0.0))
    assert settings["clip.visual.trunk.stages.1.downsample.0.weight"] == pytest.approx((1e-5, 0.0))
    assert settings["text_transfer.cross_atten.norm.weight"] == pytest.approx((1e-4, 0.0))
    assert settings["text_transfer.cross_atten.MLP.weight"] == pytest.approx((1e-4, 2e-5))
    assert settings["void_embedding.weight"] == pytest.approx((1e-4, 0.0))
    assert settings["proposals.predictor.query_feat.weight"] == pytest.approx((1e-4, 0.0))
    assert settings["proposals.pixel_decoder.transformer.level_embed"] == pytest.approx((1e-4, 2e-5))


def test_segmentation_losses_never_reach_the_trunk():
    model = shapes_model(mask_aware_weight=0.0, compensation_weight=0.0)
    backward(model, batch(2, 1))
    assert not {name for name in with_gradient(model) if name.startswith(("clip.", "text_transfer."))}
    assert any(name.startswith("proposals.") for name in with_gradient(model))


def test_the_losses_of_the_trunk_never_reach_the_generator():
    model = shapes_model()
    losses = model.train().loss(*batch(2, 1))
    (losses["loss_mask_aware"] + losses["loss_compensation"]).backward()
    reached = {name.partition(".")[0] for name in with_gradient(model)}
    assert reached == {"clip", "text_transfer"}


def test_compensation_starts_at_zero_and_grows_as_the_trunk_moves():
    model = shapes_model(compensation_weight=2.0)
    data = batch(1, 1)
    assert model.train().loss(*data)["loss_compensation"] == 0
    with torch.no_grad():
        for parameter in trunk_parameters(model.clip.visual).values():
            parameter.mul_(1.05)
    assert model.loss(*data)["loss_compensation"] > 0


def test_losses_in_eval_mode_and_without_gradients_are_the_same():
    model, data = shapes_model(), batch(2, 1)
    torch.manual_seed(3)
    training = model.train().loss(*data)
    torch.manual_seed(3)
    with torch.no_grad():
        evaluating = model.eval().loss(*data)
    assert not any(value.requires_grad for value in evaluating.values())
    for name, value in training.items():
        torch.testing.assert_close(evaluating[name], value.detach(), atol=1e-5, rtol=1e-4)


def test_trunk_and_copy_stay_in_eval_mode():
    model = shapes_model().train()
    assert not any(module.training for part in (model.clip, model.teacher) for module in part.modules())
    assert model.proposals.training
    assert model.text_transfer.training


def test_images_without_segments_give_finite_losses_and_gradients_everywhere():
    model = shapes_model()
    losses = backward(model, batch(0, 0))
    assert losses["loss_mask_aware"] == 0
    assert losses["loss_mask"] == 0
    assert all(torch.isfinite(value) for value in losses.values())
    without = {name for name, value in model.named_parameters() if value.requires_grad and value.grad is None}
    assert not {name for name in without if not name.startswith("clip.")}


def test_batches_of_mixed_sizes_are_padded_and_their_masks_with_them():
    model = shapes_model()
    preprocessor = shapes_model(
        data_preprocessor={"type": "mmseg.SegDataPreProcessor", "size_divisor": 32, "pad_val": 0}
    ).data_preprocessor
    (first, one), (second, two) = batch(2, size=(40, 64)), batch(1, size=(64, 50))
    data = preprocessor({"inputs": [first[0], second[0]], "data_samples": one + two}, True)
    assert data["inputs"].shape == (2, 3, 64, 64)
    assert all(torch.isfinite(value) for value in model.train().loss(**data).values())


def test_images_too_narrow_for_the_compensation_say_so():
    with pytest.raises(ValueError, match="at least 4 wide.*set compensation_scales"):
        shapes_model(size_divisor=8).train().loss(*batch(1, size=(64, 24)))


def test_compensation_without_a_copy_names_the_option():
    with pytest.raises(ValueError, match="teacher=True"):
        shapes_model(teacher=False).train().loss(*batch(1))


def test_a_frozen_generator_is_neither_trained_nor_scored():
    model = shapes_model(freeze_generator=True, generator_features="original")
    losses = backward(model, batch(2, 1))
    assert set(losses) == {"loss_mask_aware", "loss_compensation"}
    assert {name.partition(".")[0] for name in trainable(model)} == {"clip", "text_transfer"}
    assert not model.proposals.training
    assert not model.pyramid.training


def test_a_frozen_trunk_leaves_transfer_and_generator():
    model = shapes_model(train_trunk=False, compensation_weight=0.0)
    backward(model, batch(2, 1))
    assert not {name for name in with_gradient(model) if name.startswith("clip.")}


def test_features_of_the_original_keep_the_masks_when_the_trunk_moves():
    options = {"generator_features": "original"}
    model = shapes_model(**options).eval()
    images = batch(0)[0]
    before, _ = model(images)
    with torch.no_grad():
        for parameter in trunk_parameters(model.clip.visual).values():
            parameter.mul_(1.1)
    after, _ = model(images)
    torch.testing.assert_close(before, after)


@pytest.mark.parametrize("mixing", ["logits", "probabilities"])
def test_shares_of_the_original_lead_from_the_tuned_scores_to_plain_clip(mixing):
    images, masks = batch(0)[0], torch.randn(1, 5, 16, 16)
    scores = {}
    for share in (0.0, 0.5, 1.0):
        model = shapes_model(original_share=share, original_mixing=mixing).eval()
        with torch.no_grad():
            model.ensure_weights("visual")
            model.ensure_teacher()
            model.clip.visual.proj.mul_(-1)  # tuned, so to speak
            features, text = model.encode(images).features, model.classifier_text()
            scores[share] = model.out_vocabulary_logits(features, masks, text)[..., :4].softmax(-1)
    plain_features = model.encode(images).features.original
    rows, scale = text.rows, clip_scale(model.clip.logit_scale)
    embeddings = model.mask_classifier(plain_features, masks)
    plain = class_logits(embeddings, rows, text.row_class, text.num_classes, scale)[..., :4].softmax(-1)
    torch.testing.assert_close(scores[1.0], plain, atol=1e-5, rtol=1e-4)
    assert (scores[0.0] - plain).abs().max() > 0.1
    low, high = torch.minimum(scores[0.0], plain), torch.maximum(scores[0.0], plain)
    if mixing == "probabilities":
        assert ((scores[0.5] >= low - 1e-5) & (scores[0.5] <= high + 1e-5)).all()


def test_mixing_equals_its_formulas():
    tuned, original = torch.randn(1, 3, 4), torch.randn(1, 3, 4)
    torch.testing.assert_close(mix_scores(tuned, original, 0.3, "logits"), 0.7 * tuned + 0.3 * original)
    mixed = mix_scores(tuned, original, 0.3, "probabilities").softmax(-1)
    torch.testing.assert_close(mixed, 0.7 * tuned.softmax(-1) + 0.3 * original.softmax(-1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"original_share": 1.5}, "between 0 and 1"),
        ({"original_share": 0.5, "teacher": False}, "teacher=True"),
        ({"generator_features": "both"}, "'tuned' or 'original'"),
        ({"original_mixing": "sum"}, "probabilities"),
        ({"variant": "instance"}, "panoptic"),
        ({"transfer_heads": 7}, "96 wide, which 7 heads"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        shapes_model(**options)


def test_a_batch_gives_what_its_images_give_one_by_one():
    model = build_model(Case.load(FIXTURES / "e2e_semantic.json"))
    images = torch.randn(2, 3, 64, 96)
    together = model.predict(images)
    for index, sample in enumerate(together):
        alone = model.predict(images[index : index + 1])[0]
        assert (sample.pred_sem_seg.data == alone.pred_sem_seg.data).float().mean() > 0.999


def test_vocabularies_swap_without_rebuilding():
    model = shapes_model().eval()
    images = batch(0)[0]
    assert model.predict(images)[0].pred_sem_seg.data.max() < 4
    model.set_vocabulary(["water", "sand"])
    assert model.predict(images)[0].pred_sem_seg.data.max() < 2
    assert model.classifier_text().num_classes == 3


def test_results_print_what_they_depend_on():
    settings = shapes_model(original_share=0.5).harness_settings()
    assert settings["text transfer"] == "semantic, tokens channels_last"
    assert settings["original CLIP"] == "share 0.5 of the logits"
    assert "rule void" in settings["scoring"]
