"""The bundled pictures (``assets/demo``): larger compositions, each from a recorded seed."""

from pathlib import Path

from PIL import Image

from mmseg_plugins.datasets.shapesworld.scene import Scene, SceneOptions, generate_scene

ASSET_FOLDER = Path(__file__).parents[2] / "assets" / "demo"
_OPTIONS = SceneOptions(size=(192, 256), objects=(11, 14), radius=(14.0, 27.0), grounds=3)
# File stem -> index of the scene.
DEMO_SCENES = {"shapes": 7, "shapes_2": 10}
_SEED = 2026


def demo_scene(name: str) -> Scene:
    """Return the scene of a bundled picture, with its ground truth.

    Args:
        name: one of ``DEMO_SCENES``.
    """
    if name not in DEMO_SCENES:
        raise KeyError(f"unknown demo picture {name!r}. Available: {', '.join(DEMO_SCENES)}.")
    return generate_scene(_SEED, DEMO_SCENES[name], split="test", options=_OPTIONS)


def write_demo_pictures(folder: Path = ASSET_FOLDER) -> list[Path]:
    """Write the bundled pictures and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.png" for name in DEMO_SCENES]
    for path in paths:
        Image.fromarray(demo_scene(path.stem).image).save(path)
    return paths
