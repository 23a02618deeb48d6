import numpy as np
import pytest

from mmseg_plugins.evaluation.rle import (
    compress_runs,
    decode_mask,
    encode_mask,
    expand_runs,
    rle_area,
    rle_box,
    rle_size,
)


def masks():
    generator = np.random.default_rng(0)
    yield np.zeros((5, 7), np.uint8)
    yield np.ones((5, 7), np.uint8)
    yield np.ones((1, 1), np.uint8)
    for share in (0.01, 0.1, 0.5, 0.9):
        height, width = generator.integers(1, 150, 2)
        yield (generator.random((height, width)) < share).astype(np.uint8)
    corner = np.zeros((400, 3000), np.uint8)
    corner[-1, -1] = corner[200:300, 700:2500] = 1
    yield corner


@pytest.mark.parametrize("mask", list(masks()), ids=lambda mask: f"{mask.shape}")
def test_masks_survive_and_strings_equal_pycocotools(mask):
    reference = pytest.importorskip("pycocotools.mask", reason="reference strings come from pycocotools")
    encoded = encode_mask(mask)
    want = reference.encode(np.asfortranarray(mask))
    assert encoded == {"size": want["size"], "counts": want["counts"].decode()}
    np.testing.assert_array_equal(decode_mask(encoded), mask)
    assert rle_area(encoded) == mask.sum()
    assert rle_box(encoded) == list(reference.toBbox(want))
    assert rle_size(encoded) == mask.shape


def test_bytes_and_uncompressed_runs_are_read():
    mask = np.array([[0, 1], [1, 1]], np.uint8)
    encoded = encode_mask(mask)
    np.testing.assert_array_equal(decode_mask({**encoded, "counts": encoded["counts"].encode()}), mask)
    np.testing.assert_array_equal(decode_mask({"size": [2, 2], "counts": [1, 3]}), mask)


def test_long_runs_survive():
    runs = np.array([2**31, 5, 1, 2**33, 7, 2**20])
    np.testing.assert_array_equal(expand_runs(compress_runs(runs)), runs)


@pytest.mark.parametrize(
    ("rle", "message"),
    [
        ({"size": [5, 5], "counts": "3"}, r"runs cover 3 pixels but the mask has 5 x 5 = 25"),
        ({"size": [5, 5], "counts": "5!"}, "characters outside"),
        ({"size": [5, 5], "counts": "Y"}, "cut off"),
        ({"size": [5, 5], "counts": "N"}, "negative length"),
        ({"size": [5, 5], "counts": "PPPPPPPP0"}, "longer than any mask"),
        ({"size": [5, 5], "counts": [-3, 28]}, "runs cover"),
        ({"size": [5], "counts": "i0"}, "height, width"),
        ({"counts": "i0"}, "height, width"),
        ("i0", "height, width"),
    ],
)
def test_damaged_encodings_are_refused(rle, message):
    with pytest.raises(ValueError, match=message):
        decode_mask(rle)


def test_only_single_masks_are_encoded():
    with pytest.raises(ValueError, match="one mask at a time"):
        encode_mask(np.zeros((2, 3, 3)))
