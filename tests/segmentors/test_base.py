import pytest
import torch
from mmengine.runner.checkpoint import load_checkpoint
from mmseg.registry import MODELS

from mmseg_plugins.vocabulary.embed import TextEmbeddings
from tests.segmentors.conftest import NUMBERS, build_model


def test_published_file_loads_through_mmengine(model, openai_state, tmp_path):
    torch.save(openai_state, tmp_path / "clip.pt")
    load_checkpoint(model, str(tmp_path / "clip.pt"))
    torch.testing.assert_close(model.clip.visual.conv1.weight, openai_state["visual.conv1.weight"])
    torch.testing.assert_close(model.clip.text.ln_final.bias, openai_state["ln_final.bias"])


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "model_state_dict"])
def test_trainer_wrappers_are_opened(model, openai_state, tmp_path, wrapper):
    content = {"epoch": 3, wrapper: {f"module.{key}": value for key, value in openai_state.items()}}
    torch.save(content, tmp_path / "clip.pt")
    load_checkpoint(model, str(tmp_path / "clip.pt"))
    torch.testing.assert_close(model.clip.visual.proj, openai_state["visual.proj"])


def test_own_checkpoint_makes_the_round_trip(model, tmp_path):
    torch.save({"meta": {}, "state_dict": model.state_dict()}, tmp_path / "own.pth")
    other = build_model()
    for parameter in other.parameters():
        torch.nn.init.zeros_(parameter)
    load_checkpoint(other, str(tmp_path / "own.pth"))
    for key, value in model.state_dict().items():
        torch.testing.assert_close(other.state_dict()[key], value)


def break_missing(state):
    del state["visual.ln_post.weight"]


def break_unexpected(state):
    state["visual.surprise"] = torch.zeros(1)


def break_shape(state):
    state["visual.proj"] = torch.zeros(3, 3)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (break_missing, r"1 missing \(clip\.visual\.ln_post\.weight\)"),
        (break_unexpected, r"1 unexpected \(clip\.visual\.surprise\)"),
        (break_shape, r"clip\.visual\.proj: \(3, 3\) in the file, \(32, 16\) in the model"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_and_nothing_is_loaded(model, openai_state, break_it, message):
    before = {key: value.clone() for key, value in model.state_dict().items()}
    break_it(openai_state)
    with pytest.raises(ValueError, match=message):
        model.load_state_dict(openai_state)
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, before[key])


def test_checkpoint_of_another_method_is_refused(model):
    with pytest.raises(ValueError, match="of no known CLIP file"):
        model.load_state_dict(
            {"decode_head.conv_seg.weight": torch.zeros(19, 8, 1, 1), "backbone.stem.0.weight": torch.zeros(1)}
        )


def test_image_tower_alone_loads_and_leaves_the_text_tower(model, openai_state):
    before = model.clip.text.ln_final.weight.clone()
    model.load_state_dict({key: value for key, value in openai_state.items() if key.startswith("visual.")})
    torch.testing.assert_close(model.clip.visual.proj, openai_state["visual.proj"])
    torch.testing.assert_close(model.clip.text.ln_final.weight, before)


def test_vocabulary_is_swapped_without_rebuilding(model):
    assert (model.num_classes, model.out_channels) == (3, 3)
    assert model.dataset_meta["classes"] == ("cat", "dog", "sky")
    rows = model.text_embeddings.rows
    model.set_vocabulary("cat; tree")
    assert model.dataset_meta["classes"] == ("cat", "tree")
    assert len(model.dataset_meta["palette"]) == model.out_channels == 2
    torch.testing.assert_close(model.text_embeddings.rows[0], rows[0])


def test_templates_stay_unless_they_are_given(model):
    model.set_vocabulary("cat")
    kept = model.text_embeddings.rows
    model.set_vocabulary("cat", templates=["not a {}."])
    assert not torch.allclose(model.text_embeddings.rows, kept)


def test_new_weights_make_new_text_embeddings(model, openai_state):
    before = model.text_embeddings.rows
    model.load_state_dict(openai_state)
    assert not torch.allclose(model.text_embeddings.rows, before)


def test_mmseg_cannot_overwrite_the_class_names(model):
    model.dataset_meta = {"classes": ["road"] * 19, "palette": [[0, 0, 0]] * 19}
    assert model.dataset_meta["classes"] == ("cat", "dog", "sky")


def test_text_embeddings_of_another_vocabulary_are_refused(model):
    with pytest.raises(ValueError, match="have 2 classes but the vocabulary has 3"):
        model.set_text_embeddings(TextEmbeddings(torch.eye(2, 16), torch.arange(2), 2))


def test_random_weights_are_warned_about(model, caplog):
    _ = model.text_embeddings
    assert "random weights" in caplog.text


def test_training_a_training_free_method_says_so(model):
    with pytest.raises(NotImplementedError, match=r"MaskCLIP has nothing to train.*tools/test\.py"):
        model(torch.zeros(1, 3, 32, 32), [], mode="loss")


def test_unknown_settings_are_refused():
    with pytest.raises(ValueError, match="unknown test_cfg keys \\['crop'\\]"):
        build_model(test_cfg={"mode": "slide", "crop": (8, 8)})
    with pytest.raises(ValueError, match="clip=dict"):
        build_model(pretrained="file.pth")
    with pytest.raises(ValueError, match="align_corners"):
        build_model(align_corners=True)


def test_builds_from_the_registry_with_an_open_clip_name():
    config = {
        "type": "MaskCLIP", "clip": {"model": "RN50", "text": False}, "vocabulary": ["a", "b"], "pretrained": None,
        "train_cfg": None,
    }  # fmt: skip
    assert MODELS.build(config).clip.embed_dim == 1024


def test_weights_named_by_the_config_are_loaded_at_first_use(model, openai_state, tmp_path):
    from mmseg_plugins.towers.config import ClipConfig

    torch.save(openai_state, tmp_path / "clip.pt")
    config = ClipConfig.from_openai_numbers(NUMBERS, vision_heads=2)
    lazy = build_model()
    lazy = type(lazy)(
        clip={"model": config, "pretrained": str(tmp_path / "clip.pt")}, vocabulary=["cat"], text_cache=False
    ).eval()
    assert not torch.allclose(lazy.clip.visual.proj, openai_state["visual.proj"])
    _ = lazy.extract_feat(torch.zeros(1, 3, 32, 32))
    torch.testing.assert_close(lazy.clip.visual.proj, openai_state["visual.proj"])
