"""Multi-scale views of a test image."""

from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from mmseg.registry import TRANSFORMS

import mmseg_plugins.register

_ = mmseg_plugins.register  # imported for its effect
CONFIGS = Path(__file__).parents[2] / "configs"


def views(image, **options):
    step = TRANSFORMS.build({"type": "MultiScaleFlip", "transforms": [], **options})
    height, width = image.shape[:2]
    return step({"img": image, "img_shape": (height, width), "ori_shape": (height, width), "seg_fields": []})


@pytest.mark.parametrize(("height", "width"), [(30, 40), (300, 400)])
def test_ratios_are_of_the_test_scale_whatever_the_images_size(height, width):
    image = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    found = views(image, scale=(2048, 64), ratios=(0.5, 1.0, 1.75))
    shorter = [view.shape[0] for view in found["img"]]
    assert shorter == [32, 32, 64, 64, 112, 112]
    assert found["flip"] == [False, True] * 3
    np.testing.assert_array_equal(found["img"][2][:, ::-1], found["img"][3])


def test_long_images_are_limited_by_the_scaled_width():
    found = views(np.zeros((10, 100, 3), np.uint8), scale=(200, 64), ratios=(0.5,), flip=False)
    assert [view.shape[:2] for view in found["img"]] == [(10, 100)]


@pytest.mark.parametrize("ratios", [(), (1.0, 0.0)])
def test_impossible_ratios_are_refused(ratios):
    with pytest.raises(ValueError, match="ratios above 0"):
        views(np.zeros((4, 4, 3), np.uint8), scale=(8, 8), ratios=ratios)


@pytest.mark.parametrize(
    "name",
    [
        "denseclip/denseclip_fpn_vit-b_8xb4-80k_ade20k-640x640",
        "denseclip/denseclip_fpn_r50_8xb4-80k_cityscapes-512x1024",
        "denseclip/clip_fpn_r50_8xb4-80k_ade20k-512x512",
        "maskclip/maskclip_rn50_cityscapes-512x1024",
    ],
)
def test_configs_augment_their_own_test_scale(name):
    config = Config.fromfile(CONFIGS / f"{name}.py")
    (resize,) = [step for step in config.test_dataloader.dataset.pipeline if step.type == "Resize"]
    assert config.tta_pipeline[1].scale == resize.scale


def test_options_of_resize_reach_every_view():
    found = views(
        np.zeros((10, 20, 3), np.uint8), scale=(8, 8), ratios=(1.0,), flip=False, resize={"keep_ratio": False}
    )
    assert [view.shape[:2] for view in found["img"]] == [(8, 8)]
