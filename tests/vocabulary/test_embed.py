import logging
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from mmseg_plugins import Vocabulary
from mmseg_plugins.cases import Case
from mmseg_plugins.towers.config import TextConfig
from mmseg_plugins.towers.text import TextTower
from mmseg_plugins.vocabulary.cache import TextCache
from mmseg_plugins.vocabulary.embed import embed, encode_names, encode_prompts, prompt_lengths, watch_encoding
from mmseg_plugins.vocabulary.templates import load_templates

VOCABULARY = Vocabulary.parse("cat; sofa, couch, very long comfortable seat; other: floor, wall; arctic (type of shoe)")
TEMPLATES = ("{}", "a photo of a {}.", "{} in the very far and rather dark background of this picture")
FIXTURE = Path(__file__).parents[1] / "fixtures" / "maskclip" / "text_small.json"


def tiny_tower(*, is_causal=True, **options):
    torch.manual_seed(0)
    pool = "argmax" if is_causal else "last"
    tower = TextTower(
        TextConfig(width=32, heads=2, layers=2, context_length=32, is_causal=is_causal, pool=pool, **options),
        embed_dim=16,
    )
    for parameter in tower.parameters():  # far from the small initial values, so that mistakes show
        torch.nn.init.normal_(parameter, std=0.3)
    return tower.eval()


@pytest.fixture(scope="module")
def tower():
    return tiny_tower()


def slow_rows(tower, names, templates, *, normalize_each=True):
    """One prompt at a time, at full length, in the order of the formula."""
    rows = []
    for name in names:
        total = torch.zeros(tower.embed_dim)
        for template in templates:
            with torch.no_grad():
                encoded = tower.encode_tokens(tower.tokenize([template.replace("{}", name)]))[0]
            total += encoded / encoded.norm() if normalize_each else encoded
        mean = total / len(templates)
        rows.append(mean / mean.norm())
    return torch.stack(rows)


@pytest.mark.parametrize("is_causal", [True, False])
@pytest.mark.parametrize("normalize_each", [True, False])
@pytest.mark.parametrize("batch_size", [1, 4, None])
def test_rows_equal_one_prompt_at_a_time_at_full_length(is_causal, normalize_each, batch_size):
    tower = tiny_tower(is_causal=is_causal)
    result = embed(tower, VOCABULARY, TEMPLATES, normalize_each=normalize_each, batch_size=batch_size)
    want = slow_rows(tower, VOCABULARY.rows, TEMPLATES, normalize_each=normalize_each)
    torch.testing.assert_close(result.rows, want, atol=2e-6, rtol=0)  # float32 rounding of another batch shape
    assert result.rows.dtype == torch.float32
    assert result.row_class.tolist() == VOCABULARY.row_class
    assert result.num_classes == 4
    assert not result.rows.requires_grad


def test_normalising_each_prompt_or_only_the_mean_differs(tower):
    both = [embed(tower, VOCABULARY, TEMPLATES, normalize_each=flag).rows for flag in (True, False)]
    assert (both[0] - both[1]).abs().max() > 1e-3


class Recorder:
    """A tower that notes the shapes it is given."""

    def __init__(self, tower, **attributes):
        self.tower, self.shapes, self.context_length = tower, [], tower.context_length
        self.__dict__.update(attributes)

    def tokenize(self, prompts):
        return self.tower.tokenize(prompts)

    def encode_tokens(self, tokens):
        self.shapes.append(tuple(tokens.shape))
        return self.tower.encode_tokens(tokens)

    def fingerprint(self):
        return "recorder"


def test_batches_of_a_causal_tower_are_sorted_and_cut_to_their_longest_prompt(tower):
    recorder = Recorder(tower, is_causal=True)
    prompts = ["a b c d e f", "a", "a b c", "a b", "a b c d"]
    encode_prompts(recorder, prompts, batch_size=2)
    assert recorder.shapes == [(2, 4), (2, 6), (1, 8)]  # words and the two end tokens


@pytest.mark.parametrize("attributes", [{"is_causal": False}, {}], ids=["not causal", "does not say"])
def test_other_towers_keep_the_full_length(tower, attributes):
    recorder = Recorder(tower, **attributes)
    encode_prompts(recorder, ["a b c d e f", "a"], batch_size=1)
    assert recorder.shapes == [(1, 32), (1, 32)]


def test_cutting_a_tower_that_is_not_causal_would_change_the_result():
    full = tiny_tower(is_causal=False)
    tokens = full.tokenize(["a photo of a cat."])
    with torch.no_grad():
        whole = full.encode_embedded(full.token_embedding(tokens), tokens)
        cut = full.encode_embedded(full.token_embedding(tokens[:, :8]), tokens[:, :8])
    assert (whole - cut).abs().max() > 1e-2


def test_the_order_of_prompts_is_kept(tower):
    prompts = [f"{'very ' * (i * 7 % 11)}old {name}" for i, name in enumerate(VOCABULARY.rows)]
    together = encode_prompts(tower, prompts, batch_size=3)
    alone = torch.cat([encode_prompts(tower, [prompt]) for prompt in prompts])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_lengths_end_at_the_end_token_even_behind_zero_ids(tower):
    tokens = tower.tokenize(["!", "! a !", ""])  # "!" has token id 0
    assert prompt_lengths(tower, tokens).tolist() == [3, 5, 2]


def test_a_towers_own_lengths_are_used(tower):
    recorder = Recorder(tower, is_causal=True, lengths=lambda tokens: torch.tensor([7] * len(tokens)))
    encode_prompts(recorder, ["a", "b"])
    assert recorder.shapes == [(2, 7)]


def test_mean_averages_the_names_of_a_class(tower):
    rows = embed(tower, VOCABULARY, TEMPLATES)
    result = embed(tower, VOCABULARY, TEMPLATES, reduce="mean")
    want = torch.stack([F.normalize(rows.rows[rows.row_class == k].mean(0), dim=0) for k in range(4)])
    torch.testing.assert_close(result.rows, want, atol=1e-6, rtol=0)
    assert result.row_class.tolist() == [0, 1, 2, 3]


def test_a_background_without_words_has_no_row(tower):
    vocabulary = Vocabulary.parse("cat; sofa, couch", background=0.5)
    for reduce, classes in (("max", [1, 2, 2]), ("mean", [1, 2])):
        result = embed(tower, vocabulary, TEMPLATES, reduce=reduce)
        assert result.row_class.tolist() == classes
        assert result.num_classes == 3


def test_names_that_occur_twice_are_encoded_once(tower):
    vocabulary = Vocabulary.parse([["bag", "sack", "bag"]], duplicates="allow")
    recorder = Recorder(tower, is_causal=True)
    result = embed(recorder, vocabulary, ["{}"])
    assert sum(shape[0] for shape in recorder.shapes) == 2
    assert torch.equal(result.rows[0], result.rows[2])


def test_large_vocabularies_are_encoded_in_parts(tower, monkeypatch):
    monkeypatch.setattr("mmseg_plugins.vocabulary.embed._PROMPTS_AT_ONCE", 7)
    recorder = Recorder(tower, is_causal=True)
    rows = encode_names(recorder, VOCABULARY.rows, TEMPLATES)
    torch.testing.assert_close(rows, slow_rows(tower, VOCABULARY.rows, TEMPLATES), atol=2e-6, rtol=0)
    assert max(shape[0] for shape in recorder.shapes) <= 6


def test_an_over_long_prompt_is_named_with_the_limit(tower):
    with pytest.raises(ValueError, match=r"Prompt 'word word.* has 42 tokens.*reads 32"):
        embed(tower, Vocabulary.parse(["cat", "word " * 40]), TEMPLATES)


def test_weights_that_are_not_finite_are_noticed():
    broken = tiny_tower()
    torch.nn.init.constant_(broken.ln_final.weight, float("nan"))
    with pytest.raises(ValueError, match=r"'cat' is zero or not finite \(7 of 7 names\)"):
        embed(broken, VOCABULARY, TEMPLATES)


def test_arguments_are_checked(tower):
    with pytest.raises(ValueError, match="reduce must be one of max, mean"):
        embed(tower, VOCABULARY, TEMPLATES, reduce="sum")
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        embed(tower, VOCABULARY, TEMPLATES, batch_size=0)
    with pytest.raises(KeyError, match="unknown template set"):
        embed(tower, VOCABULARY, "imagenet79")


def test_a_second_time_comes_from_the_cache(tower, tmp_path):
    recorder = Recorder(tower, is_causal=True)
    first = embed(recorder, VOCABULARY, TEMPLATES, cache=TextCache(tmp_path))
    recorder.shapes.clear()
    second = embed(recorder, VOCABULARY, TEMPLATES, cache=TextCache(tmp_path))
    reduced = embed(recorder, VOCABULARY, TEMPLATES, cache=TextCache(tmp_path), reduce="mean")
    assert recorder.shapes == []
    assert torch.equal(first.rows, second.rows)
    assert len(reduced.rows) == 4


def test_other_weights_names_templates_or_normalisation_are_computed(tmp_path):
    cache, tower = TextCache(tmp_path), tiny_tower()
    embed(tower, VOCABULARY, TEMPLATES, cache=cache)
    embed(tower, VOCABULARY, TEMPLATES, cache=cache, normalize_each=False)
    embed(tower, VOCABULARY, TEMPLATES[:2], cache=cache)
    embed(tower, Vocabulary.parse("cat; dog"), TEMPLATES, cache=cache)
    with torch.no_grad():
        tower.text_projection.mul_(2).add_(0.1)
    changed = embed(tower, VOCABULARY, TEMPLATES, cache=cache)
    assert len(list(tmp_path.iterdir())) == 5
    torch.testing.assert_close(changed.rows, embed(tower, VOCABULARY, TEMPLATES).rows)


def test_a_damaged_cache_is_computed_again(tower, tmp_path, caplog):
    first = embed(tower, VOCABULARY, TEMPLATES, cache=TextCache(tmp_path))
    entry = next(tmp_path.iterdir())
    entry.write_bytes(entry.read_bytes()[:50])
    with caplog.at_level(logging.WARNING):
        second = embed(tower, VOCABULARY, TEMPLATES, cache=TextCache(tmp_path))
    assert "are damaged" in caplog.text
    assert torch.equal(first.rows, second.rows)
    assert TextCache(tmp_path).load(entry.stem, rows=7) is not None


def test_words_that_a_tower_lacks_are_warned_about_from_the_cache_too(tmp_path, caplog):
    vocabulary = Vocabulary.parse("cat; zebra")
    for _ in range(2):
        tower = tiny_tower()
        tower.set_known_ids(set(range(49408)) - set(tower.tokenizer.word_ids("zebra")))
        with caplog.at_level(logging.WARNING):
            embed(tower, vocabulary, ["a {}"], cache=TextCache(tmp_path))
        assert "no embedding for 'zebra'" in caplog.text
        caplog.clear()
    assert len(list(tmp_path.iterdir())) == 1


def test_embeddings_move_to_a_device_and_type(tower):
    moved = embed(tower, VOCABULARY, ["{}"]).to("meta", torch.bfloat16)
    assert moved.rows.device.type == moved.row_class.device.type == "meta"
    assert (moved.rows.dtype, moved.row_class.dtype) == (torch.bfloat16, torch.int64)


def test_maskclips_text_embeddings():
    case = Case.load(FIXTURE)
    sizes = case.config["clip"]
    config = TextConfig(
        context_length=sizes["context_length"],
        vocab_size=sizes["vocab_size"],
        width=sizes["transformer_width"],
        heads=sizes["transformer_heads"],
        layers=sizes["transformer_layers"],
        act="quick_gelu",
    )
    tower = TextTower(config, embed_dim=sizes["embed_dim"]).eval()
    tower.load_state_dict({key: value for key, value in case.weights["layout"].items() if key in tower.state_dict()})
    vocabulary = Vocabulary.parse([[name] for name in case.config["class_names"]])
    templates = load_templates("imagenet85")
    prompts = [template.replace("{}", vocabulary.rows[0]) for template in templates]
    results = case.compare(
        {
            "tokens_class0": tower.tokenize(prompts),
            "encoded_class0": encode_prompts(tower, prompts),
            "text_embeddings": embed(tower, vocabulary, templates).rows,
            "text_embeddings_single": embed(tower, vocabulary, "plain").rows,
        }
    )
    assert len(results) == 4
    assert all(result.passed for result in results), results


def test_somebody_may_watch_and_hears_nothing_from_the_cache(tower, tmp_path, monkeypatch):
    monkeypatch.setattr("mmseg_plugins.vocabulary.embed._PROMPTS_AT_ONCE", 4)
    heard, cache = [], TextCache(tmp_path)
    with watch_encoding(lambda count, total: heard.append((count, total))):
        embed(tower, VOCABULARY, TEMPLATES, cache=cache, batch_size=3)
    [total] = {total for _, total in heard}
    assert total == len(dict.fromkeys(VOCABULARY.rows)) * len(TEMPLATES)
    assert sum(count for count, _ in heard) == total
    assert len(heard) > 2
    heard.clear()
    with watch_encoding(lambda count, total: heard.append((count, total))):
        embed(tower, VOCABULARY, TEMPLATES, cache=cache)
    embed(tower, VOCABULARY, TEMPLATES)
    assert heard == []
