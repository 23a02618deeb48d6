import pytest
import torch

from mmseg_plugins.towers.config import ClipConfig, TextConfig, VisionConfig
from mmseg_plugins.towers.files import write_safetensors
from mmseg_plugins.towers.loading import clip_state, load_clip_weights
from mmseg_plugins.towers.model import Clip
from tests.towers.published import openai_layout

_CONFIG = ClipConfig(
    name="small",
    embed_dim=12,
    vision=VisionConfig(image_size=(16, 16), width=16, layers=1, heads=2, patch=8),
    text=TextConfig(width=16, heads=2, layers=1, vocab_size=300),
)


@pytest.fixture
def clip(draw):
    return draw(Clip(_CONFIG), seed=1).eval()


@pytest.fixture
def state(draw):
    return openai_layout(draw(Clip(_CONFIG), seed=2))


def assert_filled(clip, state):
    for key, value in openai_layout(clip).items():
        torch.testing.assert_close(value, state[key].float())


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "model_state_dict"])
def test_trainer_wrappers_and_half_precision_are_taken_off(clip, state, wrapper, tmp_path):
    half = {f"module.{key}": value.half() for key, value in state.items()}
    torch.save({wrapper: half, "epoch": 3}, tmp_path / "weights.pth")
    assert load_clip_weights(clip, tmp_path / "weights.pth") == ("image", "text", "logits")
    assert_filled(clip, {key: value.half() for key, value in state.items()})


def test_numbers_beside_the_weights_are_ignored(clip, state):
    extra = {name: torch.tensor(1) for name in ("input_resolution", "context_length", "vocab_size")}
    load_clip_weights(clip, state | extra | {"attn_mask": torch.zeros(77, 77)})
    assert_filled(clip, state)


def test_logit_scale_may_be_a_vector_of_one(clip, state):
    load_clip_weights(clip, state | {"logit_scale": torch.tensor([3.5])})
    assert clip.logit_scale.shape == ()
    assert float(clip.logit_scale) == 3.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("visual.proj"), r"1 missing \(visual\.proj\)"),
        (lambda state: state.update({"visual.extra": torch.zeros(1)}), r"1 unexpected \(visual\.extra\)"),
        (lambda state: state.update({"ln_final.bias": torch.zeros(3)}), r"ln_final\.bias: \(3,\) in the file, \(16,\)"),
        (lambda state: state.update({"decode_head.weight": torch.zeros(1)}), r"1 keys of no part.*decode_head\.weight"),
    ],
)
def test_nothing_is_loaded_when_a_key_does_not_fit(clip, state, change, message):
    before = {key: value.clone() for key, value in clip.state_dict().items()}
    change(state)
    with pytest.raises(ValueError, match=message):
        load_clip_weights(clip, state)
    for key, value in clip.state_dict().items():
        torch.testing.assert_close(value, before[key], atol=0, rtol=0)


def test_a_file_without_a_wanted_tower_is_refused_unless_partial(clip, state):
    visual = {key: value for key, value in state.items() if key.startswith("visual.")}
    with pytest.raises(ValueError, match=r"no weights of the text tower.*text=False"):
        load_clip_weights(clip, visual)
    assert load_clip_weights(clip, visual, partial=True) == ("image",)
    assert load_clip_weights(Clip(_CONFIG, text=False), visual) == ("image",)
    with pytest.raises(ValueError, match="no weights of the text tower"):
        load_clip_weights(Clip(_CONFIG, image=False), visual, partial=True)


def test_towers_that_the_model_lacks_are_left_out(state):
    image_only = Clip(_CONFIG, text=False)
    converted = clip_state(image_only, state)
    assert set(converted.parts) == {"visual.", "logit_"}
    assert not any(key.startswith("text.") for key in converted.tensors)


def test_a_table_of_known_rows_is_spread_over_the_vocabulary(clip, state):
    ids = torch.tensor([0, 7, 299])
    sparse = {key: value for key, value in state.items() if key != "token_embedding.weight"}
    sparse |= {"token_embedding.ids": ids, "token_embedding.rows": state["token_embedding.weight"][ids].half()}
    load_clip_weights(clip, sparse)
    assert clip.text.known_ids == {0, 7, 299}
    table = clip.text.token_embedding.weight
    torch.testing.assert_close(table[7], state["token_embedding.weight"][7].half().float())
    assert table[8].abs().sum() == 0
    load_clip_weights(clip, state)
    assert clip.text.known_ids is None
    with pytest.raises(ValueError, match=r"token_embedding\.ids does not give as many ids"):
        load_clip_weights(clip, sparse | {"token_embedding.ids": ids[:2]})


def test_counters_of_batch_norm_may_be_missing(draw):
    vision = VisionConfig(family="resnet", image_size=(32, 32), width=4, layers=(1, 1, 1, 1), heads=4)
    clip = Clip(ClipConfig(embed_dim=6, vision=vision), text=False)
    state = {key: value for key, value in clip.state_dict().items() if "num_batches" not in key}
    assert load_clip_weights(clip, state) == ("image", "logits")


def test_messages_name_the_file(clip, state, tmp_path):
    del state["visual.conv1.weight"]
    path = write_safetensors(tmp_path / "broken.safetensors", state)
    with pytest.raises(ValueError, match=r"broken\.safetensors"):
        load_clip_weights(clip, path)
    path = write_safetensors(tmp_path / "foreign.safetensors", {"stem.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"foreign\.safetensors.*no known CLIP file"):
        load_clip_weights(clip, path)
