import numpy as np
import pytest
from PIL import Image

WORDS = "red plain thing; blue striped thing; grass; sand"


@pytest.fixture(scope="session")
def segmenter(tmp_path_factory):
    """The embedded model, with a text cache of its own."""
    from mmseg_plugins import Segmenter

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMSEG_PLUGINS_CACHE", str(tmp_path_factory.mktemp("cache")))
        made = Segmenter.from_pretrained("maskclip-shapes", device="cpu")
        made.set_vocabulary(WORDS)
        yield made


@pytest.fixture
def picture(tmp_path):
    """A PNG of random pixels, 40 x 56."""
    path = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)).save(path)
    return path
