import numpy as np
import pytest
from PIL import Image

from mmseg_plugins.datasets.shapesworld.demo import ASSET_FOLDER, DEMO_SCENES, demo_scene


@pytest.mark.parametrize("name", list(DEMO_SCENES))
def test_bundled_pictures_are_generated_scenes(name):
    # Write them with mmseg_plugins.datasets.shapesworld.demo.write_demo_pictures().
    assert (np.array(Image.open(ASSET_FOLDER / f"{name}.png")) == demo_scene(name).image).all()


def test_unknown_picture_lists_what_there_is():
    with pytest.raises(KeyError, match="shapes_2"):
        demo_scene("cat")
