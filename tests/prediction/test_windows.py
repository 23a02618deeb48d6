import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from mmseg_plugins.prediction.windows import (
    Box,
    Windows,
    accumulate_windows,
    is_out_of_memory,
    run_windows,
    slide_logits,
    window_grid,
)

sides = st.integers(1, 90)


class Slider:
    """What mmseg's ``slide_inference`` needs of a segmentor, with a network that depends on the pixels."""

    def __init__(self, classes, crop, stride):
        from mmengine.config import ConfigDict

        self.out_channels = classes
        self.test_cfg = ConfigDict(mode="slide", crop_size=crop, stride=stride)
        self.mix = torch.randn(classes, 3, generator=torch.Generator().manual_seed(0))

    def network(self, crops):
        """One value per 4 x 4 pixels, rounded up."""
        pooled = F.avg_pool2d(crops, 4, ceil_mode=True)
        return torch.einsum("bchw,kc->bkhw", pooled, self.mix)

    def encode_decode(self, crops, metas):
        return F.interpolate(self.network(crops), crops.shape[2:], mode="bilinear", align_corners=False)

    def slide(self, image):
        from mmseg.models.segmentors import EncoderDecoder

        return EncoderDecoder.slide_inference(self, image, [{}] * len(image))


def test_grid_by_hand():
    assert window_grid((10, 7), (6, 8), (3, 3)) == [Box(0, 0, 6, 7), Box(3, 0, 9, 7), Box(4, 0, 10, 7)]


@settings(max_examples=100, deadline=None)
@given(sides, sides, sides, sides, st.data())
def test_windows_cover_every_pixel_and_have_one_size(height, width, crop_h, crop_w, data):
    stride = data.draw(st.integers(1, crop_h)), data.draw(st.integers(1, crop_w))
    boxes = window_grid((height, width), (crop_h, crop_w), stride)
    seen = torch.zeros(height, width)
    for box in boxes:
        assert (box.bottom - box.top, box.right - box.left) == (min(crop_h, height), min(crop_w, width))
        assert box.top >= 0
        assert box.bottom <= height
        assert box.left >= 0
        assert box.right <= width
        seen[box.slices] += 1
    assert seen.min() >= 1


@settings(max_examples=25, deadline=None)
@given(st.integers(20, 70), st.integers(20, 70), st.integers(8, 40), st.integers(8, 40), st.integers(1, 7))
def test_accumulation_is_bit_equal_to_mmseg(height, width, crop, stride, classes):
    slider = Slider(classes, (crop, crop), (min(stride, crop), min(stride, crop)))
    image = torch.randn(2, 3, height, width)
    expected = slider.slide(image)
    windows = Windows(slider.test_cfg.crop_size, slider.test_cfg.stride, batch_size=len(image))
    boxes = window_grid((height, width), windows.crop, windows.stride)
    per_window = [slider.encode_decode(image[(..., *box.slices)], None) for box in boxes]
    assert torch.equal(accumulate_windows(per_window, boxes, (height, width)), expected)
    assert torch.equal(slide_logits(slider.network, image, windows), expected)


def test_windows_in_batches_come_back_in_order():
    image = torch.arange(2 * 3 * 9 * 9.0).view(2, 3, 9, 9)
    boxes = window_grid((9, 9), (4, 4), (3, 3))
    calls = []

    def network(crops):
        calls.append(len(crops))
        return crops

    logits = run_windows(network, image, boxes, batch_size=5)
    assert calls == [5, 5, 5, 3]
    for window, box in zip(logits, boxes, strict=True):
        assert torch.equal(window, image[(..., *box.slices)])


@pytest.mark.parametrize(
    "error",
    [torch.cuda.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")],
)
def test_batch_is_halved_when_memory_runs_out(error):
    image = torch.randn(1, 3, 12, 12)
    boxes = window_grid((12, 12), (4, 4), (2, 2))
    calls = []

    def network(crops):
        calls.append(len(crops))
        if len(crops) > 3:
            raise error
        return crops

    logits = run_windows(network, image, boxes, batch_size=16)
    assert calls[:4] == [16, 8, 4, 2]
    assert max(calls[4:]) == 2
    assert torch.equal(logits[7], image[(..., *boxes[7].slices)])


def test_other_errors_and_a_single_window_too_large_are_not_hidden():
    boxes = window_grid((4, 4), (4, 4), (4, 4))

    def fails(crops):
        raise RuntimeError("shape mismatch")

    def too_large(crops):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(RuntimeError, match="shape mismatch"):
        run_windows(fails, torch.zeros(1, 3, 4, 4), boxes)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        run_windows(too_large, torch.zeros(1, 3, 4, 4), boxes)
    assert not is_out_of_memory(RuntimeError("shape mismatch"))


def test_centre_padding_reaches_the_network_and_is_cropped_back():
    shapes = []

    def network(crops):
        shapes.append(tuple(crops.shape[-2:]))
        return crops

    image = torch.randn(1, 3, 10, 13)
    windows = Windows((10, 13), (5, 5), pad_multiple=8)
    assert torch.equal(slide_logits(network, image, windows), image)
    assert shapes == [(16, 16)]


def test_half_precision_windows_are_added_in_float32():
    image = torch.randn(1, 3, 20, 20)
    result = slide_logits(lambda crops: crops.bfloat16(), image, Windows((8, 8), (3, 3)))
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, image.bfloat16().float(), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop": (4, 4), "stride": (5, 4)}, "larger than the window"),
        ({"crop": (0, 4), "stride": (1, 1)}, "at least 1"),
        ({"crop": (4, 4), "stride": (4, 4), "batch_size": 0}, "at least 1"),
    ],
)
def test_wrong_settings_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        Windows(**options)


def test_missing_windows_are_named():
    with pytest.raises(ValueError, match="1 for 2"):
        accumulate_windows([torch.zeros(1, 2, 4, 4)], [Box(0, 0, 4, 4)] * 2, (4, 4))
    with pytest.raises(ValueError, match="4 pixels"):
        accumulate_windows([torch.zeros(1, 2, 4, 4)], [Box(0, 0, 4, 4)], (4, 5))
