"""From tokens and two states to anomaly maps and scores."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

# B batch, N = h*w patches, D joint width, H W image, h w grid

_ROTATIONS = (1, -1, 2, -2, 3, -3, 4, -4)  # sixteenths of pi
_SHIFTS = (0.2, 0.1)  # of half the image's side
_GREY = (0.299, 0.587, 0.114)


def abnormal_probability(tokens: Tensor, states_2D: Tensor) -> Tensor:
    """Softmax of the two cosines without temperature, the abnormal state's share.

    Args:
        tokens: (..., D), not normalised.
        states_2D: (2, D) unit rows, normal first.

    Returns:
        (...) close to one half; only the order means something.
    """
    return (F.normalize(tokens.float(), dim=-1) @ states_2D.T).softmax(-1)[..., 1]


def smooth_map(map_Bhw: Tensor) -> Tensor:
    """Mean over 3 x 3 places, the border repeated."""
    return F.avg_pool2d(F.pad(map_Bhw[:, None], (1, 1, 1, 1), mode="replicate"), 3, stride=1)[:, 0]


def enlarge_map(map_Bhw: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize to the image, bilinear with aligned corners: (B, H, W)."""
    return F.interpolate(map_Bhw[:, None], size, mode="bilinear", align_corners=True)[:, 0]


def augmented_views(image_3HW: Tensor) -> Iterator[Tensor]:
    """The 22 views whose class tokens make the image's score, each (3, H', W').

    The image; rotations by one to four sixteenths of pi both ways; shifts to the four corners by a fifth and a tenth of
    half the side; the mirror image; grey; quarter turns. Where a view reaches beyond the image it is reflected.
    """
    yield image_3HW
    for sixteenths in _ROTATIONS:
        angle = torch.tensor(sixteenths * torch.pi / 16)
        yield _move(image_3HW, [[angle.cos(), -angle.sin(), 0.0], [angle.sin(), angle.cos(), 0.0]])
    for shift in _SHIFTS:
        for down in (shift, -shift):
            for right in (shift, -shift):
                yield _move(image_3HW, [[1.0, 0.0, right], [0.0, 1.0, down]])
    yield image_3HW.flip(2)
    weights = torch.tensor(_GREY, dtype=image_3HW.dtype, device=image_3HW.device)
    yield (image_3HW * weights[:, None, None]).sum(0, keepdim=True).expand(3, -1, -1)
    for turns in (1, 2, 3):
        yield image_3HW.rot90(turns, (1, 2))


def _move(image_3HW: Tensor, matrix: list) -> Tensor:
    theta = torch.tensor([[float(value) for value in row] for row in matrix]).to(image_3HW)[None]
    grid = F.affine_grid(theta, [1, *image_3HW.shape], align_corners=True)
    return F.grid_sample(image_3HW[None], grid, padding_mode="reflection", align_corners=True)[0]
