import pytest
import torch

from mmseg_plugins.towers.config import TextConfig, VisionConfig
from mmseg_plugins.towers.prompts import (
    DeepPrompts,
    PromptLearner,
    PromptOptions,
    insert_contexts,
    prompted_tokens,
    word_vectors,
)
from mmseg_plugins.towers.text import TextTower
from mmseg_plugins.towers.vit import DenseViT

NAMES = ["cat", "traffic light", "chest of drawers"]


@pytest.fixture
def tower():
    torch.manual_seed(0)
    return TextTower(TextConfig(width=16, heads=2, layers=3, context_length=20), embed_dim=12).eval()


@pytest.fixture
def vit():
    torch.manual_seed(0)
    return DenseViT(VisionConfig(image_size=(32, 32), width=16, layers=3, heads=2, patch=8), embed_dim=12).eval()


@pytest.mark.parametrize("position", ["end", "middle", "front"])
def test_contexts_stand_where_a_plain_loop_puts_them(position):
    tokens = torch.tensor([[9, 1, 10, 0, 0], [9, 2, 3, 10, 0]])
    lengths, contexts = torch.tensor([1, 2]), torch.tensor([[[-1.0], [-2.0], [-3.0]]])
    vectors, ids = insert_contexts(tokens[..., None].float(), tokens, contexts, position=position, name_lengths=lengths)
    before = {"end": 3, "middle": 1, "front": 0}[position]
    rows = zip(tokens.tolist(), lengths.tolist(), vectors[..., 0].tolist(), ids.tolist(), strict=True)
    for row, length, values, found in rows:
        learned = [-1.0, -2.0, -3.0]
        expected = [row[0], *learned[:before], *row[1 : 1 + length], *learned[before:], *row[1 + length :]]
        assert values == expected
        assert found == [max(int(value), 0) for value in expected]


def test_contexts_that_are_word_vectors_give_the_embedding_of_the_words(tower):
    prompts = PromptLearner(4, 16)
    prompts.start_from(tower, "a photo of a")
    expected = tower.encode_tokens(tower.tokenize([f"a photo of a {name}." for name in NAMES]))
    torch.testing.assert_close(prompts.encode(tower, NAMES), expected)


@pytest.mark.parametrize(("position", "pattern"), [("front", "{} a photo of a."), ("middle", "a photo {} of a.")])
def test_positions_give_the_embedding_of_the_reordered_words(tower, position, pattern):
    prompts = PromptLearner(4, 16, position=position)
    prompts.start_from(tower, "a photo of a")
    expected = tower.encode_tokens(tower.tokenize([pattern.format(name) for name in NAMES]))
    torch.testing.assert_close(prompts.encode(tower, NAMES), expected)


def test_contexts_per_class_belong_to_their_class(tower):
    prompts = PromptLearner(2, 16, num_classes=3)
    together = prompts.encode(tower, NAMES)
    alone = PromptLearner(2, 16)
    alone.ctx.data.copy_(prompts.ctx[1])
    torch.testing.assert_close(together[1:2], alone.encode(tower, NAMES[1:2]))
    with pytest.raises(ValueError, match="belong to 3 classes, but 2 names"):
        prompts.encode(tower, NAMES[:2])


def test_deep_prompts_replace_the_contexts_in_front_of_the_blocks(tower):
    prompts = PromptLearner(2, 16, depth=3)
    tokens = tower.tokenize(["cat."])[:, :18]
    vectors, ids = insert_contexts(tower.token_embedding(tokens), tokens, prompts.ctx[None])
    x = vectors + tower.positional_embedding[:20]
    for index, block in enumerate(tower.transformer.resblocks):
        if index:
            x[:, 1:3] = prompts.compound_prompts_text[index - 1]
        x = block(x, is_causal=True)
    expected = tower.ln_final(x[torch.arange(1), ids.argmax(1)]) @ tower.text_projection
    torch.testing.assert_close(prompts.encode(tower, ["cat"]), expected)


def test_image_prompts_stand_behind_the_patches_without_positions(vit):
    torch.manual_seed(1)
    deep = DeepPrompts(2, 16, depth=2, image_width=16)
    contexts, image = torch.randn(2, 16), torch.randn(1, 3, 32, 24)
    prompts = deep.image_prompts(contexts)
    found, grid = prompted_tokens(vit, image, prompts)
    patches, _ = vit.embed_patches(image)
    x = torch.cat([vit.add_class_token(patches, vit.positions(grid)), vit.ln_pre(deep.proj(contexts))[None]], dim=1)
    for index, block in enumerate(vit.blocks):
        if index == 1:
            x[:, -2:] = deep.compound_prompt_projections[0](deep.compound_prompts_text[0])
        x = block(x)
    assert grid == (4, 3)
    torch.testing.assert_close(found, x[:, :-2])


def test_gradients_reach_the_prompts_through_a_frozen_tower(tower):
    tower.requires_grad_(False)
    prompts = PromptLearner(2, 16, depth=2)
    with torch.enable_grad():
        prompts.encode(tower, NAMES).sum().backward()
    assert prompts.ctx.grad.abs().sum() > 0
    assert prompts.compound_prompts_text[0].grad.abs().sum() > 0


def test_published_files_load_without_the_tokens_of_their_classes():
    source, target = (PromptLearner(2, 16, depth=3, image_width=24) for _ in range(2))
    state = {f"prompt_learner.{key}": value for key, value in source.state_dict().items()}
    state |= {
        "prompt_learner.token_prefix": torch.zeros(5, 1, 16),
        "prompt_learner.token_suffix": torch.zeros(5, 74, 16),
    }
    assert "prompt_learner.compound_prompts_text.1" in state
    assert "prompt_learner.compound_prompt_projections.1.bias" in state
    target.load_published(state)
    for key, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[key], value)
    del state["prompt_learner.ctx"]
    with pytest.raises(ValueError, match=r"1 missing \(ctx\)"):
        target.load_published(state)


def test_what_does_not_fit_is_said(tower):
    with pytest.raises(ValueError, match="takes 22 tokens, but this text tower reads 20"):
        PromptLearner(16, 16).encode(tower, ["chest of drawers"])
    with pytest.raises(ValueError, match="has 4 tokens, fewer than the 5 contexts"):
        word_vectors(tower, "a photo of a", 5)
    with pytest.raises(ValueError, match="name_lengths"):
        insert_contexts(torch.zeros(1, 3, 4), torch.zeros(1, 3), torch.zeros(1, 2, 4), position="front")


@pytest.mark.parametrize("options", [{"position": "back"}, {"depth": 0}, {"depth": 2, "position": "front"}])
def test_impossible_options_are_refused(options):
    with pytest.raises(ValueError, match="position|depth"):
        PromptOptions(**options)
