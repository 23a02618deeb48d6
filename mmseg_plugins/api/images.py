"""Reading pictures from whatever a user has: path, bytes, open file, PIL image, array or tensor."""

import io
import os
import warnings
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

ImageSource: TypeAlias = "str | os.PathLike | bytes | IO[bytes] | Image.Image | NDArray | Any"
RGB = NDArray[np.uint8]

_WHITE = (255, 255, 255)
_WEB = ("http://", "https://", "ftp://", "s3://")
_DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")
# 16 bits to 8: 65535 becomes 255.
_SIXTEEN_TO_EIGHT = 257


def read_image(source: ImageSource) -> RGB:
    """Read a picture as 8-bit RGB, the right way up.

    Args:
        source: one of

            * a path, bytes of an image file, or an open binary file, in any format that Pillow reads. The camera's
              orientation (EXIF) is applied; of an animation the first frame is taken.
            * a ``PIL.Image``;
            * a NumPy array: (H, W) grey, or (H, W, C) with 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGBA) channels;
            * a torch tensor: (H, W), or (C, H, W) with channels as above.

            Array and tensor values are uint8, uint16 (scaled to 8 bits), bool, or floats from 0 to 1. Transparent
            pixels are put on white.

    Returns:
        (H, W, 3) uint8, red first, contiguous.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is not a readable image, or shape, type or range of an array do not fit.
        TypeError: if the source is of another kind.
    """
    if isinstance(source, Image.Image):
        return _from_pil(source, "image")
    if isinstance(source, (str, os.PathLike)):
        return _from_path(os.fspath(source))
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _from_file(io.BytesIO(source), f"image of {len(source)} bytes")
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if hasattr(source, "detach") and hasattr(source, "cpu"):
        return _from_tensor(source)
    if hasattr(source, "read"):
        return _from_file(source, "image file")
    raise TypeError(
        f"an image is a path, bytes, a PIL image, an array (H, W, C) or a tensor (C, H, W), but got "
        f"{type(source).__name__}."
    )


def _from_path(path: str) -> RGB:
    if path.startswith(_WEB):
        raise ValueError(f"{path} is a web address: download the image first, and give its path.")
    place = Path(path).expanduser()
    if place.is_dir():
        raise ValueError(f"{path} is a folder, expected an image file. On the command line a folder is fine.")
    if not place.exists():
        raise FileNotFoundError(f"image {path} does not exist (looked in {Path.cwd()}).")
    with open(place, "rb") as stream:
        return _from_file(stream, f"image {path}")


def _from_file(stream: IO[bytes], what: str) -> RGB:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(stream) as image:
                return _from_pil(image, what)
    except UnidentifiedImageError:
        raise ValueError(
            f"{what} is not in an image format that can be read, or is empty or damaged. Save it as PNG or JPEG."
        ) from None
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"{what} is too large: {error} If you trust it, set PIL.Image.MAX_IMAGE_PIXELS, or shrink it first."
        ) from None
    except (OSError, SyntaxError, EOFError, MemoryError) as error:
        raise ValueError(f"{what} is damaged and cannot be decoded: {error}. Get the file again.") from error


def _from_pil(image: Image.Image, what: str) -> RGB:
    image = ImageOps.exif_transpose(image)
    if 0 in image.size:
        raise ValueError(f"{what} has no pixels: {image.size[0]} x {image.size[1]}.")
    if image.mode in _DEEP_MODES:
        return _from_deep_grey(np.asarray(image), what)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, (*_WHITE, 255))
        image = Image.alpha_composite(ground, image)
    return np.ascontiguousarray(image.convert("RGB"))


def _from_deep_grey(values: NDArray, what: str) -> RGB:
    """One channel of 16 or 32 bits; integers are taken as 16-bit values."""
    if values.dtype.kind == "f":
        return _grey_to_rgb(_float_to_bytes(values, what))
    if values.size and (values.min() < 0 or values.max() > 65535):
        raise ValueError(f"{what} has values {values.min()}..{values.max()}, expected 8 or 16 bits. Rescale it first.")
    return _grey_to_rgb(_sixteen_to_bytes(values))


def _from_tensor(tensor: Any) -> RGB:
    """Bring a torch tensor to array order; torch itself is not needed here."""
    shape = tuple(tensor.shape)
    if tensor.ndim == 4:
        raise ValueError(f"expected one image (C, H, W), but got a batch {shape}. Loop over its first axis.")
    if tensor.ndim == 3 and shape[0] not in (1, 2, 3, 4):
        raise ValueError(f"expected a tensor (C, H, W) with 1 to 4 channels or (H, W), but got {shape}.")
    tensor = tensor.detach().cpu()
    if tensor.is_floating_point():
        tensor = tensor.float()  # NumPy has no bfloat16
    array = tensor.numpy()
    return _from_array(array.transpose(1, 2, 0) if array.ndim == 3 else array)


def _from_array(array: NDArray) -> RGB:
    if array.ndim not in (2, 3) or 0 in array.shape or (array.ndim == 3 and array.shape[2] not in (1, 2, 3, 4)):
        hint = " Channels go last in an array: use array.transpose(1, 2, 0)." if _is_channels_first(array) else ""
        raise ValueError(f"expected an array (H, W) or (H, W, 1 to 4), at least 1 x 1, but got {array.shape}.{hint}")
    values = _to_bytes(array)
    if values.ndim == 2 or values.shape[2] == 1:
        return _grey_to_rgb(values.reshape(values.shape[:2]))
    if values.shape[2] in (2, 4):
        return _from_pil(Image.fromarray(values, "LA" if values.shape[2] == 2 else "RGBA"), "array")
    return np.ascontiguousarray(values)


def _is_channels_first(array: NDArray) -> bool:
    return array.ndim == 3 and array.shape[0] in (1, 2, 3, 4) and 0 not in array.shape


def _to_bytes(array: NDArray) -> NDArray[np.uint8]:
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.uint16:
        return _sixteen_to_bytes(array)
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * 255
    if array.dtype.kind == "f":
        return _float_to_bytes(array, "array")
    if array.dtype.kind in "iu" and array.min() >= 0 and array.max() <= 255:
        return array.astype(np.uint8)
    raise ValueError(
        f"expected image values as uint8, uint16, bool or floats from 0 to 1, but got {array.dtype} from "
        f"{array.min()} to {array.max()}. Convert it first."
    )


def _float_to_bytes(values: NDArray, what: str) -> NDArray[np.uint8]:
    lowest, highest = float(values.min()), float(values.max())
    if not (lowest >= 0 and highest <= 1):  # NaN fails too
        raise ValueError(
            f"{what} has float values from {lowest:.4g} to {highest:.4g}, expected 0 to 1. Divide by the largest "
            "possible value, or convert to uint8; do not normalise, the model does that itself."
        )
    return (values * 255).round().astype(np.uint8)


def _sixteen_to_bytes(values: NDArray) -> NDArray[np.uint8]:
    return ((values.astype(np.uint32) + _SIXTEEN_TO_EIGHT // 2) // _SIXTEEN_TO_EIGHT).astype(np.uint8)


def _grey_to_rgb(values: NDArray[np.uint8]) -> RGB:
    return np.repeat(values[:, :, None], 3, axis=2)
