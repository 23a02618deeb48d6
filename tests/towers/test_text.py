import logging
from dataclasses import replace

import pytest
import torch

from mmseg_plugins.towers.config import TextConfig
from mmseg_plugins.towers.position import stretch_positions
from mmseg_plugins.towers.text import TextTower

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
_CONFIG = TextConfig(width=16, heads=2, layers=2)


@pytest.fixture
def tower(draw):
    return draw(TextTower(_CONFIG, embed_dim=6)).eval()


def test_a_causal_tower_gives_the_same_at_the_length_of_the_longest_prompt(tower):
    tokens = tower.tokenize(["a cat", "a photo of a very small dog in the snow", ""])
    longest = int((tokens != 0).sum(1).max())
    assert longest < 20
    torch.testing.assert_close(tower.encode_tokens(tokens[:, :longest]), tower.encode_tokens(tokens), **CLOSE)


def test_a_tower_that_sees_padding_needs_the_full_length(draw):
    tower = draw(TextTower(replace(_CONFIG, is_causal=False, pool="last"), embed_dim=6)).eval()
    tokens = torch.zeros(2, 77, dtype=torch.long)
    assert tower.encode_tokens(tokens).shape == (2, 6)
    with pytest.raises(ValueError, match=r"exactly 77 \(it is not causal"):
        tower.encode_tokens(tokens[:, :20])


def test_prompts_beyond_the_context_are_refused(tower):
    with pytest.raises(ValueError, match="at most 77"):
        tower.encode_tokens(torch.zeros(1, 78, dtype=torch.long))
    with pytest.raises(ValueError, match="102 tokens, but this text tower reads 77"):
        tower.tokenize(["cat " * 100])


def test_what_follows_the_end_of_text_does_not_count(tower):
    tokens = tower.tokenize(["a cat"])
    changed = tokens.clone()
    changed[0, 10:] = 5
    torch.testing.assert_close(tower.encode_tokens(changed), tower.encode_tokens(tokens))


def test_embedded_prompts_give_what_their_tokens_give(tower):
    tokens = tower.tokenize(["a cat", "two dogs"])[:, :9]
    embedded = tower.token_embedding(tokens)
    torch.testing.assert_close(tower.encode_embedded(embedded, tokens), tower.encode_tokens(tokens))


def test_long_clip_takes_its_positions_from_two_tables(draw):
    config = replace(_CONFIG, context_length=40, kept_positions=20)
    tower = draw(TextTower(config, embed_dim=6)).eval()
    positions = tower.positions(30)
    torch.testing.assert_close(positions[:20], tower.positional_embedding[:20])
    torch.testing.assert_close(positions[20:], tower.positional_embedding_res[20:30])
    single = draw(TextTower(replace(config, kept_positions=0), embed_dim=6)).eval()
    single.load_state_dict(
        {key: value for key, value in tower.state_dict().items() if key != "positional_embedding_res"}
        | {"positional_embedding": tower.positions(40)}
    )
    tokens = tower.tokenize(["one two three " * 10])
    torch.testing.assert_close(tower.encode_tokens(tokens), single.encode_tokens(tokens), **CLOSE)


def test_stretched_positions_follow_the_published_formula():
    table = torch.randn(77, 3)
    rows = [table[index] for index in range(20)]
    for index in range(20, 76):
        rows += [((4 - step) * table[index] + step * table[index + 1]) / 4 for step in range(4)]
    rows += [table[76] + step * (table[76] - table[75]) / 4 for step in range(4)]
    torch.testing.assert_close(stretch_positions(table), torch.stack(rows), **CLOSE)
    assert len(rows) == 248
    with pytest.raises(ValueError, match="cannot keep 20"):
        stretch_positions(table[:20])


def test_unknown_words_are_warned_about_once(tower, caplog):
    caplog.set_level(logging.WARNING)
    tower.set_known_ids(tower.tokenize(["a red cat, a dog."]).unique().tolist())
    tower.tokenize(["a red dog", "a dog."])
    assert not caplog.records
    tower.tokenize(["a red zebra", "a zebra and a cat"])
    assert len(caplog.records) == 1
    assert "'zebra'" in caplog.text
    assert "'and'" in caplog.text
    tower.tokenize(["a zebra"])
    assert len(caplog.records) == 1
    assert tower.unknown_words("Zebra, cat") == ["Zebra"]
    tower.set_known_ids(None)
    assert tower.unknown_words("zebra") == []


def test_the_warning_about_unknown_words_stays_short(tower, caplog):
    caplog.set_level(logging.WARNING)
    tower.set_known_ids(tower.tokenize(["a"]).unique().tolist())
    tower.tokenize([str(number) for number in range(1000, 2000)])
    assert len(caplog.records) == 1
    assert "'1009' and 990 more words" in caplog.text
    assert "'1010'" not in caplog.text


def test_fingerprint_names_weights_and_tokeniser(tower, draw):
    fingerprint = tower.fingerprint()
    assert fingerprint == tower.fingerprint()
    assert fingerprint == draw(TextTower(_CONFIG, embed_dim=6)).fingerprint()
    other = draw(TextTower(replace(_CONFIG, tokenizer="other"), embed_dim=6))
    assert other.fingerprint() != fingerprint
    tower.ln_final.bias[0] += 1
    assert tower.fingerprint() != fingerprint


def test_fingerprint_does_not_build_the_tokeniser(tower):
    tower.fingerprint()
    assert tower._tokenizer is None


@torch.enable_grad()
def test_gradients_reach_embedded_prompts(tower):
    tokens = tower.tokenize(["a cat"])
    embedded = tower.token_embedding(tokens).detach().requires_grad_(True)
    tower.encode_embedded(embedded, tokens).sum().backward()
    end = int(tokens.argmax())
    assert embedded.grad[0, : end + 1].abs().sum() > 0
    assert embedded.grad[0, end + 1 :].abs().sum() == 0
