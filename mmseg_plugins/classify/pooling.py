"""Mask pooling: the mean of CLIP's features inside a mask names it (FC-CLIP, MAFT+)."""

import torch
import torch.nn.functional as F
from mmseg.registry import MODELS
from torch import Tensor

from mmseg_plugins.classify.classifier import MaskClassifier, PoolableMasks
from mmseg_plugins.classify.features import ClipMaskFeatures
from mmseg_plugins.ops import mask_pool
from mmseg_plugins.ops._precision import without_autocast
from mmseg_plugins.ops.mask_pool import RESIZES, Resize
from mmseg_plugins.towers.position import resize_positions
from mmseg_plugins.towers.resnet import AttentionPool

# B batch, Q masks, W channels of the dense map, D joint width, h w its grid, H W masks, P = h * w


@MODELS.register_module()
class MaskPoolingClassifier(MaskClassifier):
    """Mean of the dense map inside each mask, then CLIP's projection; a ResNet's attention pool instead of both.

    Mask logits are resized to the dense map first and then compared with the threshold, as published.

    Args:
        threshold: logit above which a place belongs to a mask.
        attention_pool: whether a ResNet attends inside the mask, as published; False: the mean, then the value path.
        resize: ``mask``, as published for decoders; ``features`` brings the dense map to the masks instead, the way for
            sharp masks at image resolution (SAM, ground truth), which the former would miss where they are small.
        impl: which implementation of the pooling operator, see :func:`mmseg_plugins.ops.mask_pool`.

    Raises:
        ValueError: if there is no such way of resizing.
    """

    def __init__(
        self, *, threshold: float = 0.0, attention_pool: bool = True, resize: Resize = "mask", impl: str = "auto"
    ) -> None:
        super().__init__()
        if resize not in RESIZES:
            raise ValueError(f"Expected mask_classifier.resize to be one of {RESIZES}, but got {resize!r}.")
        self.threshold, self.attention_pool, self.resize, self.impl = threshold, attention_pool, resize, impl

    def forward(self, features: ClipMaskFeatures, mask_logits: Tensor | PoolableMasks) -> Tensor:
        """Embed masks, see :class:`MaskClassifier`; (B, Q, D), an empty mask is the projection of zeros."""
        if features.attention_pool is not None and self.attention_pool:
            if not isinstance(mask_logits, Tensor):
                raise ValueError(
                    "a ResNet's attention pool needs mask tensors, but got compressed masks. Set "
                    "mask_classifier=dict(attention_pool=False), or decode the masks."
                )
            return attention_pool_masks(features.attention_pool, features.dense, mask_logits, self.threshold)
        return features.project(self.pool(features, mask_logits))

    def pool(self, features: ClipMaskFeatures, mask_logits: Tensor | PoolableMasks) -> Tensor:
        """Return the means in front of the projection, (B, Q, W); 0 for an empty mask."""
        if not isinstance(mask_logits, Tensor):
            return mask_logits.pool(features.dense)
        masks, threshold = mask_logits.detach(), self.threshold
        if not masks.is_floating_point():  # sharp masks kept as integers
            sharp = masks > threshold
            masks, threshold = (sharp, 0.0) if self.resize == "features" else (masks.float(), threshold)
        return mask_pool(features.dense, masks, threshold=threshold, resize=self.resize, impl=self.impl)


def masks_on_grid(mask_logits: Tensor, grid: tuple[int, int]) -> Tensor:
    """Resize (B, Q, H, W) mask logits to a feature grid in float32: bilinear, half-pixel centres, no antialiasing."""
    with without_autocast(mask_logits):
        return F.interpolate(mask_logits.float(), grid, mode="bilinear", align_corners=False)


def valid_masks(mask_logits: Tensor, grid: tuple[int, int], threshold: float = 0.0) -> Tensor:
    """(B, Q) bool: whether a mask has a place above the threshold on the feature grid."""
    return (masks_on_grid(mask_logits, grid) > threshold).flatten(2).any(-1)


def attention_pool_masks(
    pool: AttentionPool, dense_BWhw: Tensor, mask_logits: Tensor, threshold: float = 0.0
) -> Tensor:
    """Run CLIP's attention pool once per mask, attending inside the mask only.

    The query is the same for every mask: the map's mean with the first position. Keys and values are the map with the
    other positions, resized bilinearly; the mean is not among them.

    Args:
        pool: the tower's attention pool.
        dense_BWhw: layer4.
        mask_logits: (B, Q, H, W); resized to the map, places above the threshold are attended to.
        threshold: on the scale of the logits.

    Returns:
        (B, Q, D). An empty mask gives the projection of zeros (the published code: NaN).
    """
    grid = tuple(dense_BWhw.shape[-2:])
    inside_BQP = (masks_on_grid(mask_logits, grid) > threshold).flatten(2)
    empty_BQ1 = ~inside_BQP.any(-1, keepdim=True)
    positions_PW = resize_positions(pool.positional_embedding, pool.grid, grid, "bilinear").to(dense_BWhw.dtype)
    tokens_BPW = dense_BWhw.flatten(2).transpose(1, 2)
    query_B1W = tokens_BPW.mean(1, keepdim=True) + positions_PW[:1]
    allowed_B1QP = (inside_BQP | empty_BQ1)[:, None]
    queries_BQW = query_B1W.expand(-1, inside_BQP.shape[1], -1)
    pooled_BQD = pool.attend(queries_BQW, tokens_BPW + positions_PW[1:], allowed_B1QP)
    return torch.where(empty_BQ1, pool.c_proj.bias.to(pooled_BQD.dtype), pooled_BQD)
