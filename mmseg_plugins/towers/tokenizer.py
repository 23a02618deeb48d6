"""Prompts to token ids. The tokenisers are open_clip's; the length of a prompt is checked here, never cut."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor

_SHOWN_CHARACTERS = 60  # of an over-long prompt in a message


class Tokenizer(Protocol):
    """Turns prompts into ids, start and end included, without padding."""

    name: str

    def encode(self, prompts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each prompt, of whatever length."""

    def pad(self, ids: list[int], length: int) -> list[int]:
        """Fill up to ``length``."""

    def word_ids(self, word: str) -> list[int]:
        """Return the ids of a word alone, without start and end."""


class ClipTokenizer:
    """CLIP's byte-pair encoding: lower case, start and end tokens, zeros behind the end."""

    name = "clip_bpe"

    def __init__(self) -> None:
        self._bpe = _simple_tokenizer()
        self.start_id, self.end_id = self._bpe.sot_token_id, self._bpe.eot_token_id

    def encode(self, prompts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each prompt, start and end included."""
        return [[self.start_id, *self._bpe.encode(prompt), self.end_id] for prompt in prompts]

    def pad(self, ids: list[int], length: int) -> list[int]:
        """Fill up with zeros."""
        return ids + [0] * (length - len(ids))

    def word_ids(self, word: str) -> list[int]:
        """Return the ids of a word alone."""
        return self._bpe.encode(word)


class HuggingFaceTokenizer:
    """A Hugging Face tokeniser as open_clip sets it up for SigLIP, CLIPA and their like.

    Args:
        name: model id of the tokeniser.
        context_length: positions of the text tower.
        options: open_clip's options for it (``clean``, ``strip_sep_token``, ...).

    Raises:
        ImportError: if ``transformers`` is not installed.
        FileNotFoundError: if the tokeniser's files are neither cached nor reachable.
    """

    def __init__(self, name: str, context_length: int, options: Mapping[str, Any] | None = None) -> None:
        try:
            import transformers  # noqa: F401  (open_clip imports it lazily and fails with a bare message)
            from open_clip.tokenizer import HFTokenizer
        except ImportError as error:
            raise ImportError(
                f"The text tower's tokeniser {name!r} needs the package 'transformers': pip install 'mmseg_plugins[hf]'"
            ) from error
        try:
            self._wrapped = HFTokenizer(name, context_length=context_length, **dict(options or {}))
        except OSError as error:
            raise FileNotFoundError(
                f"The tokeniser {name!r} is not cached and cannot be fetched. Fetch the repository of that name from "
                f"the Hugging Face hub on a machine with a network, and copy it into HF_HOME of this one."
            ) from error
        self.name = f"{name}{sorted((options or {}).items())}"
        self._length = context_length

    def encode(self, prompts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each prompt; padding of a prompt that fits is kept, as these towers attend to it."""
        cleaned = [self._wrapped.clean_fn(prompt) for prompt in prompts]
        lengths = [len(ids) for ids in self._wrapped.tokenizer(cleaned, truncation=False, padding=False)["input_ids"]]
        padded = self._wrapped(list(prompts), context_length=self._length).tolist()
        return [ids if length <= self._length else [0] * length for ids, length in zip(padded, lengths, strict=True)]

    def pad(self, ids: list[int], length: int) -> list[int]:
        """Nothing to do: the tokeniser pads."""
        return ids

    def word_ids(self, word: str) -> list[int]:
        """Return the ids of a word alone."""
        return self._wrapped.tokenizer(self._wrapped.clean_fn(word), add_special_tokens=False)["input_ids"]


@cache
def _simple_tokenizer() -> Any:
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer()


def build_tokenizer(
    name: str | None = None, context_length: int = 77, options: Mapping[str, Any] | None = None
) -> Tokenizer:
    """Return CLIP's own tokeniser, or a Hugging Face one by name."""
    return ClipTokenizer() if name is None else HuggingFaceTokenizer(name, context_length, options)


def tokenize(tokenizer: Tokenizer, prompts: Sequence[str], context_length: int) -> Tensor:
    """Turn prompts into a table of ids.

    Args:
        tokenizer: what encodes.
        prompts: N sentences.
        context_length: columns of the result.

    Returns:
        (N, context_length) int64.

    Raises:
        TypeError: if ``prompts`` is a string or holds something else than strings.
        ValueError: if a prompt is longer than the tower can read; nothing is ever cut off silently.
    """
    if isinstance(prompts, str) or not all(isinstance(prompt, str) for prompt in prompts):
        raise TypeError("Expected argument `prompts` to be a list of strings, one per prompt.")
    encoded = tokenizer.encode(prompts)
    for prompt, ids in zip(prompts, encoded, strict=True):
        if len(ids) > context_length:
            shown = prompt if len(prompt) <= _SHOWN_CHARACTERS else prompt[:_SHOWN_CHARACTERS] + "..."
            raise ValueError(
                f"Prompt {shown!r} has {len(ids)} tokens, but this text tower reads {context_length}. Shorten it, or "
                f"use a tower with a longer context (Long-CLIP reads 248)."
            )
    rows = [tokenizer.pad(ids, context_length) for ids in encoded]
    return torch.tensor(rows, dtype=torch.int64).reshape(len(rows), context_length)
