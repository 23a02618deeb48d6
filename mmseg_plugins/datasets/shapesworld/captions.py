"""Captions of scenes, in the words that the embedded model knows."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from mmseg_plugins.datasets.shapesworld.scene import Scene
from mmseg_plugins.datasets.shapesworld.world import COLOURS, GROUNDS, TEXTURES

NOUNS = ("thing", "object", "shape")
MIN_VISIBLE = 30  # pixels; smaller remains of an object are not mentioned
MAX_OBJECTS = 8

# Shares of what a phrase says about an object: both attributes, colour only, texture only.
_BOTH, _COLOUR_ONLY = 0.46, 0.27
_OBJECT_SHARE = 0.85  # of the single captions; the others name a ground
_SINGLE_TEMPLATE_SHARE, _FULL_TEMPLATE_SHARE = 0.6, 0.3


@dataclasses.dataclass(frozen=True)
class SceneWords:
    """What can be said about a scene: (colour, texture) of its visible objects, and its grounds."""

    objects: tuple[tuple[int, int], ...]
    grounds: tuple[int, ...]

    @classmethod
    def of(cls, scene: Scene) -> "SceneWords":
        """Collect what is visible in a scene with at least ``MIN_VISIBLE`` pixels."""
        counts = np.bincount(scene.ground[scene.instance == 0], minlength=len(GROUNDS))
        objects = [(item.colour, item.texture) for item in scene.objects if item.visible >= MIN_VISIBLE]
        return cls(tuple(objects[:MAX_OBJECTS]), tuple(int(g) for g in np.flatnonzero(counts >= MIN_VISIBLE)))


def object_phrase(rng: np.random.Generator, colour: int, texture: int) -> str:
    """Describe an object by its colour, its texture or both, such as "striped red object" or "something dotted".

    An object of a nameless colour is described by its texture, one of a nameless texture by its colour.
    """
    has_colour, has_texture = colour < len(COLOURS), texture < len(TEXTURES)
    says = rng.random() if has_colour and has_texture else 1.0
    noun = NOUNS[int(rng.integers(len(NOUNS)))]
    form = int(rng.integers(4))
    colour_word, texture_word = COLOURS[colour] if has_colour else "", TEXTURES[texture] if has_texture else ""
    if says < _BOTH:
        return (
            f"{colour_word} {texture_word} {noun}",
            f"{texture_word} {colour_word} {noun}",
            f"{colour_word} {texture_word} {noun}",
            f"something {colour_word} and {texture_word}",
        )[form]
    says_colour = not has_texture or says < _BOTH + _COLOUR_ONLY
    word = colour_word if says_colour else texture_word
    return f"something {word}" if form == 3 else f"{word} {noun}"


def single_caption(rng: np.random.Generator, words: SceneWords, templates: Sequence[Callable[[str], str]]) -> str:
    """Caption one object or, less often, one ground of the scene."""
    if words.objects and (rng.random() < _OBJECT_SHARE or not words.grounds):
        text = object_phrase(rng, *words.objects[int(rng.integers(len(words.objects)))])
    elif words.grounds:
        text = GROUNDS[words.grounds[int(rng.integers(len(words.grounds)))]]
    else:
        raise ValueError("the scene shows nothing large enough to be named.")
    return _dress(rng, text, templates, _SINGLE_TEMPLATE_SHARE)


def full_caption(rng: np.random.Generator, words: SceneWords, templates: Sequence[Callable[[str], str]]) -> str:
    """Caption all visible objects and grounds, in random order."""
    phrases = [object_phrase(rng, *item) for item in words.objects] + [GROUNDS[ground] for ground in words.grounds]
    phrases = [phrases[index] for index in rng.permutation(len(phrases))]
    text = " and ".join(filter(None, [", ".join(phrases[:-1]), phrases[-1]]))
    return _dress(rng, text, templates, _FULL_TEMPLATE_SHARE)


def _dress(rng: np.random.Generator, text: str, templates: Sequence[Callable[[str], str]], share: float) -> str:
    return templates[int(rng.integers(len(templates)))](text) if rng.random() < share else text
