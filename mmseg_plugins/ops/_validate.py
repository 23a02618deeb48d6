"""Argument checks of the public pooling functions: each names the argument, what was expected and what came."""

from collections.abc import Mapping

import torch
from torch import Tensor

FEATURE_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
MASK_DTYPES = (*FEATURE_DTYPES, torch.bool, torch.uint8)
INTEGER_DTYPES = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def _names(dtypes: tuple[torch.dtype, ...]) -> str:
    return ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)


def check_tensor(name: str, value: object, axes: str, dtypes: tuple[torch.dtype, ...]) -> None:
    """Check type, number of axes and dtype.

    Args:
        name: argument name.
        value: what was passed.
        axes: expected axes, one letter or word each, such as ``"B C H W"``.
        dtypes: accepted dtypes.

    Raises:
        TypeError: if it is no tensor.
        ValueError: if its axes or dtype do not fit.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"Expected argument `{name}` to be a tensor ({axes}), but got {type(value).__name__}.")
    if value.dim() != len(axes.split()):
        raise ValueError(f"Expected argument `{name}` to have axes ({axes}), but got shape {tuple(value.shape)}.")
    if value.dtype not in dtypes:
        raise ValueError(f"Expected argument `{name}` to be one of {_names(dtypes)}, but got {value.dtype}.")


def check_features(features: object) -> None:
    """Check the (B, C, H, W) features; B may be 0, H and W may not."""
    check_tensor("features", features, "B C H W", FEATURE_DTYPES)
    if features.shape[2] == 0 or features.shape[3] == 0:
        raise ValueError(f"Expected argument `features` to have pixels, but got shape {tuple(features.shape)}.")


def check_same(name: str, value: Tensor, features: Tensor, *, batch: bool = True) -> None:
    """Check that a tensor has the device of the features and, if asked, their batch size; nothing is broadcast."""
    if value.device != features.device:
        raise ValueError(
            f"Expected argument `{name}` on {features.device} like `features`, but got {value.device}. "
            f"Move it with .to(features.device)."
        )
    if batch and value.shape[0] != features.shape[0]:
        raise ValueError(
            f"Expected argument `{name}` to have the batch size {features.shape[0]} of `features`, but got "
            f"{value.shape[0]}. Repeat it with .expand(...) if one is meant for all images."
        )


def check_pixels(name: str, height: int, width: int) -> None:
    """Check that a grid has pixels."""
    if height < 1 or width < 1:
        raise ValueError(f"Expected argument `{name}` to have pixels, but got {height} x {width}.")


def check_option(name: str, value: object, options: Mapping[str, object] | tuple[str, ...]) -> None:
    """Check that an option is one of the known ones."""
    if value not in options:
        raise ValueError(f"Expected argument `{name}` to be one of {', '.join(map(repr, options))}, but got {value!r}.")


def check_integer(name: str, value: object, least: int | None = None) -> None:
    """Check that an option is an integer, and not below the least one allowed."""
    if not isinstance(value, (int, torch.SymInt)):
        raise TypeError(f"Expected argument `{name}` to be an integer, but got {value!r}.")
    if least is not None and value < least:
        raise ValueError(f"Expected argument `{name}` to be at least {least}, but got {value}.")


def check_size(name: str, size: object) -> tuple[int, int]:
    """Check an (h, w) pair and return it as a tuple."""
    if not isinstance(size, (tuple, list, torch.Size)) or len(size) != 2:
        raise ValueError(f"Expected argument `{name}` to be (height, width), but got {size!r}.")
    for length in size:
        check_integer(name, length)
    check_pixels(name, size[0], size[1])
    return size[0], size[1]


def check_eps(eps: float) -> None:
    """Check the constant that is added to areas."""
    if not isinstance(eps, (int, float, torch.SymInt, torch.SymFloat)) or not eps >= 0:
        raise ValueError(f"Expected argument `eps` to be at least 0, but got {eps!r}.")


def check_out_dtype(out_dtype: torch.dtype | None) -> None:
    """Check the dtype of the result."""
    if out_dtype is not None and out_dtype not in FEATURE_DTYPES:
        raise ValueError(
            f"Expected argument `out_dtype` to be None or one of {_names(FEATURE_DTYPES)}, but got {out_dtype}."
        )
