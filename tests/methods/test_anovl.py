from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from mmseg_plugins.cases import Case, verify
from mmseg_plugins.methods.anovl.adaptation import TokenAdapter, adapt
from mmseg_plugins.methods.anovl.maps import abnormal_probability, augmented_views, enlarge_map, smooth_map
from mmseg_plugins.methods.anovl.model import AnoVL
from mmseg_plugins.methods.anovl.prompts import sentence_templates, state_embeddings, state_sentences
from mmseg_plugins.towers.clip import build_clip
from mmseg_plugins.towers.config import ClipConfig

FIXTURE = Path(__file__).parent.parent / "fixtures" / "anovl" / "tiny.json"
NUMBERS = {
    "embed_dim": 16, "image_resolution": 32, "vision_layers": 3, "vision_width": 32, "vision_patch_size": 8,
    "vision_heads": 4,
}  # fmt: skip


def anovl(**options):
    torch.manual_seed(0)
    model = AnoVL(build_clip(ClipConfig.from_openai_numbers(NUMBERS), text=False), **options)
    model.set_sentences(torch.randn(2, 5, 16))
    return model.eval()


def test_reference_case_agrees():
    results = verify(Case.load(FIXTURE))
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
