"""Bit masks and run lengths: packing, and pooling that equals pooling under the unpacked masks."""

import itertools

import pytest
import torch

from mmseg_plugins.ops import mask_pool, mask_pool_bits, mask_pool_rle, pack_bits, unpack_bits
from mmseg_plugins.ops._bits import decode_runs, pack_words, unpack_words

OPS = torch.ops.mmseg_plugins


def random_masks(*shape, share=0.5, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < share


def blobs(batch, queries, h, w):
    """Masks as segmenters make them: a disc, a bar, one pixel, all, nothing, then noise."""
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    shapes = [
        (y - h / 2) ** 2 + (x - w / 3) ** 2 < (h / 3) ** 2,
        (x > w // 2) & (x < w // 2 + 4),
        (y == 1) & (x == w - 1),
        torch.ones(h, w, dtype=torch.bool),
        torch.zeros(h, w, dtype=torch.bool),
    ]
    masks = torch.stack([*shapes, *random_masks(max(0, queries - 5), h, w)])[:queries]
    return torch.stack([masks.roll(b, 0) for b in range(batch)])


def runs_of(masks):
    """Run lengths of (T, h, w) masks, column-major and starting with zeros, in plain Python."""
    counts, offsets = [], [0]
    for mask in masks:
        flat = mask.T.flatten().tolist()
        runs = [(value, len(list(group))) for value, group in itertools.groupby(flat)]
        if runs and runs[0][0]:
            counts.append(0)
        counts += [length for _, length in runs]
        offsets.append(len(counts))
    return torch.tensor(counts, dtype=torch.int64), torch.tensor(offsets)


@pytest.mark.parametrize("width", [1, 7, 8, 9, 31, 32, 33, 70])
def test_packing_comes_back(width, dispatched):
    masks = random_masks(2, 3, 4, width)
    bits = pack_bits(masks)
    assert (bits.shape, bits.dtype) == ((2, 3, 4, (width + 7) // 8), torch.uint8)
    assert torch.equal(unpack_bits(bits, width), masks)
    assert torch.equal(bits, OPS.pack_bits_eager(masks, 0.0))


def test_bits_go_least_significant_first_and_padding_is_zero():
    assert pack_bits(torch.tensor([[True, False, True] + [False] * 5 + [True]])).tolist() == [[5, 1]]


def test_packing_is_strict_about_the_threshold():
    assert pack_bits(torch.tensor([[0.5, 0.50001, float("nan"), 2.0]]), 0.5).tolist() == [[0b1010]]


@pytest.mark.parametrize("n", [1, 31, 32, 33, 100])
def test_words_come_back(n):
    flags = random_masks(3, n)
    words = pack_words(flags)
    assert (words.shape, words.dtype) == ((3, (n + 31) // 32), torch.int32)
    assert torch.equal(unpack_words(words, n).bool(), flags)


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (16, 9)])
def test_runs_decode_to_their_masks(size):
    masks = blobs(1, 9, *size)[0]
    counts, offsets = runs_of(masks)
    assert torch.equal(decode_runs(counts, offsets, size), masks)
    assert torch.equal(unpack_bits(OPS.rle_to_bits(counts, offsets, size), size[1]), masks)


def test_runs_past_the_end_are_cut_and_missing_ones_are_zeros(dispatched):
    counts, offsets = torch.tensor([1, 100, 2, 1]), torch.tensor([0, 2, 2, 4])
    want = torch.tensor([[[0, 1], [1, 1]], [[0, 0], [0, 0]], [[0, 1], [0, 0]]], dtype=torch.bool)
    assert torch.equal(decode_runs(counts, offsets, (2, 2)), want)
    assert torch.equal(unpack_bits(OPS.rle_to_bits(counts, offsets, (2, 2)), 2), want)
    _, area = mask_pool_rle(torch.ones(1, 1, 2, 2), counts, offsets, (2, 2), return_area=True, impl=dispatched)
    assert area.tolist() == [[3, 0, 1]]


def test_a_mask_of_an_odd_number_of_runs_ends_in_zeros_and_many_runs_keep_their_parity():
    counts = torch.tensor([1, 1, 1, *[1] * 600])
    offsets = torch.tensor([0, 3, 603])
    many = decode_runs(counts[3:], offsets[1:] - 3, (20, 30))
    assert torch.equal(many[0].mT.flatten(), torch.arange(600) % 2 == 1)
    assert decode_runs(counts, offsets, (2, 2)).tolist() == [[[0, 0], [1, 0]], [[0, 0], [1, 1]]]
    nothing = torch.tensor([0, 0, 0, 5]), torch.tensor([0, 4])
    assert decode_runs(*nothing, (1, 4)).tolist() == [[[True] * 4]]


GRIDS = [((4, 5), (4, 5)), ((4, 5), (16, 20)), ((5, 3), (17, 13)), ((9, 11), (4, 7)), ((1, 1), (6, 9))]


@pytest.mark.parametrize("grids", GRIDS)
def test_runs_bits_and_booleans_pool_alike(grids, impl):
    grid, size = grids
    features = torch.randn(2, 6, *grid, generator=torch.Generator().manual_seed(1))
    masks = blobs(2, 8, *size)
    counts, offsets = runs_of(masks.flatten(0, 1))
    want, want_area = mask_pool(features, masks, resize="features", return_area=True, impl="eager")
    results = [
        mask_pool(features, masks, resize="features", return_area=True, impl=impl),
        mask_pool_bits(features, pack_bits(masks), size, return_area=True, impl=impl),
        mask_pool_rle(features, counts, offsets, size, return_area=True, impl=impl),
    ]
    for pooled, area in results:
        assert torch.allclose(pooled, want, atol=2e-6)
        assert torch.equal(area, want_area)
        assert not pooled[0, 4].any()


def test_gradients_of_runs_bits_and_booleans_are_alike(impl):
    features = torch.randn(2, 6, 4, 5, generator=torch.Generator().manual_seed(1))
    masks = blobs(2, 7, 15, 21)
    counts, offsets = runs_of(masks.flatten(0, 1))
    grads = []
    for pool in (
        lambda f: mask_pool(f, masks, resize="features", impl="eager"),
        lambda f: mask_pool(f, masks, resize="features", impl=impl),
        lambda f: mask_pool_bits(f, pack_bits(masks), (15, 21), impl=impl),
        lambda f: mask_pool_rle(f, counts, offsets, (15, 21), impl=impl),
    ):
        leaf = features.clone().requires_grad_()
        pool(leaf).square().sum().backward()
        grads.append(leaf.grad)
    for grad in grads[1:]:
        assert torch.allclose(grad, grads[0], rtol=1e-5, atol=1e-6)


def test_padding_bits_are_ignored(impl):
    bits = pack_bits(random_masks(1, 2, 3, 5))
    spoilt = bits | 0b11100000
    features = torch.randn(1, 4, 3, 5)
    assert torch.equal(
        mask_pool_bits(features, spoilt, (3, 5), impl=impl), mask_pool_bits(features, bits, (3, 5), impl=impl)
    )


def test_bits_may_be_brought_to_the_feature_grid(impl):
    features, masks = torch.randn(1, 4, 3, 3), random_masks(1, 2, 9, 12)
    pooled = mask_pool_bits(features, pack_bits(masks), (9, 12), resize="mask", impl=impl)
    assert torch.allclose(pooled, mask_pool(features, masks, impl="eager"), atol=1e-6)


def test_no_images_and_no_masks_are_empty(impl):
    counts, offsets = torch.empty(0, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
    for batch in (0, 2):
        pooled = mask_pool_rle(torch.ones(batch, 3, 4, 4), counts, offsets, (8, 8), impl=impl)
        assert pooled.shape == (batch, 0, 3)
    bits = torch.empty(2, 0, 8, 1, dtype=torch.uint8)
    assert mask_pool_bits(torch.ones(2, 3, 4, 4), bits, (8, 8), impl=impl).shape == (2, 0, 3)


def test_errors_name_the_argument():
    features = torch.ones(2, 3, 4, 4)
    with pytest.raises(ValueError, match="8 rows of 2 bytes"):
        mask_pool_bits(features, torch.zeros(2, 5, 8, 1, dtype=torch.uint8), (8, 9))
    with pytest.raises(ValueError, match="`size`"):
        mask_pool_bits(features, torch.zeros(2, 5, 8, 1, dtype=torch.uint8), (8,))
    with pytest.raises(ValueError, match="mask_pool_ragged"):
        mask_pool_rle(features, torch.tensor([4]), torch.tensor([0, 1]), (8, 8))
    with pytest.raises(ValueError, match="`counts`"):
        mask_pool_rle(features, torch.tensor([4.0]), torch.tensor([0, 1, 1]), (8, 8))
    with pytest.raises(ValueError, match="rows of 2 bytes"):
        unpack_bits(torch.zeros(3, 1, dtype=torch.uint8), 9)
    with pytest.raises(ValueError, match="`masks`"):
        pack_bits(torch.zeros(3, 1, dtype=torch.int32))
