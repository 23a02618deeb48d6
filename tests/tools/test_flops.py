"""Parameters and multiply-adds of DenseCLIP's variants against the figures that were counted on the release."""

import importlib.util
from pathlib import Path

import pytest
from mmengine.config import Config

ROOT = Path(__file__).resolve().parents[2]
TOLERANCE = 0.005


@pytest.fixture(scope="module")
def flops():
    spec = importlib.util.spec_from_file_location("flops_tool", ROOT / "tools/flops.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parts(flops, name, side=64):
    config = Config.fromfile(ROOT / f"configs/denseclip/{name}.py")
    return flops.count(flops.build_model(config), (side, side))


@pytest.mark.parametrize(
    ("name", "image_millions", "text_millions"),
    [
        ("denseclip_fpn_r50_8xb4-80k_ade20k-512x512", 50.25, 63.7),
        ("denseclip_fpn_r101_8xb4-80k_ade20k-512x512", 67.80, 63.4),
        ("denseclip_fpn_vit-b_8xb4-80k_ade20k-640x640", 105.27, 63.4),
        ("clip_fpn_r50_8xb4-80k_ade20k-512x512", 31.04, 0.0),
        ("clip_fpn_vit-b_8xb4-80k_ade20k-640x640", 101.28, 0.0),
    ],
)
def test_parameters_are_those_of_the_release(flops, name, image_millions, text_millions):
    found = parts(flops, name)
    text = found["text_encoder"]["parameters"] if text_millions else 0
    assert text / 1e6 == pytest.approx(text_millions, rel=TOLERANCE)
    assert (found["total"]["parameters"] - text) / 1e6 == pytest.approx(image_millions, rel=TOLERANCE)


def test_multiply_adds_of_rn50_are_those_of_the_release(flops):
    found = parts(flops, "denseclip_fpn_r50_8xb4-80k_ade20k-512x512", side=1024)
    image = found["total"]["macs"] - found["text_encoder"]["macs"]
    batched = found["total"]["batched_macs"] - found["text_encoder"]["batched_macs"]
    assert (image - batched) / 1e9 == pytest.approx(265.5, rel=TOLERANCE)  # the release's counter skips attention
    assert image / 1e9 == pytest.approx(265.5 + 4.3, rel=TOLERANCE)
    assert found["text_encoder"]["macs"] / 1e9 == pytest.approx(73.8, rel=TOLERANCE)
