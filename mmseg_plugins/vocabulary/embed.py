"""Text embeddings of a vocabulary: every name in every template, encoded, averaged and brought to unit length.

For a name c and templates t: ``e = encode(t.format(c))``, ``T(c) = unit(mean over t of unit(e))``, as CLIP, MaskCLIP,
SCLIP and FC-CLIP do.

Prompts are sorted by length and each batch is cut to its longest prompt. For a causal text tower this changes nothing
but the time: no position sees what follows it, and the result is read at the end token. Other towers attend to the
padding, so their prompts keep the full length; so do those of a tower that does not say.
"""

# N names (prompt rows), P prompts = N x templates, L tokens of a prompt, D joint width, K classes

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmseg_plugins.vocabulary.cache import TextCache, cache_key
from mmseg_plugins.vocabulary.config import Reduce
from mmseg_plugins.vocabulary.templates import fill, load_templates
from mmseg_plugins.vocabulary.vocabulary import Vocabulary

# Prompts per batch: enough to keep CPU cores busy at 7 to 15 tokens each, small enough for their caches.
_BATCH_CPU = 128
_BATCH_GPU = 1024
_PROMPTS_AT_ONCE = 8192  # tokenised and sorted together; bounds the memory of a vocabulary of thousands of names

# Is told of every batch: prompts in it, prompts of all names.
Listener = Callable[[int, int], None]
_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def watch_encoding(listener: Listener) -> Iterator[None]:
    """Tell somebody how far the encoding of names is: thousands of them take minutes on a CPU.

    Args:
        listener: called behind every batch of prompts with their number and that of all prompts; not called at all
            where the cache has the answer.
    """
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


class TextEncoder(Protocol):
    """What :func:`embed` asks of a text tower; ``mmseg_plugins.towers.text.TextTower`` is one.

    Attributes:
        is_causal: no token sees those after it, so prompts may be cut to any length that holds them.
        context_length: longest prompt in tokens.
    """

    is_causal: bool
    context_length: int

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """Return (P, L) token ids, padded at the end; raise ValueError for prompts that are too long."""

    def encode_tokens(self, tokens: Tensor) -> Tensor:
        """Return (P, D) embeddings, not normalised."""

    def fingerprint(self) -> str:
        """Return a hash of everything that decides an embedding: weights, tokeniser, arithmetic."""


@dataclass(frozen=True)
class TextEmbeddings:
    """The classifier rows of a vocabulary.

    Attributes:
        rows: (N, D) float32, unit length. One per name, or one per class after ``reduce='mean'``.
        row_class: (N,) int64, the class of each row, not falling. A background by threshold may have no row.
        num_classes: K.
    """

    rows: Tensor
    row_class: Tensor
    num_classes: int

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "TextEmbeddings":
        """Return the same embeddings elsewhere; ``dtype`` applies to the rows."""
        return TextEmbeddings(self.rows.to(device=device, dtype=dtype), self.row_class.to(device), self.num_classes)


def embed(
    text_tower: TextEncoder,
    vocabulary: Vocabulary,
    templates: str | Sequence[str],
    *,
    reduce: Reduce = "max",
    normalize_each: bool = True,
    cache: TextCache | None = None,
    batch_size: int | None = None,
) -> TextEmbeddings:
    """Embed the names of a vocabulary.

    Args:
        text_tower: encodes prompts.
        vocabulary: the names.
        templates: prompt templates, or the name of a set.
        reduce: ``max`` keeps a row per name, for the best name of a class to count; ``mean`` averages the unit rows of
            a class into one.
        normalize_each: bring each prompt's embedding to unit length before the mean over templates. False: the mean of
            the embeddings as they are (AnoVL).
        cache: where to look first and to store; None computes always.
        batch_size: prompts encoded together; None: 128 on the CPU, 1024 elsewhere. Does not change the result.

    Returns:
        Rows on the tower's device, without gradient.

    Raises:
        ValueError: if a prompt is too long for the tower (the message names it and the limit), an embedding is not
            finite, or an argument is not one of those listed.
        KeyError: if there is no such set of templates.
    """
    if reduce not in get_args(Reduce):
        raise ValueError(f"reduce must be one of {', '.join(get_args(Reduce))}, but got {reduce!r}.")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, but got {batch_size}.")
    templates = load_templates(templates)
    names = list(dict.fromkeys(vocabulary.rows))
    device = _device(text_tower)
    unique_ND = _lookup_or_encode(text_tower, names, templates, normalize_each, cache, batch_size).to(device)
    position = {name: index for index, name in enumerate(names)}
    rows_ND = unique_ND[torch.tensor([position[name] for name in vocabulary.rows], device=device)]
    row_class = torch.tensor(vocabulary.row_class, dtype=torch.int64, device=device)
    if reduce == "mean":
        rows_ND, row_class = _mean_over_names(rows_ND, row_class)
    return TextEmbeddings(rows_ND, row_class, vocabulary.num_classes)


def _lookup_or_encode(
    text_tower: TextEncoder,
    names: Sequence[str],
    templates: Sequence[str],
    normalize_each: bool,
    cache: TextCache | None,
    batch_size: int | None,
) -> Tensor:
    if getattr(text_tower, "known_ids", None) is not None:
        # A tower with part of a vocabulary warns about the words it lacks: once for all names, cached or not.
        text_tower.tokenize(names)
    if cache is None:
        return encode_names(text_tower, names, templates, normalize_each=normalize_each, batch_size=batch_size)
    key = cache_key(text_tower.fingerprint(), names, templates, normalize_each=normalize_each)
    stored_ND = cache.load(key, rows=len(names))
    if stored_ND is not None:
        return stored_ND
    rows_ND = encode_names(text_tower, names, templates, normalize_each=normalize_each, batch_size=batch_size)
    cache.store(key, rows_ND)
    return rows_ND


@torch.no_grad()
def encode_names(
    text_tower: TextEncoder,
    names: Sequence[str],
    templates: Sequence[str],
    *,
    normalize_each: bool = True,
    batch_size: int | None = None,
) -> Tensor:
    """Encode each name in all templates.

    Args:
        text_tower: encodes prompts.
        names: N names.
        templates: prompt templates, each with one ``{}``.
        normalize_each: unit length before the mean over templates.
        batch_size: prompts encoded together.

    Returns:
        (N, D) float32 on the tower's device, unit rows.

    Raises:
        ValueError: if a prompt is too long for the tower, or an embedding is not finite.
    """
    step = max(1, _PROMPTS_AT_ONCE // len(templates))
    listener, total, parts = _listener.get(), len(names) * len(templates), []
    told = None if listener is None else lambda count: listener(count, total)
    for start in range(0, len(names), step):
        some = names[start : start + step]
        prompts = [fill(template, name) for name in some for template in templates]
        prompts_PD = encode_prompts(text_tower, prompts, batch_size=batch_size, on_batch=told)
        if normalize_each:
            prompts_PD = F.normalize(prompts_PD, dim=-1)
        parts.append(prompts_PD.unflatten(0, (len(some), len(templates))).mean(1))
    rows_ND = torch.cat(parts)
    length = rows_ND.norm(dim=-1)
    broken = (~(length.isfinite() & (length > 0))).nonzero().flatten().tolist()
    if broken:
        raise ValueError(
            f"the text embedding of {names[broken[0]]!r} is zero or not finite ({len(broken)} of {len(names)} names). "
            "Check the weights of the text tower, and its precision."
        )
    return F.normalize(rows_ND, dim=-1)


@torch.no_grad()
def encode_prompts(
    text_tower: TextEncoder,
    prompts: Sequence[str],
    *,
    batch_size: int | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> Tensor:
    """Encode whole sentences, sorted by length and cut where the tower allows it.

    Args:
        text_tower: encodes prompts.
        prompts: P sentences.
        batch_size: sentences encoded together.
        on_batch: called behind every batch with its number of sentences.

    Returns:
        (P, D) float32 on the tower's device, in the order of ``prompts``, not normalised.

    Raises:
        ValueError: if a prompt is too long for the tower.
    """
    device = _device(text_tower)
    batch_size = batch_size or (_BATCH_CPU if device.type == "cpu" else _BATCH_GPU)
    tokens_PL = text_tower.tokenize(list(prompts))
    lengths = prompt_lengths(text_tower, tokens_PL)
    order = lengths.argsort(stable=True)
    encoded = None
    for indices in order.split(batch_size):
        batch_PL = tokens_PL[indices, : int(lengths[indices].max())]
        part_PD = text_tower.encode_tokens(batch_PL.to(device)).float()
        if encoded is None:
            encoded = part_PD.new_empty(len(tokens_PL), part_PD.shape[-1])
        encoded[indices.to(device)] = part_PD
        if on_batch is not None:
            on_batch(len(indices))
    return encoded


def prompt_lengths(text_tower: TextEncoder, tokens_PL: Tensor) -> Tensor:
    """Return how many token columns each prompt needs, (P,) int64.

    The whole context, unless the tower says that it is causal: then up to its end, which is where its last token that
    is not padding (0) stands, or what the tower's own ``lengths`` says.
    """
    count, length = tokens_PL.shape
    if not getattr(text_tower, "is_causal", False):
        return torch.full((count,), length, dtype=torch.int64)
    if hasattr(text_tower, "lengths"):
        return text_tower.lengths(tokens_PL)
    columns = torch.arange(1, length + 1)
    return ((tokens_PL != 0) * columns).amax(1).clamp_min(1)


def _mean_over_names(rows_ND: Tensor, row_class: Tensor) -> tuple[Tensor, Tensor]:
    """Average the rows of each class that has any; the mean is brought to unit length again."""
    classes, inverse, counts = row_class.unique_consecutive(return_inverse=True, return_counts=True)
    sums = rows_ND.new_zeros(len(classes), rows_ND.shape[-1]).index_add_(0, inverse, rows_ND)
    return F.normalize(sums / counts[:, None], dim=-1), classes


def _device(text_tower: TextEncoder) -> torch.device:
    if isinstance(text_tower, nn.Module):
        for parameter in text_tower.parameters():
            return parameter.device
    return torch.device("cpu")
