import pytest
import torch

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
    with pytest.raises(ImportError, match="pip install transformers"):
        build_tokenizer("timm/ViT-B-16-SigLIP", 64, {"clean": "canonicalize"})
