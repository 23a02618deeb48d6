"""Parameters and multiply-adds of DenseCLIP's variants against the figures that were counted on the release."""

import functools
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
    module.model_of = functools.cache(
        lambda name: module.build_model(Config.fromfile(ROOT / f"configs/denseclip/{name}.py"))
    )
    return module


def parts(flops, name, side=64, **options):
    return flops.count(flops.model_of(name), (side, side), **options)


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


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("clip_fpn_r50_8xb4-80k_ade20k-512x512", 248.8),
        ("denseclip_fpn_r101_8xb4-80k_ade20k-512x512", 346.3),
        ("clip_fpn_vit-b_8xb4-80k_ade20k-640x640", 1037.4),
        ("denseclip_fpn_vit-b_8xb4-80k_ade20k-640x640", 1043.1),
    ],
)
def test_multiply_adds_are_the_published_ones_in_the_authors_way_of_counting(flops, name, published):
    found = parts(flops, name, side=1024, is_like_fvcore=True)
    text = found["text_encoder"]["macs"] if "text_encoder" in found else 0
    assert (found["total"]["macs"] - text) / 1e9 == pytest.approx(published, abs=0.05)


def test_transposed_convolutions_count_where_they_compute_and_at_every_output_when_asked(flops):
    """The three of the ViT's pyramid, two on the patches' grid and one on twice its side, four outputs each."""
    name = "clip_fpn_vit-b_8xb4-80k_ade20k-640x640"
    plain, fvcore = parts(flops, name, side=64), parts(flops, name, side=64, is_like_fvcore=True)
    places = 4 * 4
    convolutions = (places + places + 4 * places) * 768 * 768 * 4
    assert fvcore["backbone"]["macs"] - plain["backbone"]["macs"] == 3 * convolutions
    assert fvcore["rest"]["macs"] - plain["rest"]["macs"] == 4 * 150 * 64 * 64
