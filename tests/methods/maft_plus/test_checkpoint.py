import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner.checkpoint import load_checkpoint
from mmseg.registry import MODELS

import mmseg_plugins.register  # noqa: F401
from mmseg_plugins.cases import Case
from mmseg_plugins.methods.fcclip.model import FCCLIP
from mmseg_plugins.methods.maft_plus.checkpoint import decide_variant, to_published_layout
from mmseg_plugins.methods.maft_plus.whole_cases import build_model, clip_config, empty_model, head_config
from mmseg_plugins.towers.clip import Clip
from tests.methods.maft_plus.shapes_models import batch

ROOT = Path(__file__).parents[3]
FIXTURES = ROOT / "tests/fixtures/maft_plus"
CASE = Case.load(FIXTURES / "e2e_semantic.json")
TEACHER = "backbone_t.clip_model."
FILES = {"base_semantic": "maftp_b.pth", "large_semantic": "maftp_l.pth", "large_panoptic": "maftp_l_pano.pth"}
CONFIGS = {
    "base_semantic": "maftp_convnext-b_8xb1-60k_coco-stuff164k-800x1333",
    "large_semantic": "maftp_convnext-l_8xb1-55k_coco-stuff164k-800x1333",
    "large_panoptic": "maftp_convnext-l_8xb1-55k_coco-panoptic-1024x1024",
}


def published():
    """The file without its frozen copy of CLIP."""
    return {k: v for k, v in CASE.file_content("checkpoint")["model"].items() if not k.startswith(TEACHER)}


def with_teacher(content):
    """Add a frozen copy whose every number differs from the student's."""
    clip = "backbone.clip_model."
    copy = {TEACHER + key.removeprefix(clip): value + 1 for key, value in content.items() if key.startswith(clip)}
    return {**content, **copy}


def written(folder, content, name="file.pth"):
    path = folder / name
    torch.save(content, path)
    return str(path)


def same(first, second):
    return all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("wrapper", [None, "model", "state_dict"])
def test_files_load_with_and_without_a_wrapper(tmp_path, wrapper):
    content = published()
    model = empty_model(CASE)
    load_checkpoint(model, written(tmp_path, {wrapper: content} if wrapper else content), logger="silent")
    assert torch.equal(model.void_embedding.weight, content["void_embedding.weight"])
    assert same(build_model(CASE).state_dict(), model.state_dict())


def test_training_leftovers_are_never_needed_and_never_in_the_way(tmp_path):
    content = with_teacher({**published(), "criterion.empty_weight": torch.ones(4)})
    model = empty_model(CASE)
    load_checkpoint(model, written(tmp_path, {"model": content, "iteration": 7}), logger="silent")
    assert same(build_model(CASE).state_dict(), model.state_dict())


def test_the_frozen_copy_comes_from_the_file_where_the_model_keeps_one(tmp_path):
    model = empty_model(CASE, teacher=True)
    load_checkpoint(model, written(tmp_path, with_teacher(published())), logger="silent")
    for key, value in model.clip.visual.state_dict().items():
        assert torch.equal(model.teacher.visual.state_dict()[key], value + 1)


@pytest.mark.parametrize("keeps", [True, False])
def test_a_model_written_in_the_published_layout_is_the_file_it_came_from(keeps):
    content = with_teacher(published()) if keeps else published()
    del content["criterion.empty_weight"]
    model = empty_model(CASE, teacher=keeps)
    model.load_state_dict(dict(content))
    again = to_published_layout(model.state_dict())
    assert again.keys() == content.keys()
    assert all(torch.equal(again[key], content[key]) for key in content if not key.startswith(TEACHER))
    visual = [key for key in content if key.startswith(f"{TEACHER}visual.")]
    assert all(torch.equal(again[key], content[key]) for key in visual)


def test_a_tuned_trunk_without_its_original_is_not_taken_for_the_original():
    model = empty_model(CASE, teacher=True, original_share=0.5)
    model.load_state_dict(published())
    with pytest.raises(ValueError, match=r"clip=dict\(pretrained"):
        model.eval().predict(torch.zeros(1, 3, 64, 64))


@pytest.mark.parametrize("change", ["missing", "unexpected", "shape"])
def test_a_file_that_does_not_fit_is_named_and_nothing_is_loaded(change):
    content = published()
    key = "cdt.cross_atten.MLP.weight"
    if change == "missing":
        del content[key]
    elif change == "unexpected":
        content["cdt.cross_atten.extra"] = torch.zeros(1)
    else:
        content[key] = torch.zeros(3, 3)
    model = empty_model(CASE)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"cross_atten\.(MLP\.weight|extra)"):
        model.load_state_dict(content)
    assert same(before, model.state_dict())


def test_a_file_of_fcclip_switches_the_transfer_off_and_is_scored_as_fcclip_does():
    content = {key: value for key, value in published().items() if not key.startswith("cdt.")}
    model = empty_model(CASE)
    model.load_state_dict(content)
    assert not model.is_transferring
    reference = FCCLIP(
        clip={"model": clip_config(CASE.config["clip"])},
        vocabulary=model._vocabulary,
        train_vocabulary=model.train_vocabulary,
        proposals=head_config(CASE),
        text_cache=False,
    )
    reference.load_state_dict(content)
    image = torch.randn(1, 3, 96, 128)
    ours, theirs = (each.eval().predict(image)[0].pred_sem_seg.data for each in (model, reference))
    assert torch.equal(ours, theirs)
    model.load_state_dict(published())
    assert model.is_transferring
    assert model.scoring.rule == "void"


def test_the_decoder_of_a_file_of_fcclip_serves_as_a_frozen_generator():
    content = {key: value for key, value in published().items() if not key.startswith("cdt.")}
    model = empty_model(CASE, teacher=True, freeze_generator=True, generator_features="original")
    model.load_state_dict(content)
    inputs, samples = batch(2, classes=3, size=(96, 160))
    losses = model.train().loss(inputs, samples)
    assert set(losses) == {"loss_mask_aware", "loss_compensation"}
    assert model.is_transferring  # training uses the new transfer
    sum(losses.values()).backward()
    assert {name.partition(".")[0] for name, value in model.named_parameters() if value.grad is not None} == {
        "clip", "text_transfer"
    }  # fmt: skip
    assert same(model.clip.visual.state_dict(), model.teacher.visual.state_dict())


def test_clips_own_file_fills_the_trunk_and_its_copy():
    model = empty_model(CASE, teacher=True)
    clip = Clip(clip_config(CASE.config["clip"]))
    layout = {
        key.removeprefix("backbone.clip_model."): value
        for key, value in published().items()
        if key.startswith("backbone.clip_model.")
    }
    model.load_state_dict(layout)
    assert clip.visual.state_dict().keys() == model.teacher.visual.state_dict().keys()
    assert same(model.clip.visual.state_dict(), model.teacher.visual.state_dict())


# --- variant ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "variant"),
    [("maftp_b.pth", "semantic"), ("maftp_l.pth", "semantic"), ("maftp_l_pano.pth", "panoptic")],
)
def test_without_the_option_the_name_of_the_file_decides(tmp_path, name, variant):
    model = empty_model(CASE, variant=None)
    load_checkpoint(model, written(tmp_path, {"model": published()}, name), logger="silent")
    assert model.text_transfer.variant == variant
    assert model.text_transfer.token_order == "legacy"


def test_the_option_decides_over_the_name(tmp_path):
    model = empty_model(CASE, variant="semantic")
    load_checkpoint(model, written(tmp_path, published(), "maftp_l_pano.pth"), logger="silent")
    assert model.text_transfer.variant == "semantic"


def test_without_option_and_known_name_the_file_is_refused(tmp_path):
    model = empty_model(CASE, variant=None)
    for load in (model.load_state_dict, lambda content: load_checkpoint(model, written(tmp_path, content))):
        with pytest.raises(ValueError, match="variant='semantic' or variant='panoptic'"):
            load(published())
    assert not model.text_transfer.is_settled


@pytest.mark.parametrize(("classes", "variant"), [(172, "semantic"), (134, "panoptic")])
def test_training_classes_cross_check_the_variant(classes, variant):
    state = {"criterion.empty_weight": torch.ones(classes)}
    other = {"semantic": "panoptic", "panoptic": "semantic"}[variant]
    names = {"semantic": "maftp_l.pth", "panoptic": "maftp_l_pano.pth"}
    assert decide_variant(state, None, variant) == variant
    assert decide_variant(state, names[variant], None) == variant
    with pytest.raises(ValueError, match=f"Set variant='{variant}'"):
        decide_variant(state, None, other)
    with pytest.raises(ValueError, match="its name says"):
        decide_variant(state, names[other], None)
    with pytest.raises(ValueError, match=f"speak for '{variant}'"):
        decide_variant(state, "renamed.pth", None)


def test_a_checkpoint_trained_here_carries_variant_and_order(tmp_path):
    trained = empty_model(CASE, variant="panoptic", token_order="channels_last")
    path = written(tmp_path, {"state_dict": trained.state_dict(), "meta": {}})
    model = empty_model(CASE, variant=None)
    load_checkpoint(model, path, logger="silent")
    assert (model.text_transfer.variant, model.text_transfer.token_order) == ("panoptic", "channels_last")
    for option in ({"variant": "semantic"}, {"variant": None, "token_order": "legacy"}):
        with pytest.raises(ValueError, match=next(name for name, value in option.items() if value)):
            load_checkpoint(empty_model(CASE, **option), path, logger="silent")


@pytest.mark.parametrize("keeps", [True, False])
def test_checkpoints_load_whether_or_not_either_side_keeps_the_copy(keeps):
    saved = build_model(CASE, teacher=keeps).state_dict()
    for other in (True, False):
        model = empty_model(CASE, teacher=other)
        model.load_state_dict(dict(saved))
        assert same(saved, {**saved, **{k: v for k, v in model.state_dict().items() if not k.startswith("teacher.")}})


def test_a_checkpoint_that_leaves_clip_out_keeps_its_record_and_the_clip_that_is_there():
    saved = empty_model(CASE, variant="panoptic").state_dict()
    parts = {key: value for key, value in saved.items() if not key.startswith("clip.")}
    model = build_model(CASE, variant="panoptic")
    before = {name: value.clone() for name, value in model.clip.state_dict().items()}
    model.load_state_dict(dict(parts))
    assert same(before, model.clip.state_dict())
    assert same(parts, model.state_dict())
    with pytest.raises(ValueError, match="variant"):
        empty_model(CASE, variant="semantic").load_state_dict(dict(parts))


# --- full size -------------------------------------------------------------------------------------------------------


def full_size_file(folder, layout, name="file.pth"):
    """A file of full-size tensors, each of one number."""
    content = {key: torch.rand(()).expand(shape) for key, shape in layout.items()}
    return written(folder, {"model": content}, name)


@pytest.mark.filterwarnings("ignore:for .* copying from a non-meta:UserWarning")
@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_full_size_models_match_the_published_keys_and_what_of_them_trains(name, tmp_path):
    table = json.loads((FIXTURES / f"layouts/layout_{name}.json").read_text())
    init_default_scope("mmseg")
    config = Config.fromfile(ROOT / f"configs/maft_plus/{CONFIGS[name]}.py").model
    with torch.device("meta"):
        model = MODELS.build({**config, "token_order": None})
    # refuses missing, unexpected and wrongly shaped keys
    load_checkpoint(model, full_size_file(tmp_path, table["layout"], FILES[name]), logger="silent")
    assert model.text_transfer.token_order == "legacy"
    groups = {
        "clip": "backbone",
        "proposals": "sem_seg_head",
        "void_embedding": "void_embedding",
        "text_transfer": "cdt",
    }
    trained = dict.fromkeys(groups.values(), 0)
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            trained[groups[key.partition(".")[0]]] += parameter.numel()
    assert trained == table["trainable_by_group"]
    written = {key: list(value.shape) for key, value in to_published_layout(model.state_dict()).items()}
    assert written == {key: shape for key, shape in table["layout"].items() if not key.startswith("criterion.")}


@pytest.mark.filterwarnings("ignore:for .* copying from a non-meta:UserWarning")
def test_the_fine_tuned_clip_of_a_whole_file_names_masks_of_sam(tmp_path):
    table = json.loads((FIXTURES / "layouts/layout_large_panoptic.json").read_text())
    init_default_scope("mmseg")
    config = Config.fromfile(ROOT / "configs/maft_plus/maftp_sam-vit-h_convnext-l_ade20k-panoptic-800x1333.py").model
    with torch.device("meta"):
        model = MODELS.build(config)
    load_checkpoint(model, full_size_file(tmp_path, table["layout"]), logger="silent")
    assert model.is_transferring
    assert model.scoring.rule == "clip"
    assert not model.has_void
