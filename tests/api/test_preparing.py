import numpy as np
import pytest

from mmseg_plugins.api.configs import find_config
from mmseg_plugins.api.preparing import PicturePipeline


@pytest.fixture(scope="module", autouse=True)
def _registered():
    from mmengine.registry import init_default_scope

    import mmseg_plugins.register  # noqa: F401  (fills the registries)

    init_default_scope("mmseg")


def picture(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_steps_equal_mmsegs_own_pipeline(tmp_path):
    from mmcv.transforms import Compose
    from mmengine.config import Config
    from PIL import Image

    config = Config.fromfile(find_config("maskclip_vit-b16_ade20k-512x512"))
    image = picture(60, 90)
    Image.fromarray(image).save(tmp_path / "a.png")
    steps = [step for step in config.test_pipeline if step["type"] != "LoadLabelMap"]
    expected = Compose(steps)({"img_path": str(tmp_path / "a.png")})
    packed = PicturePipeline.from_config(config)(image)
    assert np.array_equal(packed["inputs"], expected["inputs"])
    for key in ("ori_shape", "img_shape", "scale_factor"):
        assert packed["data_samples"].metainfo[key] == expected["data_samples"].metainfo[key]


@pytest.mark.parametrize(("size", "scaled"), [((1, 5000), (1, 2048)), ((5000, 1), (2048, 1)), ((1, 1), (512, 512))])
def test_resizing_leaves_at_least_one_pixel(size, scaled):
    pipeline = PicturePipeline(
        [{"type": "Resize", "scale": (2048, 512), "keep_ratio": True}, {"type": "PackSegInputs"}]
    )
    packed = pipeline(picture(*size))
    assert tuple(packed["inputs"].shape[1:]) == scaled
    assert packed["data_samples"].metainfo["ori_shape"] == size


def test_large_pictures_are_shrunk_to_the_longest_side():
    pipeline = PicturePipeline([{"type": "PackSegInputs"}], longest_side=100)
    assert pipeline(picture(50, 200))["inputs"].shape == (3, 25, 100)
    assert pipeline(picture(50, 80))["inputs"].shape == (3, 50, 80)
    assert pipeline(picture(1, 5000))["inputs"].shape == (3, 1, 100)


def test_channels_come_in_the_order_that_mmseg_expects():
    image = picture(4, 5)
    inputs = PicturePipeline([{"type": "PackSegInputs"}])(image)["inputs"].numpy()
    assert np.array_equal(inputs, image[:, :, ::-1].transpose(2, 0, 1))
