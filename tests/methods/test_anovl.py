from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

from mmseg_plugins.cases import Case, verify
from mmseg_plugins.methods.anovl.adaptation import TokenAdapter, adapt
from mmseg_plugins.methods.anovl.maps import abnormal_probability, augmented_views, enlarge_map, smooth_map
from mmseg_plugins.methods.anovl.model import AnoVL
from mmseg_plugins.methods.anovl.prompts import sentence_templates, state_embeddings, state_sentences
from mmseg_plugins.methods.anovl.segmentor import AnoVLSegmentor
from mmseg_plugins.towers.clip import build_clip
from mmseg_plugins.towers.config import ClipConfig

FIXTURE = Path(__file__).parent.parent / "fixtures" / "anovl" / "tiny.json"
CONFIG = Path(__file__).parents[2] / "configs/anovl/anovl_vit-b16-plus-240_folder-240x240.py"
NUMBERS = {
    "embed_dim": 16, "image_resolution": 32, "vision_layers": 3, "vision_width": 32, "vision_patch_size": 8,
    "vision_heads": 4,
}  # fmt: skip


def anovl(**options):
    torch.manual_seed(0)
    model = AnoVL(build_clip(ClipConfig.from_openai_numbers(NUMBERS), text=False), **options)
    model.set_sentences(torch.randn(2, 5, 16))
    return model.eval()


@pytest.mark.parametrize("wrapper", [None, "state_dict"])
def test_reference_case_agrees(wrapper):
    case = Case.load(FIXTURE)
    for role in ("clip", "adapter"):
        case.spec["files"][role]["wrapper"] = wrapper
    results = verify(case)
    assert results
    assert [result for result in results if not result.passed] == []


@pytest.mark.parametrize("name", ["bottle", "carpet"])
def test_66_sentences_for_each_of_seven_states(name):
    templates = sentence_templates(name)
    assert len(set(templates)) == len(templates) == 66
    normal, abnormal = state_sentences(name)
    assert len(normal) == len(abnormal) == 462
    assert all(name in sentence for sentence in normal + abnormal)


def test_textures_have_domains_of_their_own():
    assert "a cropped industrial photo of a {}." in sentence_templates("bottle")
    assert "a manufacturing image of the {} for visual inspection." in sentence_templates("bottle")
    assert "an industrial photo of a small {}." in sentence_templates("bottle")
    assert "a textural photo of the {}." in sentence_templates("wood")


def test_numbers_at_the_end_of_a_name_are_dropped():
    assert state_sentences("macaroni1") == state_sentences("macaroni2") == state_sentences("macaroni")


def test_states_are_means_of_sentences_as_they_are():
    sentences = torch.randn(2, 5, 8) * torch.arange(1, 6)[:, None]
    torch.testing.assert_close(state_embeddings(sentences)[1], F.normalize(sentences[1].mean(0), dim=0))


def test_only_the_direction_of_a_token_counts():
    states, tokens = F.normalize(torch.randn(2, 8), dim=1), torch.randn(4, 8)
    probability = abnormal_probability(tokens, states)
    cosines = torch.stack([F.cosine_similarity(tokens, state[None]) for state in states])
    torch.testing.assert_close(probability, cosines.softmax(0)[1])
    torch.testing.assert_close(abnormal_probability(7 * tokens, states), probability)


def test_smoothing_repeats_the_border():
    values = torch.arange(12.0).view(1, 3, 4)
    padded = F.pad(values[:, None], (1, 1, 1, 1), mode="replicate")[0, 0]
    expected = torch.stack([torch.stack([padded[y : y + 3, x : x + 3].mean() for x in range(4)]) for y in range(3)])
    torch.testing.assert_close(smooth_map(values)[0], expected)
    corners = enlarge_map(values, (9, 13))[0]
    assert (corners[0, 0], corners[-1, -1]) == (0, 11)


def test_22_views_begin_with_the_image():
    image = torch.rand(3, 16, 24)
    views = list(augmented_views(image))
    assert len(views) == 22
    assert torch.equal(views[0], image)
    assert all(torch.isfinite(view).all() and view.shape[0] == 3 for view in views)
    assert torch.equal(views[17], image.flip(2))
    assert views[19].shape == (3, 24, 16)


def test_adapter_equals_its_equation_and_learns():
    torch.manual_seed(0)
    sentences, tokens = F.normalize(torch.randn(6, 8), dim=1), torch.randn(5, 8)
    adapter = TokenAdapter(sentences)
    unit = tokens / tokens.norm(dim=1, keepdim=True)
    expected = 0.5 * tokens + 0.5 * torch.tanh(unit @ adapter.ad.weight.T + adapter.ad.bias) @ sentences
    torch.testing.assert_close(adapter(tokens), expected)
    noise = [torch.zeros(5, 8)] * 60
    losses = adapt(adapter, tokens, F.normalize(torch.randn(2, 8), dim=1), noise, lr=0.01)
    assert losses[-1] < losses[0]


def test_a_batch_gives_what_its_images_give():
    model, images = anovl(), torch.randn(3, 3, 32, 40)
    together = model(images)
    alone = [model(image[None]) for image in images]
    assert together.maps.shape == (3, 32, 40)
    torch.testing.assert_close(together.maps, torch.cat([one.maps for one in alone]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(together.scores, torch.cat([one.scores for one in alone]), atol=1e-5, rtol=1e-5)


def test_adaptation_repeats_with_the_same_noise_and_start():
    model, tokens = anovl(adapted=True), torch.randn(16, 16)
    results = []
    for _ in range(2):
        torch.manual_seed(3)
        results.append(model.adapt_tokens(tokens, generator=torch.Generator().manual_seed(1)))
    assert torch.equal(*results)
    assert model(torch.randn(1, 3, 32, 32)).maps.shape == (1, 32, 32)


def test_states_must_be_chosen_first_and_towers_fit():
    model = AnoVL(build_clip(ClipConfig.from_openai_numbers(NUMBERS), text=False))
    with pytest.raises(ValueError, match="set_class"):
        _ = model.states
    with pytest.raises(ValueError, match="another tower"):
        AnoVL(build_clip("RN50", text=False))


def test_words_of_the_embedded_model_are_encoded():
    model = AnoVL(build_clip("shapesworld"))
    model.set_class("grid")
    assert model.sentences.shape == (2, 462, 96)


class Words:
    """Stands for the text tower's encoding: every sentence has a vector of its own."""

    def __call__(self, _tower, name):
        generator = torch.Generator().manual_seed(len(name))
        return torch.randn(2, 462, 16, generator=generator)


@pytest.fixture
def segmentor(monkeypatch):
    monkeypatch.setattr("mmseg_plugins.methods.anovl.segmentor.encode_states", Words())
    clip = {"model": ClipConfig.from_openai_numbers(NUMBERS), "text": False}

    def build(**options):
        torch.manual_seed(0)
        return AnoVLSegmentor(clip=clip, text_cache=False, **{"class_name": "bottle", **options}).eval()

    return build


def test_segmentor_gives_the_methods_maps(segmentor):
    model, images = segmentor(test_cfg={"keep_logits": True}, image_score=True), torch.randn(2, 3, 32, 40)
    samples = model.predict(images, [SegDataSample(metainfo={"ori_shape": (32, 40)}) for _ in images])
    plain = AnoVL(model.clip)
    plain.set_sentences(Words()(None, "bottle"))
    expected = plain(images)
    for sample, one, score in zip(samples, expected.maps, expected.scores, strict=True):
        torch.testing.assert_close(sample.seg_logits.data, torch.stack([1 - one, one]), atol=1e-6, rtol=1e-5)
        assert torch.equal(sample.pred_sem_seg.data[0], (one > 0.5).long())
        assert sample.metainfo["anomaly_score"] == pytest.approx(float(score), abs=1e-6)


def test_padding_of_the_batch_does_not_count(segmentor):
    model, image = segmentor(image_score=True), torch.randn(1, 3, 32, 40)
    padded = SegDataSample(metainfo={"ori_shape": (32, 40), "padding_size": (0, 8, 0, 16)})
    inside = model.predict(F.pad(image, (0, 8, 0, 16)), [padded])[0]
    alone = model.predict(image, [SegDataSample(metainfo={"ori_shape": (32, 40)})])[0]
    assert torch.equal(inside.pred_sem_seg.data, alone.pred_sem_seg.data)
    assert inside.metainfo["anomaly_score"] == pytest.approx(alone.metainfo["anomaly_score"], abs=1e-6)


def test_threshold_moves_pixels_to_normal(segmentor):
    images = torch.randn(1, 3, 32, 32)
    plain = segmentor(test_cfg={"keep_logits": True}).predict(images)[0]
    damaged = plain.seg_logits.data[1]
    threshold = max(float(damaged.median()), 0.501)
    labels = segmentor(threshold=threshold).predict(images)[0].pred_sem_seg.data[0]
    assert torch.equal(labels, (damaged >= threshold).long())
    with pytest.raises(ValueError, match=r"\[0\.5, 1\]"):
        segmentor(threshold=0.4)


def test_another_class_has_other_words(segmentor):
    model, images = segmentor(test_cfg={"keep_logits": True}), torch.randn(1, 3, 32, 32)
    before = model.predict(images)[0].seg_logits.data
    assert model.vocabulary.prompts[0][0] == "normal bottle"
    model.set_class("wood")
    assert model.vocabulary.prompts[1][-1] == "wood with damage"
    assert not torch.equal(before, model.predict(images)[0].seg_logits.data)


def test_adapted_segmentor_trains_its_adapter_without_touching_the_towers(segmentor):
    model, images = segmentor(adapted=True), torch.randn(2, 3, 32, 32)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert model.predict(images)[0].pred_sem_seg.data.shape == (1, 32, 32)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_config_builds_the_published_model():
    config = Config.fromfile(CONFIG)
    init_default_scope("mmseg")
    model = MODELS.build(config.model)
    assert isinstance(model, AnoVLSegmentor)
    assert (model.clip.visual.width, model.clip.visual.stride, len(model.clip.visual.blocks)) == (896, 16, 12)
    assert model.dataset_meta["classes"] == ("normal", "damaged")
