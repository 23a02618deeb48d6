import logging
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner.checkpoint import load_checkpoint
from mmseg.registry import MODELS

import mmseg_plugins.register  # noqa: F401  (fills the registries)
from mmseg_plugins.cases import Case, verify
from mmseg_plugins.methods.fcclip.cases import full_model
from mmseg_plugins.segmentors.mask_checkpoint import CLIP_PREFIX, is_published, split_published
from mmseg_plugins.towers.clip import find_clip
from tests.reference_cases import assert_agrees
from tests.segmentors.test_mask import build

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "tests/fixtures/fcclip"
CONFIGS = sorted((ROOT / "configs/fcclip").glob("fcclip_*800x1333.py")) + sorted(
    (ROOT / "configs/fcclip").glob("fcclip_*1024x2560.py")
)
# Classes, names, things and classes seen in COCO panoptic, counted in the reference's class tables.
COUNTS = {
    "coco_panoptic_133": (133, 254, 80, 133), "ade20k_150": (150, 403, 100, 64),
    "ade20k_panoptic_150": (150, 403, 100, 64), "ade20k_847": (847, 1342, None, 101), "context59": (59, 160, None, 51),
    "context459": (459, 559, None, 85), "voc21": (21, 153, None, 21), "voc20": (20, 79, None, 20),
    "cityscapes_19": (19, 60, 8, 17),
}  # fmt: skip


@pytest.mark.parametrize("path", sorted(FIXTURES.glob("*.json")), ids=lambda path: path.stem)
def test_reference_case_agrees(path):
    assert_agrees(path)


@pytest.fixture(scope="module")
def case():
    return Case.load(FIXTURES / "full_small.json")


def published_state(case):
    return dict(case.file_content("checkpoint")["model"])


def on_meta(config):
    init_default_scope("mmseg")
    with torch.device("meta"):
        return MODELS.build(config.model)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configs_build_models_with_the_published_classes(path):
    config = Config.fromfile(path)
    model = on_meta(config)
    vocabulary = model.vocabulary
    things = None if vocabulary.is_thing is None else sum(vocabulary.is_thing)
    counts = (vocabulary.num_classes, len(vocabulary.rows), things)
    source = config.model.vocabulary.source
    assert counts == COUNTS[source][:3]
    with torch.device("cpu"):
        assert int(model.seen.sum()) == COUNTS[source][3]
    assert len(model.train_vocabulary.vocabulary.rows) == 254
    assert model.scoring.valid_only == ("_rn" in path.stem)
    resize = config.test_pipeline[1]
    assert (resize.backend, resize.keep_ratio) == ("pillow", True)
    assert tuple(resize.scale) == ((2560, 1024) if "cityscapes" in path.stem else (1333, 800))
    # Orders of resizing as published: scores only where nothing but the semantic map is asked for.
    only_semantic = ("847", "context", "voc")
    assert model.outputs.order == ("scores" if any(name in path.stem for name in only_semantic) else "masks")
    absent = "skip" if any(name in path.stem for name in ("847", "context459")) else "error"
    assert config.test_evaluator.get("absent", "error") == absent


def test_the_full_size_model_has_the_published_number_of_tensors():
    model = on_meta(Config.fromfile(ROOT / "configs/fcclip/fcclip_convnext-l_ade20k-800x1333.py"))
    names = list(model.state_dict())
    assert sum(name.startswith("proposals.") for name in names) == 301
    assert sum(name.startswith("clip.") for name in names) == 543
    decoder = {
        part: sum(value.numel() for name, value in model.proposals.named_parameters() if name.startswith(part))
        for part in ("pixel_decoder", "predictor")
    }
    assert round(decoder["pixel_decoder"] / 1e6, 2) == 5.79
    assert round(decoder["predictor"] / 1e6, 2) == 14.93


@pytest.mark.parametrize("wrapper", [None, "model", "state_dict"])
def test_published_files_load_key_for_key(case, wrapper, tmp_path):
    model, state = full_model(case), published_state(case)
    state["criterion.empty_weight"] = torch.ones(134)
    torch.nn.init.zeros_(model.void_embedding.weight)
    file = tmp_path / "fcclip.pth"
    torch.save(state if wrapper is None else {wrapper: state, "iteration": 5}, file)
    load_checkpoint(model, str(file))
    own = model.state_dict()
    expected = {
        key.replace("sem_seg_head.", "proposals."): value
        for key, value in state.items()
        if key.startswith(("sem_seg_head.", "void_embedding."))
    }
    assert expected.keys() <= own.keys()
    assert all(torch.equal(own[key], value) for key, value in expected.items())
    head = f"{CLIP_PREFIX}visual.head.mlp.fc2.weight"
    assert torch.equal(own["clip.visual.head.mlp.fc2.weight"], state[head])


def test_files_without_clip_take_it_from_where_the_config_says(case, tmp_path, caplog):
    state = published_state(case)
    clip = {key.removeprefix(CLIP_PREFIX): value for key, value in state.items() if key.startswith(CLIP_PREFIX)}
    torch.save(clip, tmp_path / "clip.pt")
    torch.save(
        {"model": {k: v for k, v in state.items() if k not in clip and CLIP_PREFIX not in k}}, tmp_path / "f.pth"
    )
    whole, model = full_model(case), full_model(case)
    model._source = find_clip(model.clip.config, pretrained=tmp_path / "clip.pt")
    model._loaded_parts.clear()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    with caplog.at_level(logging.INFO):
        load_checkpoint(model, str(tmp_path / "f.pth"))
    assert any("leaves CLIP out" in record.message for record in caplog.records)
    image = torch.randn(1, 3, 64, 64)
    samples = [fresh.predict(image)[0] for fresh in (whole, model)]
    assert torch.equal(samples[0].pred_sem_seg.data, samples[1].pred_sem_seg.data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sem_seg_head.predictor.decoder_norm.weight": None}, "proposals.predictor.decoder_norm.weight"),
        ({"sem_seg_head.predictor.extra": torch.zeros(1)}, "proposals.predictor.extra"),
        ({"void_embedding.weight": torch.zeros(1, 3)}, "void_embedding.weight"),
        ({"void_embedding.weight": None}, "1 missing .void_embedding.weight"),
        ({f"{CLIP_PREFIX}ln_final.weight": None}, "ln_final.weight"),
        ({"sem_seg_head.predictor.query_feat.weight": torch.zeros(3, 32)}, "num_queries=3"),
    ],
)
def test_files_that_do_not_fit_are_refused_whole(case, change, message):
    model, state = full_model(case), published_state(case)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = {key: 2 * value for key, value in (state | change).items() if value is not None}
    with pytest.raises(ValueError, match=message):
        model.load_state_dict(state)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("family", ["resnet", "convnext", "vit"])
def test_published_layouts_of_every_tower_load(family):
    source, target = build(family), build(family)
    for parameter in source.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    published = {}
    for key, value in source.state_dict().items():
        for ours, theirs in (("clip.text.", CLIP_PREFIX), ("clip.", CLIP_PREFIX), ("proposals.", "sem_seg_head.")):
            if key.startswith(ours):
                key = theirs + key.removeprefix(ours)
                break
        published[key] = value
    if family == "vit":  # the pyramid is ours: no published file has one
        published = {key: value for key, value in published.items() if not key.startswith("pyramid.")}
    target.load_state_dict(published)
    own, given = target.state_dict(), source.state_dict()
    assert all(torch.equal(own[key], given[key]) for key in own if not key.startswith("pyramid."))


def test_own_checkpoints_load_again(case):
    model, other = full_model(case), full_model(case)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    other.load_state_dict(model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_own_checkpoints_may_leave_clip_out(case):
    model, other = full_model(case), full_model(case)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    parts = ("proposals.", "void_embedding.")
    other.load_state_dict({key: value for key, value in model.state_dict().items() if key.startswith(parts)})
    for (name, given), got in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(given, got) == name.startswith(parts)
    with pytest.raises(ValueError, match=r"\d+ missing \(proposals"):
        other.load_state_dict({"proposals.predictor.logit_scale": torch.zeros(())})


def test_a_published_file_is_taken_apart(case):
    state = published_state(case) | {"criterion.empty_weight": torch.ones(5)}
    parts = split_published(state)
    assert is_published(state)
    assert not is_published({"visual.conv1.weight": torch.zeros(1)})
    assert set(parts.ignored) == {"criterion.empty_weight"}
    assert set(parts.parts) == {"proposals.", "void_embedding."}
    assert len(parts.clip) + len(parts.own) + 1 == len(state)


def test_new_weights_drop_the_text_of_the_old_ones(case):
    model = full_model(case)
    before = model.text_embeddings.rows.clone()
    model.training_text()
    state = published_state(case)
    state[f"{CLIP_PREFIX}text_projection"] = state[f"{CLIP_PREFIX}text_projection"].flip(0)
    model.load_state_dict(state)
    assert not torch.allclose(model.text_embeddings.rows, before)
    assert not torch.allclose(model.training_text().rows[0], before[0])


def test_unknown_kinds_of_cases_are_named(case):
    import dataclasses

    other = dataclasses.replace(case, spec={**case.spec, "kind": "weather"})
    with pytest.raises(ValueError, match="'weather'.*full, head"):
        verify(other)
