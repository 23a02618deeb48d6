"""The pooling functions as modules, so that a configuration can choose the variant and the tier that computes it.

Letters: B images, Q masks, K maps per mask, C channels, ``H W`` feature grid, ``h w`` mask grid.
"""

from torch import Tensor, nn

from mmseg_plugins.ops._dispatch import IMPLS, PRECISIONS, Impl, Precision
from mmseg_plugins.ops._schema import MODES, REDUCTIONS
from mmseg_plugins.ops._validate import check_eps, check_option
from mmseg_plugins.ops.mask_pool import RESIZES, Mode, Reduce, Resize, mask_pool


class MaskPooling(nn.Module):
    """One embedding per mask: :func:`mask_pool` with fixed options. FC-CLIP's and MAFT+'s pool with the defaults.

    ``forward`` takes features (B, C, H, W) and masks (B, Q, h, w) and returns (B, Q, C).

    Args:
        mode: weight of a pixel from its mask value.
        threshold: of ``hard`` and ``gated``, on the scale of the masks.
        eps: added to the area.
        resize: whether masks or features are brought to the other's grid.
        precision: whether float32 products on CUDA may use TF32; None follows torch's own setting.
        impl: tier that computes.

    Raises:
        ValueError: if an option is unknown.
    """

    def __init__(
        self,
        *,
        mode: Mode = "hard",
        threshold: float = 0.0,
        eps: float = 1e-8,
        resize: Resize = "mask",
        precision: Precision = None,
        impl: Impl = "auto",
    ) -> None:
        super().__init__()
        check_option("mode", mode, MODES)
        check_option("resize", resize, RESIZES)
        check_option("precision", precision, PRECISIONS)
        check_option("impl", impl, IMPLS)
        check_eps(eps)
        self.mode = mode
        self.threshold = threshold
        self.eps = eps
        self.resize = resize
        self.precision = precision
        self.impl = impl

    def forward(self, features: Tensor, masks: Tensor) -> Tensor:
        """Pool features (B, C, H, W) under masks (B, Q, h, w): (B, Q, C)."""
        return mask_pool(
            features,
            masks,
            mode=self.mode,
            threshold=self.threshold,
            eps=self.eps,
            resize=self.resize,
            precision=self.precision,
            impl=self.impl,
        )

    def extra_repr(self) -> str:
        """Name the options in the printed module."""
        return f"mode={self.mode!r}, threshold={self.threshold}, resize={self.resize!r}, impl={self.impl!r}"


class ActivationMapPooling(nn.Module):
    """Mask-Adapter's pool: K semantic activation maps per mask, each a softmax over pixels of its logsigmoid.

    ``forward`` takes features (B, C, H, W) and maps (B, Q*K, h, w), map k of mask q at index q*K + k, and returns
    (B, Q, C), or (B, Q*K, C) with ``reduce="none"`` for a head that is not linear before the mean.

    Args:
        maps_per_mask: K; 16 as published.
        reduce: ``mean`` averages the K vectors of a mask, ``none`` returns every one.
        precision: whether float32 products on CUDA may use TF32; None follows torch's own setting.
        impl: tier that computes.

    Raises:
        ValueError: if an option is unknown.
    """

    def __init__(
        self,
        *,
        maps_per_mask: int = 16,
        reduce: Reduce = "none",
        precision: Precision = None,
        impl: Impl = "auto",
    ) -> None:
        super().__init__()
        check_option("reduce", reduce, REDUCTIONS)
        check_option("precision", precision, PRECISIONS)
        check_option("impl", impl, IMPLS)
        if maps_per_mask < 1:
            raise ValueError(f"Expected argument `maps_per_mask` to be at least 1, but got {maps_per_mask}.")
        self.maps_per_mask = maps_per_mask
        self.reduce = reduce
        self.precision = precision
        self.impl = impl

    def forward(self, features: Tensor, maps: Tensor) -> Tensor:
        """Pool features (B, C, H, W) under maps (B, Q*K, h, w): (B, Q, C) or (B, Q*K, C)."""
        return mask_pool(
            features,
            maps,
            mode="kmap",
            maps_per_mask=self.maps_per_mask,
            reduce=self.reduce,
            precision=self.precision,
            impl=self.impl,
        )

    def extra_repr(self) -> str:
        """Name the options in the printed module."""
        return f"maps_per_mask={self.maps_per_mask}, reduce={self.reduce!r}, impl={self.impl!r}"
