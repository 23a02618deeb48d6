"""The words of AnoVL: two states of an object, in sentences of an inspection."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmseg_plugins.vocabulary.embed import TextEncoder, encode_prompts

# M sentences of a state, D joint width

NORMAL = (
    "normal {}", "flawless {}", "perfect {}", "unblemished {}", "{} without flaw", "{} without defect",
    "{} without damage",
)  # fmt: skip
ABNORMAL = (
    "damaged {}", "abnormal {}", "imperfect {}", "blemished {}", "{} with flaw", "{} with defect", "{} with damage",
)  # fmt: skip
TEXTURES = ("carpet", "leather", "grid", "tile", "wood")

_DOMAINS = ("industrial photo", "industrial image", "manufacturing image")
_TEXTURE_DOMAINS = ("industrial photo", "textural photo", "surface picture")
_ARTICLES = ("a", "the")
_LOOKS = ("cropped", "close-up", "bright", "dark", "jpeg corrupted", "blurry")
_SIZES = ("small", "large")
_PURPOSES = ("for visual inspection", "for anomaly detection")


def sentence_templates(name: str) -> tuple[str, ...]:
    """Return the 66 sentences for an object or texture, each with ``{}`` for a state.

    22 phrases in each of three domains of pictures. The words are the published ones; their order in a sentence is that
    of CLIP's own templates.

    Args:
        name: class name; ``carpet, leather, grid, tile, wood`` are textures.
    """
    domains = _TEXTURE_DOMAINS if name in TEXTURES else _DOMAINS
    return tuple(phrase for domain in domains for phrase in _phrases(domain))


def _phrases(domain: str) -> list[str]:
    """22 phrases: six looks of the picture, none, two sizes of the thing, two purposes, each with both articles."""
    plain = f"{_article(domain)} {domain}"
    pictures = [*(f"{_article(look)} {look} {domain}" for look in _LOOKS), plain]
    phrases = [f"{picture} of {article} {{}}." for picture in pictures for article in _ARTICLES]
    phrases += [f"{plain} of {article} {size} {{}}." for size in _SIZES for article in _ARTICLES]
    return phrases + [f"{plain} of {article} {{}} {purpose}." for purpose in _PURPOSES for article in _ARTICLES]


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def state_names(name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the seven names of the normal and the seven of the abnormal state of a class.

    Args:
        name: class name; digits at its end are dropped (``macaroni1``).
    """
    name = name.rstrip("0123456789") or name
    normal, abnormal = (tuple(state.format(name) for state in states) for states in (NORMAL, ABNORMAL))
    return normal, abnormal


def state_sentences(name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the 462 sentences of the normal and the 462 of the abnormal state of a class.

    Args:
        name: class name; digits at its end are dropped (``macaroni1``).
    """
    templates = sentence_templates(name)
    normal, abnormal = (
        tuple(template.format(state) for state in states for template in templates) for states in state_names(name)
    )
    return normal, abnormal


def encode_states(tower: TextEncoder, name: str) -> Tensor:
    """Encode all sentences of both states: (2, M, D), not normalised, normal first."""
    return torch.stack([encode_prompts(tower, sentences) for sentences in state_sentences(name)])


def state_embeddings(sentences_2MD: Tensor | Sequence[Tensor]) -> Tensor:
    """Return the unit embedding of each state, the mean of sentences that are not normalised first: (2, D)."""
    return F.normalize(torch.stack([sentences_MD.mean(0) for sentences_MD in sentences_2MD]), dim=-1)
