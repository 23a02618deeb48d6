"""Reading masks at points instead of everywhere (PointRend, arXiv 1912.08193)."""

# N maps, P points, H W size of a map

import torch
import torch.nn.functional as F
from torch import Tensor


def sample_points(maps: Tensor, points: Tensor) -> Tensor:
    """Read each map at points, bilinearly; outside a map is zero.

    Args:
        maps: (N, H, W), floating, or bool taken as 0 and 1.
        points: (N, P, 2), or (1, P, 2) for the same points in every map; x and y in [0, 1], 0 the left or upper edge.

    Returns:
        (N, P), in float32 or better.
    """
    maps = maps.to(torch.promote_types(maps.dtype, torch.float32)) if maps.is_floating_point() else maps.float()
    grid = (2 * points.to(maps.dtype) - 1)[:, :, None]
    if len(points) == 1:
        return F.grid_sample(maps[None], grid, mode="bilinear", align_corners=False)[0, :, :, 0]
    return F.grid_sample(maps[:, None], grid, mode="bilinear", align_corners=False)[:, 0, :, 0]


@torch.no_grad()
def uncertain_points(mask_logits: Tensor, count: int, *, oversample: float = 3.0, importance: float = 0.75) -> Tensor:
    """Draw points, most of them where the masks are undecided.

    ``oversample * count`` points are drawn per mask; of these the ``importance * count`` with the smallest absolute
    logit are kept, and filled up with fresh ones.

    Args:
        mask_logits: (N, H, W).
        count: P points per mask.
        oversample: at least 1.
        importance: in [0, 1].

    Returns:
        (N, P, 2), x and y in [0, 1).
    """
    masks = len(mask_logits)
    drawn = torch.rand(masks, int(count * oversample), 2, device=mask_logits.device)
    undecided = -sample_points(mask_logits, drawn).abs()
    chosen = int(importance * count)
    best = undecided.topk(chosen, dim=1).indices
    kept = drawn.gather(1, best[..., None].expand(-1, -1, 2))
    fresh = torch.rand(masks, count - chosen, 2, device=mask_logits.device)
    return torch.cat([kept, fresh], 1)
