"""The order in which MAFT+ reads a feature map as a list of channel vectors."""

from collections.abc import Callable
from typing import Literal, get_args

from torch import Tensor

# B batch, C channels of the map, D joint width, h w grid

TokenOrder = Literal["legacy", "channels_last"]
TOKEN_ORDERS: tuple[str, ...] = get_args(TokenOrder)


def check_token_order(order: str) -> None:
    """Raise unless there is such an order.

    Raises:
        ValueError: naming the choices.
    """
    if order not in TOKEN_ORDERS:
        raise ValueError(f"Expected argument `order` to be one of {TOKEN_ORDERS}, but got {order!r}.")


def reorder_channels(features_BChw: Tensor, order: TokenOrder) -> Tensor:
    """Read a map as h*w vectors of C numbers.

    ``channels_last`` gives the channel vector of every position. ``legacy`` is what the published code of MAFT+ does
    (and Mask-Adapter's on MAFT+): it cuts each image's C*h*w numbers, as they lie in memory, into runs of C, so that
    a vector holds neighbouring *positions* of few channels. The released weights were trained this way.

    Args:
        features_BChw: a feature map.
        order: see above.

    Returns:
        (B, h, w, C).

    Raises:
        ValueError: if there is no such order.
    """
    check_token_order(order)
    if order == "channels_last":
        return features_BChw.permute(0, 2, 3, 1)
    batch, channels, height, width = features_BChw.shape
    return features_BChw.reshape(batch, height, width, channels)


def image_tokens(features_BChw: Tensor, project: Callable[[Tensor], Tensor], order: TokenOrder) -> Tensor:
    """Project a map's vectors into the joint space.

    Args:
        features_BChw: dense map that masks pool from, in front of the projection.
        project: (..., C) to (..., D), CLIP's own head.
        order: see :func:`reorder_channels`.

    Returns:
        (B, D, h, w), not normalised.

    Raises:
        ValueError: if there is no such order.
    """
    return project(reorder_channels(features_BChw, order)).permute(0, 3, 1, 2)
