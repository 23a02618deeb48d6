"""ShapesWorld: a generated world of coloured, textured shapes on textured grounds.

Nothing here needs mmseg or torch except ``dataset`` (the mmseg data set class).
"""

from mmseg_plugins.datasets.shapesworld.scene import Scene, SceneOptions, generate_scene
from mmseg_plugins.datasets.shapesworld.world import GENERATOR_VERSION, GRANULARITIES

__all__ = ["GENERATOR_VERSION", "GRANULARITIES", "Scene", "SceneOptions", "generate_scene"]
