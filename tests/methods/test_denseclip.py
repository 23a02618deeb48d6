"""DenseCLIP: reference cases, network, text side and classes."""

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from mmseg.models.segmentors import EncoderDecoder
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

from mmseg_plugins.cases import Case, verify
from mmseg_plugins.methods.denseclip.model import score_map
from mmseg_plugins.vocabulary.config import VocabularyConfig
from tests.methods.denseclip_models import BACKBONES, NAMES, batch, build, config, samples, total
from tests.reference_cases import assert_agrees

FIXTURES = Path(__file__).parent.parent / "fixtures" / "denseclip"
CASES = sorted(FIXTURES.glob("*.json"))


def test_the_cases_are_there():
    assert {path.stem for path in CASES} >= {"rn_small", "vit_small", "clip_init_rn", "clip_init_vit", "lr_schedule"}


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_reference_case_agrees(path):
    assert_agrees(path)


def edited(tmp_path, stem, edit):
    """Return a case whose json was changed."""
    spec = json.loads((FIXTURES / f"{stem}.json").read_text())
    edit(spec)
    (tmp_path / "case.json").write_text(json.dumps(spec))
    if (FIXTURES / f"{stem}.npz").exists():
        shutil.copy(FIXTURES / f"{stem}.npz", tmp_path / "case.npz")
    return Case.load(tmp_path / "case.json")


def test_case_of_a_baseline_without_text_agrees(tmp_path):
    """Its backbone has the same weights, so the maps are those of the case with text."""

    def edit(spec):
        fpn, head = spec["config"]["neck"], spec["config"]["decode_head"]
        fpn["in_channels"][3] = 256
        backbone = {"type": "CLIPResNet", "layers": [1, 2, 1, 1], "width": 8, "style": "pytorch"}
        spec["config"] = {
            "type": "EncoderDecoder", "backbone": backbone, "neck": fpn, "decode_head": head,
            "test_cfg": {"mode": "whole"},
        }  # fmt: skip
        text = ("text_encoder", "context_decoder", "backbone.attnpool", "contexts", "gamma")
        spec["layout"] = {key: shape for key, shape in spec["layout"].items() if not key.startswith(text)}
        spec["layout"]["neck.lateral_convs.3.conv.weight"] = [32, 256, 1, 1]

    results = {result.name: result for result in verify(edited(tmp_path, "rn_small", edit))}
    assert all(results[f"feat{level}"].passed for level in range(4))
    others = ("neck3", "head_logits", "seg_logits", "loss_decode_ce", "slide_prob_ori")  # there, with the right shapes
    assert all(results[name].detail.endswith("differ") for name in others)


def test_cases_with_entries_that_have_no_effect_and_longer_names_agree(tmp_path):
    def style(spec):
        spec["config"]["backbone"]["style"] = spec["config"]["text_encoder"]["style"] = "pytorch"

    def longer(spec):
        spec["tokens"] = [row + [0] * 15 for row in spec["tokens"]]
        spec["context_length"] += 15

    for stem, edit in {"clip_init_rn": style, "tokens_ade20k": longer}.items():
        assert all(result.passed for result in verify(edited(tmp_path, stem, edit)))


# --- network ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["resnet", "vit16", "vit8"])
@pytest.mark.parametrize("size", [(64, 64), (96, 128)])
def test_levels_have_strides_4_to_32_and_the_score_map_joins_its_own(kind, size):
    model = build(kind)
    images, _ = batch(size)
    with torch.no_grad():
        x = model.extract_feat(images)
        _, pyramid, scores = model.after_extract_feat(x)
    assert [tuple(level.shape[2:]) for level in x[:-1]] == [(size[0] // s, size[1] // s) for s in (4, 8, 16, 32)]
    joined = pyramid[model.score_concat_index]
    assert torch.equal(joined[:, -len(NAMES) :], scores)
    assert torch.equal(joined[:, : -len(NAMES)], x[model.score_concat_index])
    assert model.encode_decode(images).shape == (2, len(NAMES), *size)


def test_score_map_equals_a_loop_over_places():
    torch.manual_seed(0)
    pixels, text = torch.randn(2, 5, 2, 3), torch.randn(2, 4, 5)
    scores = score_map(pixels, text)
    for b in range(2):
        for k in range(4):
            for y in range(2):
                for x in range(3):
                    torch.testing.assert_close(
                        scores[b, k, y, x], F.cosine_similarity(pixels[b, :, y, x], text[b, k], dim=0)
                    )


def test_score_map_has_full_precision_under_autocast():
    pixels, text = torch.randn(1, 64, 3, 3), torch.randn(1, 4, 64)
    expected = score_map(pixels, text)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(score_map(pixels, text), expected)


def test_score_map_of_the_detection_models_is_divided_by_tau_in_the_pyramid_alone():
    plain, scaled = build("vit16"), build("vit16", is_score_map_scaled=True)
    images, _ = batch()
    with torch.no_grad():
        _, plain_levels, plain_scores = plain.after_extract_feat(plain.extract_feat(images))
        _, scaled_levels, scaled_scores = scaled.after_extract_feat(scaled.extract_feat(images))
    assert torch.equal(plain_scores, scaled_scores)
    torch.testing.assert_close(scaled_levels[2][:, -4:], plain_levels[2][:, -4:] / 0.07)


def test_level_of_another_resolution_is_refused():
    model = build("vit16", score_concat_index=1, neck={"in_channels": [32, 36, 32, 32]})
    with pytest.raises(ValueError, match=r"level 1 has \(8, 8\) places, but the score map has \(4, 4\)"):
        model.encode_decode(batch()[0])


def test_class_token_holds_its_embedding_twice_unless_asked_otherwise():
    doubled, single = (
        MODELS.build(BACKBONES["vit16"] | {"is_class_embedding_doubled": flag}) for flag in (True, False)
    )
    single.load_state_dict(doubled.state_dict())
    patches, positions = torch.randn(1, 2, 32), torch.randn(3, 32)
    expected = single.ln_pre(positions[0] + 2 * single.class_embedding)
    torch.testing.assert_close(doubled.add_class_token(patches, positions)[0, 0], expected)
    torch.testing.assert_close(
        doubled.add_class_token(patches, positions)[:, 1:], single.add_class_token(patches, positions)[:, 1:]
    )


def test_dropped_paths_are_expected_to_change_nothing_on_average_and_nothing_in_evaluation():
    torch.manual_seed(0)
    backbone = MODELS.build(BACKBONES["vit16"] | {"drop_path_rate": 0.5})
    assert backbone.drop_path_rates == pytest.approx([0, 0.5 / 3, 1 / 3, 0.5])
    image = torch.randn(4, 3, 32, 32)
    first = [backbone(image)[-1][0] for _ in range(2)]
    assert not torch.allclose(*first)
    backbone.eval()
    assert torch.equal(backbone(image)[-1][0], backbone(image)[-1][0])


def test_positions_are_cropped_for_the_detection_variant():
    pool = MODELS.build(BACKBONES["resnet"] | {"input_resolution": 128, "pos_mode": "crop"}).attnpool
    table = pool.positional_embedding
    expected = torch.cat([table[:1], table[1:].unflatten(0, (4, 4))[:2, :3].flatten(0, 1)])
    assert torch.equal(pool.positions((2, 3)), expected)
    with pytest.raises(ValueError, match=r"cannot be cropped from positions for \(4, 4\)"):
        pool.positions((5, 3))


RESNET = {"type": "ResNet", "depth": 18}
SWIN = {"type": "SwinTransformer", "embed_dims": 32, "depths": [1] * 4, "num_heads": [1, 2, 4, 8], "window_size": 4}
TIMM = {"type": "TIMMBackbone", "model_name": "resnet18", "pretrained": False, "out_indices": [1, 2, 3, 4]}


@pytest.mark.parametrize(
    ("inner", "channels"),
    [(RESNET, [64, 128, 256, 512]), (SWIN, [32, 64, 128, 256]), (TIMM, [64, 128, 256, 512])],
    ids=["mmseg-resnet", "mmseg-swin", "timm"],
)
def test_any_backbone_trains_with_an_attention_pool_behind_it(inner, channels):
    backbone = {
        "type": "AttnPoolBackbone",
        "in_channels": channels[-1],
        "output_dim": 32,
        "grid_size": 2,
        "backbone": inner,
    }
    wanted = [*channels[:3], channels[3] + len(NAMES)]
    settings = config("resnet", neck={"in_channels": wanted}) | {"backbone": backbone}
    model = MODELS.build(settings).train()
    images, data = batch()
    total(model.loss(images, data)).backward()
    assert model.backbone.attnpool.q_proj.weight.grad.abs().sum() > 0
    assert next(model.backbone.backbone.parameters()).grad is not None


def test_neck_for_other_levels_than_any_backbones_is_refused():
    backbone = {"type": "AttnPoolBackbone", "in_channels": 512, "output_dim": 32, "grid_size": 2, "backbone": RESNET}
    model = MODELS.build(config("resnet", neck={"in_channels": [64, 128, 200, 516]}) | {"backbone": backbone})
    with pytest.raises(ValueError, match=r"neck.in_channels is \[64, 128, 200, 516\].*has \[64, 128, 256, 516\]"):
        model.loss(*batch())


def test_backbone_with_other_levels_is_refused():
    backbone = MODELS.build(
        {
            "type": "AttnPoolBackbone",
            "in_channels": 512,
            "backbone": {"type": "ResNet", "depth": 18, "out_indices": [3]},
        }
    )
    with pytest.raises(ValueError, match="returns 1 levels, but DenseCLIP needs 4: set its out_indices"):
        backbone(torch.zeros(1, 3, 64, 64))


def test_further_heads_get_what_the_release_gives_them():
    """Text embeddings stand in front of the levels for the head; the auxiliary head sees the neck's levels alone."""
    auxiliary = {
        "type": "FCNHead", "in_channels": 8, "in_index": 1, "channels": 4, "num_convs": 1, "num_classes": 4,
        "norm_cfg": {"type": "BN"},
    }  # fmt: skip
    model = build("vit16", text_head=True, auxiliary_head=auxiliary, decode_head={"in_index": [1, 2, 3, 4]}).train()
    seen = []
    model.auxiliary_head.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    images, data = batch()
    losses = model.loss(images, data)
    assert {"decode.loss_ce", "aux_identity.loss_ce", "aux.loss_ce", "decode.acc_seg"} <= set(losses)
    with torch.no_grad():
        text, pyramid, _ = model.after_extract_feat(model.extract_feat(images))
        assert model._head_features(pyramid, text)[0] is text


def test_without_score_map_and_its_loss_the_text_side_has_no_part_in_training():
    model = build("vit16", score_concat_index=None, identity_head=None, neck={"in_channels": [32] * 4}).train()
    images, data = batch()
    losses = model.loss(images, data)
    total(losses).backward()
    assert not any(key.startswith("aux_identity") for key in losses)
    assert model.contexts.grad is None
    assert model.backbone.conv1.weight.grad is not None


def test_mixed_precision_step_is_finite():
    model = build("resnet").train()
    images, data = batch()
    with torch.autocast("cpu", torch.bfloat16):
        loss = total(model.loss(images, data))
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


# --- prediction -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "test_cfg",
    [{"mode": "whole"}, {"mode": "slide", "crop_size": (64, 64), "stride": (42, 42)}],
    ids=lambda cfg: cfg["mode"],
)
def test_labels_are_those_of_mmsegs_own_prediction(test_cfg):
    model = build("vit16", test_cfg=test_cfg | {"keep_logits": True})
    images, _ = batch((80, 112), count=1)
    meta = {
        "ori_shape": (50, 70), "img_shape": (80, 112), "pad_shape": (80, 112), "padding_size": [0, 0, 0, 0],
        "flip": True, "flip_direction": "horizontal",
    }  # fmt: skip
    ours = model.predict(images, [SegDataSample(metainfo=meta)])[0]
    with torch.no_grad():
        theirs = EncoderDecoder.predict(model, images, [SegDataSample(metainfo=meta)])[0]
    torch.testing.assert_close(ours.seg_logits.data, theirs.seg_logits.data, atol=1e-5, rtol=1e-5)
    top = theirs.seg_logits.data.topk(2, dim=0).values
    clear = (top[0] - top[1]) > 1e-4
    assert torch.equal(ours.pred_sem_seg.data[0][clear], theirs.pred_sem_seg.data[0][clear])


def test_batch_of_two_sizes_gives_what_single_images_give():
    model = build("vit16")
    images, _ = batch((64, 64))
    padded = F.pad(images[:, :, :48], (0, 0, 0, 16))
    metas = [{"ori_shape": (64, 64)}, {"ori_shape": (48, 64), "padding_size": [0, 0, 0, 16]}]
    both = model.predict(torch.stack([images[0], padded[1]]), [SegDataSample(metainfo=meta) for meta in metas])
    first = model.predict(images[:1], [SegDataSample(metainfo=metas[0])])[0]
    second = model.predict(images[1:, :, :48], [SegDataSample(metainfo={"ori_shape": (48, 64)})])[0]
    assert torch.equal(both[0].pred_sem_seg.data, first.pred_sem_seg.data)
    assert torch.equal(both[1].pred_sem_seg.data, second.pred_sem_seg.data)


def test_score_map_names_pixels_with_any_words():
    model = build("vit16", predict_from="score_map")
    images, _ = batch()
    model.set_vocabulary("cat; sofa, couch; tree; car; grass")
    assert (model.num_classes, model.out_channels, len(model.texts)) == (5, 5, 6)
    assert model.dataset_meta["classes"] == ("cat", "sofa", "tree", "car", "grass")
    found = model.predict(images)[0].pred_sem_seg.data[0]
    with torch.no_grad():
        x = model.extract_feat(images[:1])
        scores = score_map(x[-1][1], model.refine_text(x[-1])) / 0.07
        enlarged = F.interpolate(scores, (64, 64), mode="bilinear")[0]
    best = torch.stack([enlarged[0], enlarged[1:3].amax(0), *enlarged[3:]])
    assert torch.equal(found, best.argmax(0))
    assert model.encode_decode(images).shape == (2, 5, 64, 64)


def test_probability_threshold_makes_background():
    model = build("vit16", predict_from="score_map")
    model.set_vocabulary("cat; dog", background=0.999)
    assert (model.predict(batch()[0])[0].pred_sem_seg.data == model.vocabulary.background.index).all()


def test_head_refuses_other_words_and_says_what_takes_them():
    model = build("vit16")
    with pytest.raises(ValueError, match=r"trained for its 4 classes.*predict_from='score_map'"):
        model.set_vocabulary("cat; dog")
    model.set_vocabulary(list(NAMES))
    model.set_vocabulary(VocabularyConfig.from_config(list(NAMES)))
    assert model.vocabulary.class_names == NAMES


def test_training_with_other_words_is_refused():
    model = build("vit16", predict_from="score_map")
    model.set_classes(["cat", "dog"])
    with pytest.raises(ValueError, match="classes that the model was built for"):
        model.loss(*batch())


def test_random_head_is_warned_about_once(caplog):
    torch.manual_seed(0)
    model = MODELS.build(config("vit16")).eval()
    with caplog.at_level(logging.WARNING):
        model.predict(batch()[0])
        model.predict(batch()[0])
    assert caplog.text.count("random weights") == 1


# --- text embeddings --------------------------------------------------------------------------------------------------


def count_encodings(model):
    calls = []
    model.text_encoder.register_forward_hook(lambda *_: calls.append(1))
    return calls


def test_text_embeddings_are_computed_once_in_evaluation():
    model = build("vit16")
    calls = count_encodings(model)
    for _ in range(3):
        model.predict(batch()[0])
    assert len(calls) == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.train().eval(),
        lambda model: model.load_state_dict(model.state_dict()),
        lambda model: model.double().float(),
        lambda model: model.contexts.data.add_(1),
        lambda model: model.set_vocabulary(list(NAMES)),
    ],
    ids=["train", "load", "dtype", "contexts", "words"],
)
def test_text_embeddings_are_computed_again_after(change):
    model = build("vit16")
    calls = count_encodings(model)
    model.predict(batch()[0])
    change(model)
    model.predict(batch()[0])
    assert len(calls) == 2


def test_text_embeddings_follow_the_deeper_prompts():
    model = build("vit16", prompts={"depth": 2})
    calls = count_encodings(model)
    model.predict(batch()[0])
    model.deep_prompts.compound_prompts_text[0].data.add_(1)
    model.predict(batch()[0])
    assert len(calls) == 2


def test_without_the_cache_or_with_gradients_each_call_encodes():
    model = build("vit16", cache_text=False)
    calls = count_encodings(model)
    model.predict(batch()[0])
    model.predict(batch()[0])
    assert len(calls) == 2
    model = build("vit16")
    model.encode_decode(batch()[0]).sum().backward()
    assert model.contexts.grad.abs().sum() > 0


def test_predictions_inside_and_outside_of_inference_mode_mix():
    model = build("vit16")
    images, data = batch()
    with torch.inference_mode():
        first = model.predict(images)[0].pred_sem_seg.data
    assert torch.equal(model.predict(images)[0].pred_sem_seg.data, first)
    total(model.train().loss(images, data)).backward()


def test_frozen_text_encoder_has_no_gradient_but_hands_one_to_the_contexts():
    frozen, free = build("vit16").train(), build("vit16", freeze_text_encoder=False).train()
    for model in (frozen, free):
        total(model.loss(*batch())).backward()
        assert model.contexts.grad.abs().sum() > 0
        assert model.gamma.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in frozen.text_encoder.parameters())
    assert free.text_encoder.ln_final.weight.grad is not None


def test_names_are_never_cut():
    with pytest.raises(
        ValueError, match=r"'television receiver on a shelf' takes 7 tokens.*leaves room for 5 beside its 4"
    ):
        build("vit16", class_names=["wall", "television receiver on a shelf", "sky", "tree"])


@pytest.mark.parametrize("name", ["", " ", "...", 3, None])
def test_names_without_a_letter_are_refused(name):
    with pytest.raises(ValueError, match=r"class_names of the config: class 2 must be a name.*but got"):
        build("vit16", class_names=["wall", "tree", name, "sky"])


def test_data_set_names_stand_for_mmsegs_lists():
    from mmseg.utils import get_classes

    from mmseg_plugins.methods.denseclip.class_text import class_vocabulary

    for name in ("ade20k", "cityscapes", "coco-stuff164k"):
        assert list(class_vocabulary(name).class_names) == [label.strip() for label in get_classes(name)]
    assert class_vocabulary("shapesworld_38").num_classes == 38
    assert class_vocabulary(["a, b", "c; d"]).class_names == ("a, b", "c; d")


# --- learned prompts --------------------------------------------------------------------------------------------------


def test_contexts_start_from_words():
    model = build("vit16", prompts={"init": "a photo of a"})
    model.init_weights()
    ids = model.text_encoder.tokenizer.word_ids("a photo of a")
    assert torch.equal(model.contexts[0], model.text_encoder.token_embedding.weight[ids])
    whole = model.text_encoder.tokenize([f"a photo of a {name}" for name in NAMES])
    torch.testing.assert_close(model.encode_classes()[0], model.text_encoder.encode_tokens(whole))
    with pytest.raises(ValueError, match="has 2 tokens, but there are 4 contexts"):
        build("vit16", prompts={"init": "a photo"}).init_weights()


def test_contexts_per_class_belong_to_the_trained_classes():
    model = build("vit16", prompts={"per_class": True}, predict_from="score_map")
    assert model.contexts.shape == (4, 4, 16)
    assert model.encode_classes().shape == (1, 4, 32)
    with pytest.raises(ValueError, match="other words have none"):
        model.set_vocabulary("cat; dog")


@pytest.mark.parametrize("position", ["middle", "front"])
def test_names_stand_elsewhere_among_the_contexts(position):
    model = build("vit16", prompts={"init": "a photo of a", "position": position})
    model.init_weights()
    pattern = {"middle": "a photo {} of a", "front": "{} a photo of a"}[position]
    whole = model.text_encoder.tokenize([pattern.format(name) for name in NAMES])
    torch.testing.assert_close(model.encode_classes()[0], model.text_encoder.encode_tokens(whole))


def test_deep_prompts_train_in_both_towers():
    model = build("vit16", prompts={"depth": 2, "image": True}).train()
    plain = build("vit16")
    assert not torch.allclose(model.encode_classes(), plain.encode_classes())
    total(model.loss(*batch())).backward()
    for name, parameter in model.deep_prompts.named_parameters():
        assert parameter.grad.abs().sum() > 0, name
    other = build("vit16", prompts={"depth": 2, "image": True}, seed=1)
    other.load_state_dict(model.state_dict())
    images, _ = batch()
    torch.testing.assert_close(other.encode_decode(images), model.eval().encode_decode(images))


def test_image_prompts_need_a_transformer():
    with pytest.raises(ValueError, match="CLIPVisionTransformer"):
        build("resnet", prompts={"image": True})


def test_ignored_pixels_do_not_count():
    model = build("vit16")
    images, _ = batch(count=1)
    labels = torch.zeros(1, 64, 64, dtype=torch.long)
    half = labels.clone()
    half[:, 32:] = 255
    with torch.no_grad():
        whole, part = (model.loss(images, samples(value)) for value in (labels, half))
    assert part["decode.loss_ce"] != whole["decode.loss_ce"]
    assert torch.isfinite(part["decode.loss_ce"])
