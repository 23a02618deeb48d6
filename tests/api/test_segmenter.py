import subprocess
import sys

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from mmseg_plugins.api.configs import find_config
from mmseg_plugins.api.segmenter import Segmenter, choose_device

from .conftest import WORDS

SHAPES = "maskclip_shapes-vit_shapesworld-64x64"


def test_five_lines_for_a_newcomer(tmp_path):
    """The README's example, in a process of its own."""
    picture = find_config(SHAPES).parents[2] / "mmseg_plugins" / "assets" / "demo" / "shapes.png"
    lines = [
        "from mmseg_plugins import Segmenter",
        "segmenter = Segmenter.from_pretrained('maskclip-shapes')",
        f"result = segmenter.segment({str(picture)!r}, 'red striped thing; grass; sand')",
        "result.save('out.png')",
        "print(result.legend)",
    ]
    command = [sys.executable, "-c", "\n".join(lines)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "grass" in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"out.png", "out.labels.png", "out.json"}


def test_bundled_picture_is_named(segmenter):
    from mmseg_plugins.assets import __file__ as assets

    path = assets.replace("__init__.py", "demo/shapes.png")
    result = segmenter.segment(path, "shapesworld_38")
    shares = {area.name: area.share for area in result.legend}
    assert result.labels.shape == np.asarray(Image.open(path)).shape[:2]
    assert {"water", "snow"} <= set(shares)
    assert 0.99 < sum(shares.values()) < 1.01


def test_all_sources_give_the_same_labels(segmenter, picture):
    array = np.asarray(Image.open(picture))
    tensor = torch.tensor(array).permute(2, 0, 1)
    expected = segmenter.segment(picture, WORDS).labels
    for source in (str(picture), picture.read_bytes(), Image.open(picture), array, tensor, tensor / 255):
        assert np.array_equal(segmenter.segment(source).labels, expected)


def test_result_equals_mmsegs_way_from_the_same_config(segmenter, picture):
    from mmseg.apis import inference_model, init_model

    model = init_model(str(find_config(SHAPES)), device="cpu")
    model.set_vocabulary(WORDS)
    expected = inference_model(model, str(picture)).pred_sem_seg.data[0].numpy()
    assert np.array_equal(segmenter.segment(picture, WORDS).labels, expected)


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (3000, 1), (7, 300)])
def test_extreme_pictures_keep_their_size(segmenter, size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    assert segmenter.segment(image, WORDS).labels.shape == size


def test_words_can_be_swapped_and_stay(segmenter, picture):
    first = segmenter.segment(picture, "grass; sand")
    assert first.class_names == ("grass", "sand")
    assert segmenter.segment(picture).class_names == ("grass", "sand")
    assert segmenter.segment(picture, ["snow", "water", "wood"]).class_names == ("snow", "water", "wood")
    assert np.array_equal(segmenter.segment(picture, "grass; sand").labels, first.labels)


def test_background_by_threshold(segmenter, picture):
    sure = segmenter.segment(picture, WORDS, background=0.001)
    unsure = segmenter.segment(picture, WORDS, background=0.999)
    assert sure.background_index == unsure.background_index == 0
    assert sure.class_names[0] == "background"
    assert (unsure.labels == 0).sum() > (sure.labels == 0).sum()


def test_same_words_are_encoded_once(segmenter, picture, monkeypatch):
    segmenter.set_vocabulary(WORDS)
    calls = []
    monkeypatch.setattr(type(segmenter.model), "set_vocabulary", lambda self, *rest, **options: calls.append(rest))
    segmenter.segment(picture, WORDS)
    assert calls == []


def test_two_thousand_classes_fit_16_bits(segmenter, picture):
    names = [f"red thing {n}" for n in range(2000)]
    result = segmenter.segment(picture, names, templates=["{}"])
    assert result.labels.dtype == np.uint16
    assert len(result.class_names) == len(result.palette) == 2000


@pytest.mark.parametrize("words", ["", "  ", [], "cat;;dog"])
def test_unusable_words_are_errors_and_the_old_ones_stay(segmenter, picture, words):
    segmenter.set_vocabulary(WORDS)
    with pytest.raises(ValueError, match=r"name|class|empty"):
        segmenter.segment(picture, words)
    assert segmenter.segment(picture).class_names == tuple(WORDS.split("; "))


def test_reduced_precision_gives_nearly_the_same(segmenter, picture):
    half = Segmenter.from_pretrained("maskclip-shapes", device="cpu", dtype="bfloat16")
    image = np.asarray(Image.open(picture).resize((96, 96)))
    same = (half.segment(image, WORDS).labels == segmenter.segment(image, WORDS).labels).mean()
    assert same > 0.9, "bfloat16 keeps 8 bits, so only close calls may differ"


def test_checkpoint_and_options(tmp_path, segmenter, picture):
    torch.save({"state_dict": segmenter.model.state_dict()}, tmp_path / "model.pth")
    again = Segmenter.from_config(SHAPES, tmp_path / "model.pth", device="cpu", options={"model.pd_thresh": 0.1})
    assert again.model.pd_thresh == 0.1
    assert str(tmp_path) in again.describe()
    again.model.pd_thresh = 0.0
    assert np.array_equal(again.segment(picture, WORDS).labels, segmenter.segment(picture, WORDS).labels)


class Bomb:
    def __reduce__(self):
        return (open, ("bomb_went_off", "w"))


def test_bad_checkpoints_are_refused_and_nothing_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"backbone.weight": torch.zeros(3)}}, "other.pth")
    torch.save({"state_dict": {"a": torch.zeros(999)}}, "cut.pth")
    content = (tmp_path / "cut.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(content[: len(content) // 2])
    torch.save({"state_dict": {"a": Bomb()}}, "bomb.pth")
    (tmp_path / "text.pth").write_text("hello")
    for name in ("other.pth", "cut.pth", "bomb.pth", "text.pth"):
        with pytest.raises((ValueError, KeyError, RuntimeError)) as caught:
            Segmenter.from_config(SHAPES, name, device="cpu")
        assert name in str(caught.value)
    assert not (tmp_path / "bomb_went_off").exists()
    with pytest.raises(FileNotFoundError, match="nothing.pth does not exist"):
        Segmenter.from_config(SHAPES, "nothing.pth", device="cpu")


def test_models_with_fixed_classes_run_but_take_no_words(picture):
    """Any mmseg segmentor works through its config, here one with a two-class head."""
    config = Config(
        {
            "model": {
                "type": "EncoderDecoder",
                "data_preprocessor": {"type": "SegDataPreProcessor", "mean": [0] * 3, "std": [255] * 3},
                "backbone": {"type": "ResNetV1c", "depth": 18, "num_stages": 1, "strides": (1,), "dilations": (1,),
                             "out_indices": (0,), "base_channels": 8},
                "decode_head": {"type": "FCNHead", "in_channels": 8, "in_index": 0, "channels": 4, "num_convs": 1,
                                "num_classes": 2, "norm_cfg": {"type": "BN"}},
                "test_cfg": {"mode": "whole"},
            }
        }
    )  # fmt: skip
    made = Segmenter.from_config(config, device="cpu")
    with pytest.raises(ValueError, match="dataset_meta"):
        made.segment(picture)
    made.model.dataset_meta = {"classes": ("a", "b")}
    assert made.segment(picture).class_names == ("a", "b")
    with pytest.raises(TypeError, match="fixed set of classes"):
        made.segment(picture, "cat; dog")


@pytest.mark.parametrize(("name", "message"), [("tpu9", "unknown device"), ("cuda:99", "not on this machine")])
def test_devices_that_do_not_exist_are_named(name, message):
    with pytest.raises(ValueError, match=message):
        choose_device(name)


def test_other_wrong_arguments_are_named(tmp_path):
    with pytest.raises(ValueError, match="dtype to be one of"):
        Segmenter.from_pretrained("maskclip-shapes", dtype="int8")
    (tmp_path / "empty.py").write_text("a = 1")
    with pytest.raises(ValueError, match="has no 'model'"):
        Segmenter.from_config(tmp_path / "empty.py")
    for name, content, reason in (("cut.py", "a = (", "SyntaxError"), ("notes.txt", "a = 1", "Only py")):
        (tmp_path / name).write_text(content)
        with pytest.raises(
            ValueError, match=rf"config .*{name} cannot be read \(.*{reason}.* Expected an mmseg config"
        ):
            Segmenter.from_config(tmp_path / name)
    with pytest.raises(KeyError, match="Available: maskclip-shapes"):
        Segmenter.from_pretrained("nothing")
