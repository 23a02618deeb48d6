import numpy as np
import pytest

from mmseg_plugins.datasets.shapesworld import SceneOptions, generate_scene, world
from mmseg_plugins.datasets.shapesworld.captions import SceneWords, full_caption, object_phrase, single_caption
from mmseg_plugins.vocabulary.templates import load_templates

TEMPLATES = [text.format for text in load_templates("imagenet80")]


def test_captions_name_only_what_is_visible():
    rng = np.random.default_rng(0)
    every_word = {*world.COLOURS, *world.TEXTURES, *world.GROUNDS}
    for index in range(100):
        words = SceneWords.of(generate_scene(0, index))
        present = {world.COLOURS[c] for c, _ in words.objects} | {world.TEXTURES[t] for _, t in words.objects}
        present |= {world.GROUNDS[g] for g in words.grounds}
        for caption in (full_caption(rng, words, [str]), single_caption(rng, words, [str])):
            said = set(caption.replace(",", "").split()) & every_word
            assert said <= present
            assert said


def test_full_captions_mention_every_object_and_ground():
    rng = np.random.default_rng(1)
    words = SceneWords(objects=((0, 1), (3, 2)), grounds=(0, 5))
    for _ in range(20):
        caption = full_caption(rng, words, [str])
        assert "grass" in caption
        assert "snow" in caption
        assert "red" in caption or "striped" in caption
        assert "yellow" in caption or "dotted" in caption


def test_templates_dress_some_captions():
    rng = np.random.default_rng(2)
    words = SceneWords(objects=((0, 1),), grounds=(0,))
    captions = [single_caption(rng, words, TEMPLATES) for _ in range(400)]
    dressed = sum(len(caption.split()) > 4 for caption in captions)
    assert 150 < dressed < 330


def test_what_has_no_name_is_not_mentioned():
    rng = np.random.default_rng(3)
    phrases = {object_phrase(rng, 1, len(world.TEXTURES)) for _ in range(100)}
    assert phrases == {"green thing", "green object", "green shape", "something green"}
    phrases = {object_phrase(rng, len(world.COLOURS), 1) for _ in range(100)}
    assert phrases == {"striped thing", "striped object", "striped shape", "something striped"}


def test_hidden_objects_are_not_mentioned():
    options = SceneOptions(size=(64, 64), objects=(12, 12))
    for index in range(20):
        scene = generate_scene(0, index, options=options)
        words = SceneWords.of(scene)
        assert len(words.objects) <= sum(item.visible >= 30 for item in scene.objects)


def test_nothing_to_say_is_an_error():
    with pytest.raises(ValueError, match="nothing large enough"):
        single_caption(np.random.default_rng(0), SceneWords((), ()), [str])
