import pytest
import torch

from mmseg_plugins.towers.config import TextConfig
from mmseg_plugins.towers.text import TextTower
from mmseg_plugins.towers.tokenizer import ClipTokenizer, build_tokenizer, tokenize


@pytest.fixture
def tokenizer():
    return build_tokenizer()


def test_prompts_become_the_ids_of_open_clip(tokenizer):
    from open_clip import tokenize as theirs

    prompts = ["a photo of a cat.", "Tür & Fenster", "", "  many   BLANKS "]
    torch.testing.assert_close(tokenize(tokenizer, prompts, 77), theirs(prompts))


def test_a_prompt_that_just_fits_is_taken_and_one_more_is_not(tokenizer):
    assert tokenize(tokenizer, ["cat " * 8], 10)[0, -1] == tokenizer.end_id
    with pytest.raises(ValueError, match="has 11 tokens, but this text tower reads 10"):
        tokenize(tokenizer, ["dog", "cat " * 9], 10)


def test_a_long_prompt_is_shown_shortened(tokenizer):
    with pytest.raises(ValueError, match=r"'cat cat .*\.\.\.' has"):
        tokenize(tokenizer, ["cat " * 100], 77)


@pytest.mark.parametrize("prompts", ["a cat", [1], [None, "cat"]])
def test_anything_but_a_list_of_strings_is_refused(tokenizer, prompts):
    with pytest.raises(TypeError, match="list of strings"):
        tokenize(tokenizer, prompts, 77)


def test_no_prompts_give_an_empty_table(tokenizer):
    assert tokenize(tokenizer, [], 77).shape == (0, 77)


def test_words_have_ids_of_their_own(tokenizer):
    assert tokenizer.word_ids("cat") == tokenizer.encode(["cat"])[0][1:-1]
    assert isinstance(tokenizer, ClipTokenizer)


def test_a_missing_package_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"pip install 'mmseg_plugins\[hf\]'"):
        build_tokenizer("timm/ViT-B-16-SigLIP", 64, {"clean": "canonicalize"})


@pytest.fixture
def saved_tokenizer(tmp_path):
    """A tokeniser in a folder, as a Hugging Face repository holds it: one id for each word, padded with 0."""
    transformers = pytest.importorskip("transformers", reason="needs the extra 'hf'")
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = ["<pad>", "</s>", "<unk>", "a", "photo", "of", "cat", "sky"]
    fast = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    fast.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=fast, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(tmp_path)
    return str(tmp_path)


def test_a_hugging_face_tokeniser_reads_for_a_text_tower(saved_tokenizer):
    config = TextConfig(
        context_length=6, vocab_size=8, width=16, heads=2, layers=1, is_causal=False, pool="last",
        tokenizer=saved_tokenizer, tokenizer_options={"clean": "canonicalize"},
    )  # fmt: skip
    tower = TextTower(config, embed_dim=8).eval()
    tokens = tower.tokenize(["A photo, of a CAT.", "sky"])
    assert tokens.tolist() == [[3, 4, 5, 3, 6, 1], [7, 1, 0, 0, 0, 0]]
    assert tower(tokens).shape == (2, 8)
    assert tower.tokenizer.word_ids("Sky!") == [7]
    with pytest.raises(ValueError, match="has 8 tokens, but this text tower reads 6"):
        tower.tokenize(["cat", "a photo of a cat of sky"])
