import pytest
import torch
import torch.nn.functional as F
from mmseg.structures import SegDataSample

from mmseg_plugins.methods.training_free.model import TrainingFree
from mmseg_plugins.methods.training_free.presets import PRESETS
from mmseg_plugins.vocabulary.embed import TextEmbeddings
from tests.methods.training_free.reference import SlowTower, build

METHODS = [name for name in PRESETS if name != "reduced"]
IMAGE = (1, 3, 32, 24)


def slow_parts(model, image):
    """The slow tower, the inputs of its blocks, and the grid."""
    slow, options = SlowTower(model.clip.visual), model.dense
    grid = (image.shape[2] // 8, image.shape[3] // 8)
    positions = model.clip.visual.positions(grid, options.position_resize, options.position_match)
    inputs, grid = slow.before_last(image[0], positions)
    return slow, inputs, grid


def slow_logits(model, slow, tokens, grid):
    unit = F.normalize(slow.finish(tokens)[1:], dim=-1)
    return (unit @ model.text_embeddings.rows.T).T.unflatten(1, grid)[None]


def logits_of(model, image):
    return model.row_logits(image, model.text_embeddings)


@torch.no_grad()
def test_itaclip_mixes_the_last_attention_with_three_earlier_ones():
    model, image = build(method="itaclip"), torch.randn(IMAGE)
    slow, inputs, grid = slow_parts(model, image)
    sums = []
    for block, x in zip(slow.blocks, inputs, strict=True):
        q, k, v = slow.qkv(block, x)
        sums.append(slow.weights(q, q) + slow.weights(k, k))
    weights = sums[-1] / 2 + (sums[7 - 1] + sums[8 - 1] + sums[10 - 1]) / 3 / 2  # counted from 1
    tokens = inputs[-1] + slow.out(slow.blocks[-1], weights, v)
    torch.testing.assert_close(logits_of(model, image), slow_logits(model, slow, tokens, grid), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_segearth_adds_three_attentions_and_takes_the_shared_part_away():
    model, image = build(method="segearth"), torch.randn(IMAGE)
    slow, inputs, grid = slow_parts(model, image)
    q, k, v = slow.qkv(slow.blocks[-1], inputs[-1])
    weights = slow.weights(q, q) + slow.weights(k, k) + slow.weights(v, v)
    tokens = slow.out(slow.blocks[-1], weights, v)
    whole = F.normalize(slow.finish(slow.ordinary(slow.blocks[-1], inputs[-1]))[0], dim=-1)
    shared = (model.text_embeddings.rows @ whole)[None, :, None, None]
    expected = slow_logits(model, slow, tokens, grid) - 0.3 * shared
    torch.testing.assert_close(logits_of(model, image), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_anovl_preset_adds_value_attention_in_all_blocks():
    model, image = build(method="anovl"), torch.randn(IMAGE)
    slow, inputs, grid = slow_parts(model, image)
    stream = inputs[0]
    for block, x in zip(slow.blocks, inputs, strict=True):
        _, _, v = slow.qkv(block, x)
        stream = stream + slow.out(block, slow.weights(v, v), v)
    torch.testing.assert_close(logits_of(model, image), slow_logits(model, slow, stream, grid), atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("method", METHODS)
def test_a_batch_gives_what_its_images_give(method):
    model, images = build(method=method), torch.randn(4, 3, 32, 40)
    batch = logits_of(model, images)
    single = torch.cat([logits_of(model, image[None]) for image in images])
    torch.testing.assert_close(batch, single, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", ["naclip", "gem", "clip_surgery"])
@pytest.mark.parametrize("mode", [{"mode": "whole"}, {"mode": "slide", "crop_size": (24, 24), "stride": (16, 16)}])
def test_background_is_decided_image_by_image(method, mode):
    options = {"method": method, "pamr": {"steps": 2, "dilations": (1, 2)}}
    images, test_cfg = torch.randn(4, 3, 40, 48), {**mode, "logit_scale": 4.0}
    plain = build(**options, test_cfg={**test_cfg, "keep_logits": True}).predict(images, samples(4))
    best = torch.stack([s.seg_logits.data.softmax(0).amax(0) for s in plain])
    background = {"name": "a", "threshold": float(best.median())}  # half of the pixels fall below it
    model = build(**options, background=background, test_cfg={**test_cfg, "area_threshold": 0.01})
    together = model.predict(images, samples(4))
    alone = [model.predict(image[None], samples(1))[0] for image in images]
    labels = [torch.stack([s.pred_sem_seg.data for s in some]) for some in (together, alone)]
    assert torch.equal(*labels)
    assert 0.2 < (labels[0] == 0).float().mean() < 1


def samples(count):
    return [SegDataSample(metainfo={"ori_shape": (30, 37)}) for _ in range(count)]


def test_gem_scales_each_map_over_the_image():
    model = build(method="gem", map_scaling="image", test_cfg={"keep_logits": True})
    maps = model.predict(torch.randn(1, 3, 32, 32), samples(1))[0].seg_logits.data
    torch.testing.assert_close(maps.amin((1, 2)), torch.zeros(5))
    torch.testing.assert_close(maps.amax((1, 2)), torch.ones(5))


def test_pamr_is_guided_by_the_normalised_input():
    model, image = build(method="naclip", pamr={"steps": 2, "dilations": [1]}), torch.randn(1, 3, 32, 32)
    rows = torch.randn(5, 20, 20)
    expected = model.pamr.guide(F.interpolate(image, (20, 20), mode="bilinear")[0])(rows)
    torch.testing.assert_close(model.refiner(image, (20, 20))(rows), expected)
    assert build(method="naclip").refiner(image, (20, 20)) is None


def test_surgery_with_the_empty_text_encodes_it_once(monkeypatch):
    model, calls = build(method="clip_surgery", surgery="empty_text"), []

    def encode(_tower, names, _templates):
        calls.append(names)
        return torch.ones(1, 16) / 4

    monkeypatch.setattr("mmseg_plugins.methods.training_free.model.encode_names", encode)
    monkeypatch.setattr(model, "ensure_weights", lambda part: None)
    first = logits_of(model, torch.randn(1, 3, 32, 32))
    logits_of(model, torch.randn(1, 3, 32, 32))
    assert calls == [[""]]
    assert first.shape == (1, 5, 4, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "nacclip"}, "Did you mean 'naclip'"),
        ({"method": "sclip", "surgery": "all"}, "surgery"),
        ({"method": "sclip", "map_scaling": "pixels"}, "map_scaling"),
        ({"method": "sclip", "mean_share": 0.5}, "mean_blocks"),
        ({"method": "sclip", "dense": {"rule": "qv"}}, "attention rule"),
        ({"method": "sclip", "dense": {"residuals": False}}, r"unknown dense keys \['residuals'\]. Known: .*residual,"),
        ({"method": "sclip", "pamr": {"step": 3}}, r"unknown pamr keys \['step'\]. Known: steps, dilations"),
    ],
)
def test_settings_that_do_not_exist_are_refused(options, message):
    with pytest.raises((KeyError, ValueError), match=message):
        build(**options)


def test_resnets_do_only_what_they_can():
    numbers = {
        "embed_dim": 16,
        "image_resolution": 64,
        "vision_layers": (1, 1, 1, 1),
        "vision_width": 8,
        "vision_heads": 4,
    }
    numbers["vision_patch_size"] = None
    with pytest.raises(ValueError, match="clip_surgery"):
        build(method="sclip", numbers=numbers)
    model = build(method="clip_surgery", numbers=numbers)
    assert isinstance(model, TrainingFree)
    assert logits_of(model, torch.randn(2, 3, 64, 96)).shape == (2, 5, 2, 3)


def test_what_differs_from_a_plain_tower_is_printed_with_results():
    settings = build(method="clip_surgery").harness_settings()
    assert settings["dense"].startswith("rule vv, first_block -6, stream parallel")
    assert (settings["surgery"], settings["map_scaling"], settings["pamr"]) == ("class_mean", "tokens", "off")
    assert build(method="segearth").harness_settings()["class_token_weight"] == "-0.3"
    assert build(method="itaclip").harness_settings()["mean_share"] == "0.5"
    naclip = build(method="naclip", pamr={"steps": 10, "dilations": (8, 16)}).harness_settings()
    assert naclip["pamr"] == "10 steps, dilations (8, 16)"
    assert not {"surgery", "map_scaling", "class_token_weight", "mean_share"} & set(naclip)


def test_words_may_have_several_rows():
    model = build(method="sclip", test_cfg={"logit_scale": 40.0})
    rows = F.normalize(torch.randn(7, 16), dim=-1)
    model.set_text_embeddings(TextEmbeddings(rows, torch.tensor([0, 0, 1, 2, 3, 3, 4]), 5))
    labels = model.predict(torch.randn(1, 3, 32, 32), samples(1))[0].pred_sem_seg.data
    assert labels.max() < 5
