"""DenseCLIP: settings that do not fit, what published checkpoints bring along, and the shipped configs."""

from collections import Counter
from pathlib import Path

import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.runner import Runner
from mmseg.registry import MODELS

from mmseg_plugins.api.segmenter import Segmenter
from tests.methods.denseclip_models import NAMES, batch, build, config

FOLDER = Path(__file__).parents[2] / "configs/denseclip"


def published(model, names):
    """Content of a file as the release writes it."""
    return {"meta": {"mmseg_version": "0.19.0", "CLASSES": tuple(names)}, "state_dict": model.state_dict()}


@pytest.mark.parametrize("way", ["runner", "segmenter"])
def test_class_names_of_a_published_checkpoint_become_the_models(tmp_path, way):
    names = ("floor", "street lamp", "cloud", "door")
    torch.save(published(build("vit16", seed=1, names=names), names), tmp_path / "published.pth")
    settings = {"model": config("vit16"), "default_scope": "mmseg"}
    if way == "segmenter":
        model = Segmenter.from_config(Config(settings), tmp_path / "published.pth", device="cpu").model
    else:
        runner = Runner(
            **settings,
            work_dir=str(tmp_path),
            default_hooks={"published_classes": {"type": "PublishedClassesHook"}},
            load_from=str(tmp_path / "published.pth"),
            experiment_name=f"{tmp_path.name}",
        )
        runner.load_or_resume()
        model = runner.model.eval()
    expected = build("vit16", seed=1, names=names)
    assert model.vocabulary.class_names == names
    assert torch.equal(model.encode_classes(), expected.encode_classes())
    images, _ = batch()
    assert torch.equal(model.encode_decode(images), expected.encode_decode(images))


def test_published_names_of_another_data_set_are_refused():
    with pytest.raises(ValueError, match="trained for 3 classes, but this model has 4"):
        build("vit16").adopt_class_names({"meta": {"CLASSES": ("a", "b", "c")}})


def test_own_checkpoints_leave_the_names_alone():
    model = build("vit16")
    model.adopt_class_names({"meta": {"dataset_meta": {"classes": ("a", "b")}}})
    model.adopt_class_names({"state_dict": {}})
    assert model.vocabulary.class_names == NAMES


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decode_head": {"num_classes": 5}}, "decode_head.num_classes is 5, but class_names has 4 classes"),
        ({"identity_head": {"num_classes": 3}}, "identity_head.num_classes is 3"),
        ({"neck": {"in_channels": [32, 32, 32, 32]}}, r"in_channels is \[32, 32, 32, 32\].*has \[32, 32, 36, 32\]"),
        ({"text_dim": 64}, "one joint width.*text_dim 64, text_encoder.embed_dim 32"),
        ({"token_embed_dim": 8}, "transformer_width is 16"),
        ({"context_length": 9}, "leaves 0 learned contexts"),
        ({"context_feature": "backbone"}, "leaves the visual context undefined"),
        ({"predict_from": "text"}, "predict_from"),
        ({"tau": 0}, "tau"),
        ({"clip_pretrained": "a.pt", "pretrained": "b.pt"}, "mean the same"),
        ({"score_concat_index": 4}, "level from 0 to 3"),
        ({"class_names": "a, b; c; d; e"}, "one name for each class"),
        ({"test_cfg": {"mode": "slide"}}, "crop_size"),
        ({"backbone": {"out_indices": [0, 1, 2]}}, "expected 4 out_indices"),
        ({"backbone": {"out_indices": [0, 1, 2, 4]}}, "different blocks from 0 to 3"),
        ({"backbone": {"patch_size": 32}}, "patches of 8 and 16"),
        ({"context_decoder": {"transformer_heads": 3}}, "cannot be divided into 3 heads"),
    ],
)  # fmt: skip
def test_mistakes_are_named_with_what_would_fit(changes, message):
    with pytest.raises(ValueError, match=message):
        build("vit16", **changes)


@pytest.mark.parametrize("part", ["backbone", "text_encoder", "context_decoder", "identity_head", None])
def test_unknown_settings_are_errors(part):
    changes = {"style": "pytorch"} if part is None else {part: {"surprise": 1}}
    with pytest.raises(TypeError, match="style|surprise"):
        build("vit16", **changes)


# --- shipped configs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_configs_agree_on_classes_and_windows(path):
    model = Config.fromfile(path).model
    channels = model.neck.in_channels
    if model.get("score_concat_index") is not None:
        scores = channels[model.score_concat_index] - model.decode_head.num_classes
        assert scores > 0
        assert model.identity_head.num_classes == model.decode_head.num_classes
        assert model.text_encoder.embed_dim == model.text_dim == model.context_decoder.visual_dim
    if model.test_cfg.mode == "slide":
        assert tuple(model.test_cfg.crop_size) == tuple(model.data_preprocessor.size)


def test_metafile_names_configs_that_exist_with_both_published_figures():
    content = yaml.safe_load((FOLDER / "metafile.yml").read_text(encoding="utf-8"))
    page = (FOLDER.parents[1] / "docs/denseclip.md").read_text(encoding="utf-8")
    for entry in content["Models"]:
        metrics = entry["Results"][0]["Metrics"]
        assert (FOLDER.parents[1] / entry["Config"]).is_file()
        assert f"| `{entry['Name']}` | {metrics['mIoU']} | {metrics['mIoU(ms+flip)']} |" in page
    assert len(content["Models"]) == 6


def test_parameter_groups_are_those_of_the_release():
    """Learning rate and weight decay -> tensors, counted on the release for RN50."""
    config_ = Config.fromfile(FOLDER / "denseclip_fpn_r50_8xb4-80k_ade20k-512x512.py")
    model = MODELS.build({**config_.model, "freeze_text_encoder": False})
    groups = build_optim_wrapper(model, config_.optim_wrapper).optimizer.param_groups
    found = Counter((group["lr"], group["weight_decay"]) for group in groups for _ in group["params"])
    assert found == {(0.0, 1e-4): 149, (1e-5, 1e-4): 174, (1e-4, 0.0): 18, (1e-4, 1e-4): 97}
    assert len(model.state_dict()) == 624
