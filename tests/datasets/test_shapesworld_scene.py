import hashlib

import numpy as np
import pytest

from mmseg_plugins.datasets.shapesworld import SceneOptions, generate_scene, world
from mmseg_plugins.datasets.shapesworld.patterns import ground_tile, shape_distance, texture_coverage


def _digest(scenes):
    parts = [part.tobytes() for scene in scenes for part in (scene.image, scene.ground, scene.instance)]
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


def test_bytes_belong_to_the_generator_version():
    # If this fails, scenes changed: raise GENERATOR_VERSION and train the embedded model anew.
    assert world.GENERATOR_VERSION == 1
    scenes = [generate_scene(3, index) for index in range(20)]
    wide = [generate_scene(3, 0, split="test", options=SceneOptions(size=(96, 160), pairs="seen", nameless=0.3))]
    assert (_digest(scenes), _digest(wide)) == ("eb154ff85fe90287", "77fa99a786065923")


def test_a_scene_does_not_depend_on_those_made_before():
    alone = generate_scene(5, 7)
    for index in range(7):
        generate_scene(5, index)
    assert _digest([generate_scene(5, 7)]) == _digest([alone])


def test_seeds_splits_and_indices_give_different_scenes():
    made = [generate_scene(0, 0), generate_scene(0, 1), generate_scene(1, 0), generate_scene(0, 0, split="test")]
    assert len({_digest([scene]) for scene in made}) == 4


@pytest.mark.parametrize("size", [(64, 64), (96, 96), (16, 40), (130, 70)])
def test_ground_truth_is_complete_and_consistent(size):
    for index in range(5):
        scene = generate_scene(2, index, split="validation", options=SceneOptions(size=size))
        assert scene.image.shape == (*size, 3)
        assert scene.image.dtype == np.uint8
        labels = scene.labels(38)
        assert labels.max() < 38
        inside = scene.instance > 0
        assert (inside == (labels < 32)).all()
        assert (scene.colour[inside] * 4 + scene.texture[inside] == labels[inside]).all()
        assert (labels[~inside] == 32 + scene.ground[~inside]).all()
        assert (scene.colour[~inside] == 255).all()
        for number, item in enumerate(scene.objects, 1):
            assert item.visible == (scene.instance == number).sum()


def test_coarser_labels_forget_one_attribute():
    scene = generate_scene(1, 3, options=SceneOptions(size=(96, 96)))
    inside = scene.instance > 0
    assert (scene.labels(14)[inside] == scene.colour[inside]).all()
    assert (scene.labels(10)[inside] == scene.texture[inside]).all()
    assert (scene.labels(14)[~inside] == 8 + scene.ground[~inside]).all()
    assert (scene.labels(10)[~inside] == 4 + scene.ground[~inside]).all()


def test_held_out_pairs_are_balanced_and_absent_from_seen_scenes():
    colours, textures = zip(*world.HELD_OUT_PAIRS, strict=True)
    assert sorted(colours) == list(range(8))
    assert np.bincount(textures).tolist() == [2, 2, 2, 2]
    shown = {
        (item.colour, item.texture)
        for index in range(400)
        for item in generate_scene(0, index, options=SceneOptions(pairs="seen")).objects
    }
    assert shown == set(world.SEEN_PAIRS)
    everything = {(o.colour, o.texture) for index in range(400) for o in generate_scene(0, index).objects}
    assert everything == set(world.PAIRS)


def test_objects_without_a_name_have_no_label():
    scene = generate_scene(0, 0, options=SceneOptions(nameless=1.0))
    assert all((item.colour >= 8) != (item.texture >= 4) for item in scene.objects)
    assert (scene.labels(38)[scene.instance > 0] == 255).all()
    assert (scene.labels(14)[scene.instance > 0] == 255).all()


def test_objects_show_the_colour_they_are_named_by():
    plain = SceneOptions(objects=(1, 1))
    for index in range(200):
        scene = generate_scene(9, index, options=plain)
        item = scene.objects[0]
        if world.TEXTURES[item.texture] == "plain" and item.visible > 200:
            middle = np.median(scene.image[scene.instance == 1], axis=0)
            distances = np.abs(world.COLOUR_RGB - middle).sum(axis=1)
            assert distances.argmin() == item.colour


def test_larger_canvases_hold_more_objects():
    assert SceneOptions().object_range == (1, 3)
    assert SceneOptions(size=(96, 96)).object_range == (2, 5)
    assert SceneOptions(size=(256, 256)).object_range[0] > 8
    assert len(generate_scene(0, 0, options=SceneOptions(size=(64, 64), objects=(0, 0))).objects) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": (8, 64)}, "at least 16 px"),
        ({"pairs": "unseen"}, "'all' or 'seen'"),
        ({"objects": (3, 2)}, "fewest, most"),
        ({"radius": (20, 10)}, "smallest, largest"),
        ({"nameless": 2.0}, "within 0..1"),
    ],
)
def test_bad_options_say_what_is_expected(options, message):
    with pytest.raises(ValueError, match=message):
        SceneOptions(**options)


def test_unknown_split_and_granularity_are_refused():
    with pytest.raises(ValueError, match="train, validation, test"):
        generate_scene(0, 0, split="val")
    with pytest.raises(ValueError, match=r"38.*pairs and grounds"):
        generate_scene(0, 0).labels(150)


def test_ground_tiles_repeat_without_a_seam():
    for ground in range(len(world.GROUNDS)):
        tile = ground_tile(ground).mean(axis=2)
        seam = np.abs(tile[:, 0] - tile[:, -1]).mean()
        inside = np.abs(np.diff(tile, axis=1)).mean()
        # Brick: whole bricks fit the tile, and the seam may run along mortar.
        assert seam < 3 * inside + 1


@pytest.mark.parametrize("shape", range(len(world.SHAPES)))
def test_shapes_lie_within_their_radius(shape):
    y, x = np.mgrid[-40:41, -40:41].astype(np.float32)
    distance = shape_distance(shape, x, y, 20.0, np.zeros((4, 2)))
    inside = distance < 0
    assert inside[40, 40]
    assert 250 < inside.sum() < 1400
    assert np.hypot(x, y)[inside].max() < 1.2 * 20 + 1


def test_blob_without_waves_says_what_it_needs():
    with pytest.raises(ValueError, match="needs waves"):
        shape_distance(world.SHAPES.index("blob"), np.zeros((2, 2)), np.zeros((2, 2)), 5.0)


@pytest.mark.parametrize("texture", range(len(world.ALL_TEXTURES)))
def test_textures_repeat_with_their_period(texture):
    v, u = np.mgrid[0:40, 0:40].astype(np.float64)
    cover = texture_coverage(texture, u, v, 5.0)
    assert cover.min() >= 0
    assert cover.max() <= 1
    assert (cover.std() == 0) == (world.ALL_TEXTURES[texture] == "plain")
    if world.ALL_TEXTURES[texture] != "speckled":
        period = 10 if world.ALL_TEXTURES[texture] == "zigzag" else 5
        np.testing.assert_allclose(cover[:, 5:], cover[:, :-5], atol=1e-9)
        np.testing.assert_allclose(cover[period:], cover[:-period], atol=1e-9)
