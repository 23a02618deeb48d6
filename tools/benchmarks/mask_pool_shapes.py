"""The shapes of the mask-pooling benchmark, each with the way it is usually computed.

B images, Q masks, K maps or classes, C channels, N pixels of the feature grid.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from mmseg_plugins.ops import label_pool, mask_argmax, mask_pool, mask_pool_bits, pack_bits, upsample_argmax

Call = Callable[[], Tensor]


@dataclass
class Work:
    """One shape on one device.

    Args:
        baselines: name -> the usual computation; the fastest of them is what ratios refer to.
        ours: impl -> our computation.
        leaves: tensors whose gradients the forward-and-backward timing asks for; empty for label maps.
        bytes: least traffic, inputs and results once.
        flops: least arithmetic.
        scale: what the baselines' times are multiplied with, where they run on a part of the channels.
        same: whether results of baseline and ours can be compared entry by entry.
        extra: further computations of ours under names of their own.
    """

    baselines: dict[str, Call]
    ours: Callable[[str], Tensor]
    leaves: list[Tensor]
    bytes: float
    flops: float
    scale: float = 1.0
    same: bool = True
    extra: dict[str, Call] = field(default_factory=dict)


@dataclass(frozen=True)
class Shape:
    """A row of the benchmark.

    Args:
        name: what is chosen by ``--shapes``.
        make: (device, dtype) -> the work.
        cpu_target: ratio to the usual computation that must be reached on the CPU with one thread; None: none stated.
        cuda_target: the same on CUDA.
        dtypes: dtypes that the shape is measured in.
        devices: where the shape makes sense.
    """

    name: str
    make: Callable[[torch.device, torch.dtype], Work]
    cpu_target: float | None = None
    cuda_target: float | None = None
    dtypes: tuple[str, ...] = ("float32",)
    devices: tuple[str, ...] = ("cpu", "cuda")


def _randn(shape: tuple[int, ...], device: torch.device, dtype: torch.dtype, *, grad: bool = True) -> Tensor:
    generator = torch.Generator(device).manual_seed(0)
    return torch.randn(shape, device=device, dtype=dtype, generator=generator).requires_grad_(grad)


def published_hard(features: Tensor, masks: Tensor) -> Tensor:
    """Pool as the published models do: resize, threshold, divide the mask, multiply."""
    if masks.shape[-2:] != features.shape[-2:]:
        masks = F.interpolate(masks, features.shape[-2:], mode="bilinear", align_corners=False)
    masks = (masks > 0).to(masks.dtype)
    masks = masks / (masks.sum((-1, -2), keepdim=True) + 1e-8)
    return torch.einsum("bchw,bqhw->bqc", features, masks)


def hard(batch: int, queries: int, channels: int, mask_side: int, side: int) -> Callable:
    """Hard pooling, masks of ``mask_side`` squared, features of ``side`` squared."""

    def make(device: torch.device, dtype: torch.dtype) -> Work:
        features = _randn((batch, channels, side, side), device, dtype)
        masks = _randn((batch, queries, mask_side, mask_side), device, dtype, grad=False)
        pixels = batch * side * side
        taps = 4 if mask_side > 2 * side else (mask_side / side) ** 2
        return Work(
            {"published": lambda: published_hard(features, masks)},
            lambda impl: mask_pool(features, masks, impl=impl),
            [features],
            features.element_size() * (pixels * (channels + queries * taps) + batch * queries * channels),
            2 * pixels * queries * channels,
        )

    return make


def sigmoid(queries: int, channels: int, side: int) -> Callable:
    """Soft pooling on the feature grid."""

    def make(device: torch.device, dtype: torch.dtype) -> Work:
        features = _randn((1, channels, side, side), device, dtype)
        masks = _randn((1, queries, side, side), device, dtype)

        def published() -> Tensor:
            weights = masks.sigmoid()
            weights = weights / (weights.sum((-1, -2), keepdim=True) + 1e-8)
            return torch.einsum("bchw,bqhw->bqc", features, weights)

        return Work(
            {"published": published},
            lambda impl: mask_pool(features, masks, mode="sigmoid", impl=impl),
            [features, masks],
            features.element_size() * side * side * (channels + queries),
            2 * side * side * queries * channels,
        )

    return make


def kmap(queries: int, maps: int, channels: int, side: int, reduce: str) -> Callable:
    """Semantic activation maps, averaged over the maps of a mask or one vector per map."""

    def make(device: torch.device, dtype: torch.dtype) -> Work:
        features = _randn((1, channels, side, side), device, dtype)
        masks = _randn((1, queries * maps, side, side), device, dtype)

        def published() -> Tensor:
            weights = F.logsigmoid(masks).flatten(2).softmax(-1)
            pooled = torch.bmm(weights, features.flatten(2).mT)
            return pooled.unflatten(1, (queries, maps)).mean(2) if reduce == "mean" else pooled

        rows = queries if reduce == "mean" else queries * maps
        return Work(
            {"published": published},
            lambda impl: mask_pool(features, masks, mode="kmap", maps_per_mask=maps, reduce=reduce, impl=impl),
            [features, masks],
            features.element_size() * (side * side * (channels + queries * maps) + rows * channels),
            2 * side * side * rows * channels,
        )

    return make


# The usual way needs 3 GiB and a quarter of a minute at 768 channels on one thread: it runs on a part of them.
_SAM_PART = 64


def sam(queries: int, channels: int, mask_side: int, side: int) -> Callable:
    """Binary masks at image resolution, features enlarged to them."""

    def make(device: torch.device, dtype: torch.dtype) -> Work:
        features = _randn((1, channels, side, side), device, dtype)
        generator = torch.Generator(device).manual_seed(1)
        coarse = torch.randn(1, queries, 16, 16, device=device, generator=generator)
        masks = F.interpolate(coarse, (mask_side, mask_side), mode="bilinear") > 0
        bits = pack_bits(masks)

        def published() -> Tensor:
            part = features[:, :_SAM_PART]
            large = F.interpolate(part, masks.shape[-2:], mode="bilinear", align_corners=False)
            weights = masks.to(part.dtype)
            weights = weights / (weights.sum((-1, -2), keepdim=True) + 1e-8)
            return torch.einsum("bchw,bqhw->bqc", large, weights)

        return Work(
            {f"published ({_SAM_PART} channels, scaled)": published},
            lambda impl: mask_pool(features, masks, resize="features", impl=impl),
            [features],
            features.element_size() * channels * side * side + queries * mask_side**2,
            2 * side * side * queries * channels,
            scale=channels / _SAM_PART,
            same=False,
            extra={"as bits": lambda: mask_pool_bits(features, bits, tuple(masks.shape[-2:]))},
        )

    return make


def labels(segments: int, channels: int, side: int) -> Callable:
    """A label map on the feature grid, in coherent segments, against four usual ways."""

    def make(device: torch.device, dtype: torch.dtype) -> Work:
        features = _randn((1, channels, side, side), device, dtype)
        generator = torch.Generator(device).manual_seed(1)
        coarse = torch.randint(0, segments, (1, 1, side // 16, side // 16), device=device, generator=generator)
        label_map = F.interpolate(coarse.float(), (side, side), mode="nearest")[0].long()
        flat = label_map.flatten()
        count = torch.bincount(flat, minlength=segments).to(dtype)[:, None] + 1e-8

        def by_one_hot() -> Tensor:
            one_hot = F.one_hot(flat, segments).to(dtype)
            return torch.einsum("ns,cn->sc", one_hot, features[0].flatten(1)) / count

        def by_index_add() -> Tensor:
            sums = torch.zeros(segments, channels, device=device, dtype=dtype)
            return sums.index_add(0, flat, features[0].flatten(1).T) / count

        def by_bincount() -> Tensor:
            planes = features.detach()[0].flatten(1)
            return torch.stack([torch.bincount(flat, plane, segments) for plane in planes], 1).to(dtype) / count

        def by_scatter() -> Tensor:
            sums = torch.zeros(channels, segments, device=device, dtype=dtype)
            index = flat.expand(channels, -1)
            return sums.scatter_reduce(1, index, features[0].flatten(1), "sum").T / count

        ways = {"one-hot": by_one_hot, "index_add": by_index_add, "scatter_reduce": by_scatter}
        if device.type == "cpu":
            ways["bincount"] = by_bincount
        return Work(
            ways,
            lambda impl: label_pool(features, label_map, segments, impl=impl)[0],
            [features],
            features.element_size() * side * side * channels + 8 * side * side,
            side * side * channels,
        )

    return make


def label_map(classes: int, small: tuple[int, int], large: tuple[int, int]) -> Callable:
    """Label map from small logits."""

    def make(device: torch.device, dtype: torch.dtype) -> Work:
        logits = _randn((1, classes, *small), device, dtype, grad=False)
        pixels = large[0] * large[1]
        return Work(
            {"interpolate + argmax": lambda: F.interpolate(logits, large, mode="bilinear").argmax(1)},
            lambda impl: upsample_argmax(logits, large),
            [],
            logits.nbytes + 8 * pixels,
            4 * pixels * classes,
        )

    return make


def classified_masks(queries: int, classes: int, small: int, large: int) -> Callable:
    """Label map from masks and their classes."""

    def make(device: torch.device, dtype: torch.dtype) -> Work:
        weights = _randn((1, queries, classes), device, dtype, grad=False).softmax(-1)
        masks = _randn((1, queries, small, small), device, dtype, grad=False)

        def published() -> Tensor:
            large_masks = F.interpolate(masks, (large, large), mode="bilinear", align_corners=False).sigmoid()
            return torch.einsum("bqk,bqhw->bkhw", weights, large_masks).argmax(1)

        return Work(
            {"sigmoid, product, argmax": published},
            lambda impl: mask_argmax(weights, masks, (large, large)),
            [],
            masks.nbytes + 8 * large**2,
            2 * queries * classes * large**2,
            same=False,  # sums of products in another order: labels of pixels with two equal classes may differ
        )

    return make


HALF = ("float32", "bfloat16")
SHAPES = (
    Shape("out-vocab 250x1536 160-20", hard(1, 250, 1536, 160, 20), 5),
    Shape("out-vocab 250x1536 224-28", hard(1, 250, 1536, 224, 28), 7),
    Shape("out-vocab 250x1536 256-32", hard(1, 250, 1536, 256, 32), 7, 4),
    Shape("out-vocab 250x1536 320-40", hard(1, 250, 1536, 320, 40), 8),
    Shape("out-vocab 250x768 160-20", hard(1, 250, 768, 160, 20), 6),
    Shape("out-vocab 250x768 320-40", hard(1, 250, 768, 320, 40), 6),
    Shape("out-vocab 16x250x1536 256-32", hard(16, 250, 1536, 256, 32), None, 4, HALF, ("cuda",)),
    Shape("in-vocab 250x256 160", hard(1, 250, 256, 160, 160), 1.1, 3, HALF),
    Shape("in-vocab 250x256 256", hard(1, 250, 256, 256, 256), 1.3, 4, HALF),
    Shape("in-vocab 8x250x256 256", hard(8, 250, 256, 256, 256), None, 4.5, HALF, ("cuda",)),
    Shape("soft 100x768 256", sigmoid(100, 768, 256), None, 2, HALF, ("cuda",)),
    Shape("kmap mean 250x16x1536 28", kmap(250, 16, 1536, 28, "mean"), 6, 5, HALF),
    Shape("kmap mean 250x16x1536 32", kmap(250, 16, 1536, 32, "mean"), 6, 5, HALF),
    Shape("kmap each 250x16x1536 28", kmap(250, 16, 1536, 28, "none"), None, 1.5, HALF),
    Shape("sam 100x768 1024-64", sam(100, 768, 1024, 64), 30, 30),
    Shape("labels 150x256 256", labels(150, 256, 256), 2, 3),
    Shape("labels 150x768 256", labels(150, 768, 256), None, 3, ("float32",), ("cuda",)),
    Shape("argmax 150 64-512", label_map(150, (64, 64), (512, 512))),
    Shape("argmax 150 64x128-1024x2048", label_map(150, (64, 128), (1024, 2048))),
    Shape("argmax 847 40-640", label_map(847, (40, 40), (640, 640))),
    Shape("mask argmax 100x150 128-512", classified_masks(100, 150, 128, 512)),
)
