"""One embedding per mask: the mask-weighted mean of dense features, in all its published variants.

Letters: B images, Q masks, K maps per mask, C channels, ``H W`` feature grid, ``h w`` mask grid, S segments.
"""

from typing import Literal

import torch
from torch import Tensor

from mmseg_plugins.ops._dispatch import Impl, Precision, call, check_impl, use_tf32
from mmseg_plugins.ops._eager import pool
from mmseg_plugins.ops._eager_segments import pool_labels
from mmseg_plugins.ops._precision import without_autocast
from mmseg_plugins.ops._schema import KMAP, MODES, REDUCTIONS
from mmseg_plugins.ops._validate import (
    INTEGER_DTYPES,
    MASK_DTYPES,
    check_eps,
    check_features,
    check_integer,
    check_option,
    check_out_dtype,
    check_pixels,
    check_same,
    check_tensor,
)

Mode = Literal["hard", "sigmoid", "prob", "gated", "kmap"]
Reduce = Literal["mean", "none"]
Resize = Literal["mask", "features"]

RESIZES = ("mask", "features")


def mask_pool(
    features: Tensor,
    masks: Tensor,
    *,
    mode: Mode = "hard",
    threshold: float | None = 0.0,
    eps: float = 1e-8,
    maps_per_mask: int = 1,
    reduce: Reduce = "mean",
    resize: Resize = "mask",
    return_area: bool = False,
    out_dtype: torch.dtype | None = None,
    precision: Precision = None,
    impl: Impl = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Pool dense features under masks: ``sum_n w F / (sum_n w + eps)`` for every mask.

    ``w`` is, per ``mode``: ``hard``, 1 where the mask exceeds ``threshold`` (FC-CLIP, MAFT+); ``sigmoid``, the sigmoid
    of the mask; ``prob``, the mask itself; ``gated``, the mask where it exceeds ``threshold``, without gradient (a pool
    class in Mask-Adapter's code); ``kmap``, the sigmoid divided by its sum over the map, without eps and without
    underflow (Mask-Adapter's semantic activation maps). Masks of another size than the features are brought to their
    grid bilinearly before that (``resize="mask"``), or the features are brought to the mask grid
    (``resize="features"``, the way for binary masks at image resolution; nothing of that size is stored). The two are
    different functions.

    Args:
        features: (B, C, H, W), float32, bfloat16, float16 or float64, any strides.
        masks: (B, Q, h, w) logits, probabilities, or bool/uint8 taken as numbers; dtype independent of the features'.
            For ``kmap`` (B, Q*K, h, w), map k of mask q at index q*K + k.
        mode: see above.
        threshold: of ``hard`` and ``gated``, on the scale of ``masks``; strict. None is 0.
        eps: added to the area.
        maps_per_mask: K, for ``kmap`` only.
        reduce: ``mean`` averages the K vectors of a mask, ``none`` returns every one.
        resize: what is brought to the other's grid.
        return_area: return the areas as well.
        out_dtype: dtype of the result; that of the features by default. Sums are float32 or better in any case.
        precision: whether float32 products on CUDA may use TF32; None follows torch's own setting.
        impl: tier that computes; ``auto`` takes the fastest there is. ``eager`` can be differentiated twice.

    Returns:
        (B, Q, C) mask embeddings, or (B, Q*K, C) with ``reduce="none"``. An empty mask gives exactly 0. With
        ``return_area`` also the float32 areas, (B, Q) or (B, Q*K) for ``kmap``, without gradient.

    Raises:
        ValueError: if shapes, dtypes, devices or options do not fit.
        RuntimeError: if ``impl`` names a compiled tier that is not loaded.

    Example:
        >>> features = torch.arange(4.0).reshape(1, 1, 2, 2)
        >>> mask_pool(features, torch.tensor([[[[1.0, -1.0], [1.0, -1.0]]]]))
        tensor([[[1.]]])
    """
    check_features(features)
    check_tensor("masks", masks, "B Q h w", MASK_DTYPES)
    check_same("masks", masks, features)
    check_pixels("masks", masks.shape[2], masks.shape[3])
    _check_pool_options(mode, reduce, resize, maps_per_mask, masks.shape[1])
    check_common(features, eps, out_dtype, impl)
    allow_tf32 = use_tf32(precision)
    attributes = (
        MODES[mode],
        0.0 if threshold is None else float(threshold),
        float(eps),
        maps_per_mask,
        REDUCTIONS[reduce],
        # On equal grids nothing is resized, and weights on the feature grid are the cheaper way.
        resize == "features" and masks.shape[2:] != features.shape[2:],
        allow_tf32,
    )
    if impl == "eager":
        with without_autocast(features):
            pooled, area, _ = pool(features, masks, *attributes)
        pooled = pooled.to(out_dtype or features.dtype)
    else:
        save = torch.is_grad_enabled() and features.requires_grad
        pooled, area, _ = call(impl, "mask_pool_fwd", features, masks, *attributes, save, out_dtype)
    return with_area(pooled, area, return_area)


def _check_pool_options(mode: str, reduce: str, resize: str, maps_per_mask: int, rows: int) -> None:
    check_option("mode", mode, MODES)
    check_option("reduce", reduce, REDUCTIONS)
    check_option("resize", resize, RESIZES)
    check_integer("maps_per_mask", maps_per_mask, 1)
    if maps_per_mask > 1 and MODES[mode] != KMAP:
        raise ValueError(
            f"Expected argument `maps_per_mask` to be 1, or more with mode='kmap', but got {maps_per_mask} with "
            f"mode={mode!r}."
        )
    if rows % maps_per_mask:
        raise ValueError(f"Expected `masks` to have a multiple of maps_per_mask={maps_per_mask} maps, but got {rows}.")


def with_area(pooled: Tensor, area: Tensor, return_area: bool) -> Tensor | tuple[Tensor, Tensor]:
    """Return the pooled vectors, with the float32 areas beside them if they were asked for."""
    return (pooled, area.detach().to(torch.float32)) if return_area else pooled


def label_pool(
    features: Tensor,
    labels: Tensor,
    num_segments: int,
    *,
    ignore_index: int = 255,
    eps: float = 1e-8,
    resize: Resize = "features",
    return_area: bool = False,
    out_dtype: torch.dtype | None = None,
    precision: Precision = None,
    impl: Impl = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Pool dense features over the segments of a label map: the mean of the features of every segment.

    Same result as ``mask_pool(features, one_hot(labels), resize="features")``, without the one-hot maps.

    Args:
        features: (B, C, H, W), float32, bfloat16, float16 or float64, any strides.
        labels: (B, h, w) integers; the features are brought to this grid. Labels outside [0, S) belong to no segment.
        num_segments: S, at least 0.
        ignore_index: label that belongs to no segment either, also when it lies in [0, S).
        eps: added to the area.
        resize: only ``features``: labels cannot be interpolated.
        return_area: return the number of pixels per segment as well.
        out_dtype: dtype of the result; that of the features by default.
        precision: whether float32 products on CUDA may use TF32; None follows torch's own setting.
        impl: tier that computes, as in :func:`mask_pool`.

    Returns:
        (B, S, C) segment embeddings, 0 for empty segments; with ``return_area`` also the float32 areas (B, S).

    Raises:
        ValueError: if shapes, dtypes, devices or options do not fit.
        RuntimeError: if ``impl`` names a compiled tier that is not loaded.
    """
    check_features(features)
    check_tensor("labels", labels, "B h w", INTEGER_DTYPES)
    check_same("labels", labels, features)
    check_pixels("labels", labels.shape[1], labels.shape[2])
    check_integer("num_segments", num_segments, 0)
    check_integer("ignore_index", ignore_index)
    if resize != "features":
        raise ValueError(f"Expected argument `resize` to be 'features' for a label map, but got {resize!r}.")
    check_common(features, eps, out_dtype, impl)
    allow_tf32 = use_tf32(precision)
    if labels.dtype not in (torch.int32, torch.int64):
        labels = labels.to(torch.int32)
    if impl == "eager":
        with without_autocast(features):
            pooled, area = pool_labels(features, labels, num_segments, ignore_index, eps, allow_tf32)
        pooled = pooled.to(out_dtype or features.dtype)
    else:
        attributes = (num_segments, ignore_index, float(eps), allow_tf32, out_dtype)
        pooled, area = call(impl, "label_pool_fwd", features, labels, *attributes)
    return with_area(pooled, area, return_area)


def check_common(features: Tensor, eps: float, out_dtype: torch.dtype | None, impl: str) -> None:
    """Check the options that all pooling functions have."""
    check_eps(eps)
    check_out_dtype(out_dtype)
    check_impl(impl, features)


def mask_pool_ragged(
    features: Tensor, masks: Tensor, image_index: Tensor, **options: object
) -> Tensor | tuple[Tensor, Tensor]:
    """Pool under masks whose number differs between the images of a batch; the same numbers as a loop over images.

    Args:
        features: (B, C, H, W), as for :func:`mask_pool`.
        masks: (T, h, w), the masks of all images in any order. For ``kmap`` (T*K, h, w).
        image_index: (T,) integers in [0, B), the image of each mask.
        options: those of :func:`mask_pool`.

    Returns:
        (T, C) mask embeddings in the order of ``masks`` ((T*K, C) with ``reduce="none"``); with ``return_area`` also
        the float32 areas, (T,) or (T*K,) for ``kmap``.

    Raises:
        ValueError: if shapes, dtypes, devices or options do not fit, or an index is not an image.
    """
    check_features(features)
    check_tensor("masks", masks, "T h w", MASK_DTYPES)
    check_tensor("image_index", image_index, "T", INTEGER_DTYPES)
    check_same("masks", masks, features, batch=False)
    maps = options.get("maps_per_mask", 1)
    if masks.shape[0] != image_index.shape[0] * maps:
        raise ValueError(
            f"Expected argument `masks` to have {maps} map(s) for each of the {image_index.shape[0]} entries of "
            f"`image_index`, but got {masks.shape[0]}."
        )
    groups = [torch.nonzero(image_index == image).flatten().to(masks.device) for image in range(features.shape[0])]
    if sum(len(group) for group in groups) != len(image_index):
        raise ValueError(f"Expected argument `image_index` to lie in [0, {features.shape[0]}), but got others.")
    by_mask = masks.unflatten(0, (-1, maps)) if len(image_index) else masks.reshape(0, maps, *masks.shape[1:])
    results = [
        mask_pool(features[image : image + 1], by_mask[group].flatten(0, 1).unsqueeze(0), **options)
        for image, group in enumerate(groups)
    ]
    return _scatter_groups(results, groups, features, options)


def _scatter_groups(results: list, groups: list[Tensor], features: Tensor, options: dict) -> Tensor | tuple:
    number = sum(len(group) for group in groups)
    if not results:
        empty = features.new_empty((0, features.shape[1]), dtype=options.get("out_dtype") or features.dtype)
        return (empty, features.new_empty(0, dtype=torch.float32)) if options.get("return_area") else empty
    order = torch.cat(groups).argsort()

    def arrange(parts: list[Tensor]) -> Tensor:
        rows = torch.cat([part[0] for part in parts])
        per_mask = rows.shape[0] // max(number, 1)
        return rows.unflatten(0, (number, per_mask))[order].flatten(0, 1) if number else rows

    if options.get("return_area"):
        return arrange([pooled for pooled, _ in results]), arrange([area for _, area in results])
    return arrange(results)
