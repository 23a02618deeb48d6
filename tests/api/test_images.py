import io

import numpy as np
import pytest
import torch
from PIL import Image

from mmseg_plugins.api.images import read_image

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (7, 11, 3), dtype=np.uint8)
GREY = PIXELS[:, :, 0]


def saved(image, tmp_path, name, **options):
    path = tmp_path / name
    image.save(path, **options)
    return path


def test_every_way_to_hand_over_a_picture_gives_the_same_pixels(tmp_path):
    path = saved(Image.fromarray(PIXELS), tmp_path, "a.png")
    tensor = torch.from_numpy(PIXELS).permute(2, 0, 1)
    with open(path, "rb") as stream:
        sources = [path, str(path), path.read_bytes(), io.BytesIO(path.read_bytes()), Image.open(path), PIXELS, tensor]
        for source in (*sources, tensor.float() / 255, PIXELS / 255.0, PIXELS.astype(np.int64), stream):
            result = read_image(source)
            assert result.dtype == np.uint8
            assert result.flags.c_contiguous
            assert np.array_equal(result, PIXELS)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_camera_orientation_is_applied(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(Image.fromarray(PIXELS), tmp_path, "a.png", exif=exif)
    turned = {
        1: PIXELS, 2: PIXELS[:, ::-1], 3: PIXELS[::-1, ::-1], 4: PIXELS[::-1], 5: PIXELS.transpose(1, 0, 2),
        6: np.rot90(PIXELS, -1), 7: PIXELS.transpose(1, 0, 2)[::-1, ::-1], 8: np.rot90(PIXELS),
    }  # fmt: skip
    assert np.array_equal(read_image(path), turned[orientation])


def test_grey_pictures_get_three_equal_channels(tmp_path):
    expected = np.stack([GREY] * 3, 2)
    path = saved(Image.fromarray(GREY), tmp_path, "a.png")
    for source in (path, GREY, GREY[:, :, None], torch.from_numpy(GREY), torch.from_numpy(GREY)[None]):
        assert np.array_equal(read_image(source), expected)


def test_sixteen_bits_are_scaled_to_eight(tmp_path):
    deep = GREY.astype(np.uint16) * 257
    expected = np.stack([GREY] * 3, 2)
    for name in ("a.png", "a.tif"):
        assert np.array_equal(read_image(saved(Image.fromarray(deep), tmp_path, name)), expected)
    assert np.array_equal(read_image(deep), expected)
    assert np.array_equal(read_image(PIXELS.astype(np.uint16) * 257), PIXELS)


def test_transparent_pixels_lie_on_white(tmp_path):
    alpha = np.full((7, 11, 1), 255, dtype=np.uint8)
    alpha[:3] = 0
    alpha[3] = 128
    rgba = np.concatenate([PIXELS, alpha], 2)
    share = alpha.astype(float) / 255
    expected = PIXELS * share + 255 * (1 - share)
    tensor = torch.from_numpy(rgba).permute(2, 0, 1)
    for source in (saved(Image.fromarray(rgba), tmp_path, "a.png"), rgba, tensor):
        assert np.abs(read_image(source).astype(float) - expected).max() <= 1


def test_palette_and_cmyk_and_grey_with_alpha_and_one_bit(tmp_path):
    palette = Image.fromarray(PIXELS).quantize(16)
    assert np.array_equal(read_image(saved(palette, tmp_path, "a.png")), np.asarray(palette.convert("RGB")))
    palette.info["transparency"] = 0
    clear = np.asarray(palette) == 0
    assert (read_image(saved(palette, tmp_path, "b.png", transparency=0))[clear] == 255).all()
    assert read_image(Image.fromarray(PIXELS).convert("CMYK")).shape == PIXELS.shape
    grey_alpha = np.stack([GREY, np.zeros_like(GREY)], 2)
    assert (read_image(grey_alpha) == 255).all()
    assert np.array_equal(read_image(GREY > 100)[:, :, 0], (GREY > 100) * np.uint8(255))


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (5, 4), colour) for colour in ("red", "blue")]
    path = saved(frames[0], tmp_path, "a.gif", save_all=True, append_images=frames[1:])
    assert (read_image(path) == (255, 0, 0)).all()


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 5000, 3), (5000, 1)])
def test_extreme_shapes(shape):
    assert read_image(np.zeros(shape, dtype=np.uint8)).shape == (*shape[:2], 3)


def test_missing_folder_empty_truncated_and_foreign_files_are_named(tmp_path):
    whole = saved(Image.fromarray(np.tile(PIXELS, (20, 20, 1))), tmp_path, "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(FileNotFoundError, match="nothing.png does not exist"):
        read_image(tmp_path / "nothing.png")
    with pytest.raises(ValueError, match="is a folder"):
        read_image(tmp_path)
    with pytest.raises(ValueError, match=r"cut.jpg is damaged.*Get the file again"):
        read_image(tmp_path / "cut.jpg")
    for name in ("empty.png", "text.png"):
        with pytest.raises(ValueError, match=rf"{name} is not in an image format"):
            read_image(tmp_path / name)
    with pytest.raises(ValueError, match="not in an image format"):
        read_image(b"nothing")
    with pytest.raises(ValueError, match="download the image first"):
        read_image("https://example.org/a.png")


def test_a_picture_that_is_too_large_says_what_to_do(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    stream = io.BytesIO()
    Image.fromarray(PIXELS).save(stream, "PNG")
    with pytest.raises(ValueError, match="MAX_IMAGE_PIXELS"):
        read_image(stream.getvalue())


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.zeros((3, 20, 30), np.uint8), r"transpose\(1, 2, 0\)"),
        (np.zeros((0, 4, 3), np.uint8), "at least 1 x 1"),
        (np.zeros((4, 4, 5), np.uint8), "1 to 4"),
        (np.zeros((2, 4, 4, 3), np.uint8), r"\(H, W\)"),
        (torch.zeros(2, 3, 4, 4), "batch"),
        (torch.zeros(20, 30, 3), r"\(C, H, W\)"),
        (np.full((4, 4, 3), 2.5), r"2.5.*do not normalise"),
        (np.full((4, 4, 3), np.nan), "expected 0 to 1"),
        (np.full((4, 4, 3), -1), "int64 from -1"),
        (np.full((4, 4, 3), 300), "to 300"),
        (Image.fromarray(np.full((4, 4), 70000, np.int32)), "8 or 16 bits"),
    ],
)
def test_arrays_that_do_not_fit_say_what_is_expected(source, message):
    with pytest.raises(ValueError, match=message):
        read_image(source)


@pytest.mark.parametrize("source", [None, 3, ["a.png"]])
def test_other_kinds_are_refused(source):
    with pytest.raises(TypeError, match="an image is a path"):
        read_image(source)
