"""CLIP's text tower: prompts to embeddings."""

import hashlib
import logging
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from mmseg_plugins.towers.config import TextConfig
from mmseg_plugins.towers.digest import tensor_digest
from mmseg_plugins.towers.tokenizer import Tokenizer, build_tokenizer, tokenize
from mmseg_plugins.towers.transformer import BlockInput, build_transformer

# N prompts, L tokens of a prompt, W width, D joint width

_logger = logging.getLogger(__name__)

_WORDS_SHOWN = 10  # unknown words that a warning names


class TextTower(nn.Module):
    """Text transformer under OpenAI's parameter names.

    ``forward`` is :meth:`encode_tokens`. The tokeniser is built on first use.

    Args:
        config: sizes of the tower.
        embed_dim: joint width.

    Attributes:
        embed_dim: joint width.
        width: transformer width.
        context_length: longest prompt in tokens, start and end included.
        is_causal: whether prompts may be encoded at the length of the longest one (exact for causal towers only).
        known_ids: token ids that have a row; None: all of them. The embedded model stores only some.
    """

    def __init__(self, config: TextConfig, *, embed_dim: int) -> None:
        super().__init__()
        self.config, self.embed_dim, self.width = config, embed_dim, config.width
        self.context_length, self.is_causal = config.context_length, config.is_causal
        self.known_ids: frozenset[int] | None = None
        self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        self.positional_embedding = nn.Parameter(0.01 * torch.randn(config.context_length, config.width))
        if config.kept_positions:
            self.positional_embedding_res = nn.Parameter(self.positional_embedding.detach().clone())
        self.transformer = build_transformer(
            config.width,
            config.layers,
            config.heads,
            mlp_ratio=config.mlp_ratio,
            act=config.act,
            norm_eps=config.norm_eps,
            experts=config.experts,
            experts_per_token=config.experts_per_token,
            expert_layers=config.expert_layers,
        )
        self.ln_final = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.text_projection = _build_projection(config, embed_dim)
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        self._tokenizer: Tokenizer | None = None
        self._warned: set[str] = set()
        self._fingerprint: tuple[object, str] | None = None

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokeniser of this tower."""
        if self._tokenizer is None:
            config = self.config
            self._tokenizer = build_tokenizer(config.tokenizer, config.context_length, config.tokenizer_options)
        return self._tokenizer

    def set_known_ids(self, ids: Iterable[int] | None) -> None:
        """Say which token ids have a row; prompts with others are warned about, once per word."""
        self.known_ids = None if ids is None else frozenset(int(value) for value in ids)

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """Turn prompts into ids.

        Args:
            prompts: N sentences.

        Returns:
            (N, L) int64 with L the context length.

        Raises:
            ValueError: if a prompt is longer than the context.
        """
        tokens = tokenize(self.tokenizer, prompts, self.context_length)
        if self.known_ids is not None:
            self._warn_unknown(prompts, tokens)
        return tokens

    def unknown_words(self, text: str) -> list[str]:
        """Return the words of a text that this tower has no row for."""
        if self.known_ids is None:
            return []
        words = (word.strip(".,;:!?()\"'") for word in text.split())
        return [word for word in words if word and not self.known_ids.issuperset(self.tokenizer.word_ids(word))]

    def _warn_unknown(self, prompts: Sequence[str], tokens: Tensor) -> None:
        if self.known_ids.issuperset(tokens.unique().tolist()):
            return
        unknown = dict.fromkeys(word for prompt in prompts for word in self.unknown_words(prompt))
        fresh = [word for word in unknown if word not in self._warned]
        self._warned.update(fresh)
        if fresh:
            _logger.warning(
                "This text tower has no embedding for %s: to it these words mean nothing. Use words it knows, or a "
                "model with the full vocabulary.",
                _shorten(fresh),
            )

    def positions(self, length: int) -> Tensor:
        """Return the positions of the first ``length`` tokens, (L, W)."""
        kept = self.config.kept_positions
        if not kept:
            return self.positional_embedding[:length]
        return torch.cat([self.positional_embedding[:kept], self.positional_embedding_res[kept:]])[:length]

    def encode_tokens(self, tokens: Tensor) -> Tensor:
        """Embed prompts.

        Args:
            tokens: (N, L) int64 from :meth:`tokenize`; a causal tower also takes fewer columns than its context, as
                long as every prompt's end is among them, with the same result.

        Returns:
            (N, D), not normalised.

        Raises:
            ValueError: if L does not suit the tower.
        """
        self._check_length(tokens)
        return self.encode_embedded(self.token_embedding(tokens), tokens)

    def encode_embedded(
        self, embedded_NLW: Tensor, tokens: Tensor, *, before_block: BlockInput | None = None
    ) -> Tensor:
        """Embed prompts whose token vectors are given (learned prompts), see :meth:`encode_tokens`.

        Args:
            embedded_NLW: (N, L, W) token vectors without positions.
            tokens: (N, L) ids that say where each prompt ends.
            before_block: may change what goes into each block (deep prompts).
        """
        x = embedded_NLW + self.positions(tokens.shape[1]).to(embedded_NLW.dtype)
        x = self.transformer(x, is_causal=self.is_causal, before_block=before_block)
        x = self.ln_final(self._pool(x, tokens))
        return self._project(x)

    def forward(self, tokens: Tensor) -> Tensor:
        """Embed prompts, see :meth:`encode_tokens`."""
        return self.encode_tokens(tokens)

    def _check_length(self, tokens: Tensor) -> None:
        length = tokens.shape[1]
        if length > self.context_length or (length != self.context_length and not self.is_causal):
            wanted = f"at most {self.context_length}" if self.is_causal else f"exactly {self.context_length}"
            raise ValueError(
                f"Prompts of {length} token columns do not suit this text tower, which needs {wanted}"
                f"{'' if self.is_causal else ' (it is not causal: padding takes part)'}."
            )

    def _pool(self, x: Tensor, tokens: Tensor) -> Tensor:
        pool = self.config.pool
        if pool in ("first", "last"):
            return x[:, 0 if pool == "first" else -1]
        ends = tokens.argmax(-1) if pool == "argmax" else (tokens == self.config.eos_id).int().argmax(-1)
        return x[torch.arange(len(x), device=x.device), ends]

    def _project(self, pooled: Tensor) -> Tensor:
        if self.text_projection is None:
            return pooled
        if isinstance(self.text_projection, nn.Linear):
            return self.text_projection(pooled)
        return pooled @ self.text_projection

    def fingerprint(self) -> str:
        """Return a hash of everything that decides an embedding: weights, tokeniser, arithmetic.

        Computed once and kept until a weight changes.
        """
        state = dict(sorted(self.named_parameters()))
        key = tuple((name, value.data_ptr(), _version(value), value.dtype) for name, value in state.items())
        if self._fingerprint is None or self._fingerprint[0] != key:
            digests = [tensor_digest(value) for value in state.values()]
            whole = repr((self.config, self.embed_dim, list(state), digests))
            self._fingerprint = (key, hashlib.sha256(whole.encode()).hexdigest())
        return self._fingerprint[1]


def _shorten(words: Sequence[str]) -> str:
    shown = ", ".join(map(repr, words[:_WORDS_SHOWN]))
    return shown if len(words) <= _WORDS_SHOWN else f"{shown} and {len(words) - _WORDS_SHOWN} more words"


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _build_projection(config: TextConfig, embed_dim: int) -> nn.Parameter | nn.Linear | None:
    if config.projection == "none":
        return None
    if config.projection == "linear_bias":
        return nn.Linear(config.width, embed_dim)
    return nn.Parameter(config.width**-0.5 * torch.randn(config.width, embed_dim))
