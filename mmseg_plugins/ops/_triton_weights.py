"""Triton kernels: mask weights on the feature grid, and the gradient to the masks.

``phi`` per mode and the taps of the resize are those of ``_schema.py``. Every result is written by one program, and
sums run in a fixed order.

H W feature grid, N = H*W, h w mask grid.
"""

# ruff: noqa: ANN001, ANN202  kernel arguments are pointers and numbers that Triton types itself

import triton
import triton.language as tl

# The codes of `_schema.MODES` as constants that a kernel can read.
HARD = tl.constexpr(0)
SIGMOID = tl.constexpr(1)
PROB = tl.constexpr(2)
KMAP = tl.constexpr(4)


@triton.jit
def _taps(i, n_in, n_out):
    """Return lower tap, upper tap and weight of the upper one for output ``i`` of an axis n_in -> n_out."""
    position = tl.maximum((2 * i + 1) * n_in - n_out, 0)
    low = position // (2 * n_out)
    high = tl.minimum(low + 1, n_in - 1)
    return low, high, (position - low * 2 * n_out).to(tl.float32) / (2.0 * n_out)


@triton.jit
def _blend(low, high, weight):
    """Interpolate; a tap of weight 0 is left out, so an infinite neighbour does no harm where nothing is resized."""
    return tl.where(weight == 0, low, (1 - weight) * low + weight * high)


@triton.jit
def _resized(base, y_stride, x_stride, pixel, inside, h, w, H, W):
    """Return the value of a map at pixels of the H x W grid, float32; 0 where not ``inside``."""
    pixel = tl.where(inside, pixel, 0)
    y_low, y_high, down = _taps(pixel // W, h, H)
    x_low, x_high, right = _taps(pixel % W, w, W)
    top, bottom = base + y_low.to(tl.int64) * y_stride, base + y_high.to(tl.int64) * y_stride
    left, side = x_low.to(tl.int64) * x_stride, x_high.to(tl.int64) * x_stride
    upper = _blend(_number(top + left, inside), _number(top + side, inside), right)
    lower = _blend(_number(bottom + left, inside), _number(bottom + side, inside), right)
    return _blend(upper, lower, down)


@triton.jit
def _number(address, inside):
    return tl.load(address, mask=inside, other=0).to(tl.float32)


@triton.jit
def _plane(masks_ptr, mask, queries, batch_stride, mask_stride):
    return masks_ptr + (mask // queries) * batch_stride + (mask % queries) * mask_stride


@triton.jit
def _sigmoid(x):
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def _log_sigmoid(x):
    # Not with minimum(x, 0), which may drop a NaN. log(1 + e) loses nothing that matters: e <= 1 is compared with 1.
    return tl.where(x < 0, x, 0.0) - tl.log(1.0 + tl.exp(-tl.abs(x)))


@triton.jit
def pack_kernel(
    masks_ptr, words_ptr, counts_ptr, queries, batch_stride, mask_stride, y_stride, x_stride, h, w, H, W,
    words, tiles, threshold, BLOCK_WORDS: tl.constexpr,
):  # fmt: skip
    """Pack ``R(mask) > threshold`` to 32-bit words along the pixels, and count the set bits of every tile."""
    program = tl.program_id(0).to(tl.int64)
    mask = program // tiles
    word = (program % tiles).to(tl.int32) * BLOCK_WORDS + tl.arange(0, BLOCK_WORDS)
    bit = tl.arange(0, 32)
    pixel = word[:, None] * 32 + bit[None, :]
    inside = pixel < H * W
    base = _plane(masks_ptr, mask, queries, batch_stride, mask_stride)
    r = _resized(base, y_stride, x_stride, pixel, inside, h, w, H, W)
    is_set = ((r > threshold) & inside).to(tl.int32)
    # Every bit stands alone in its place: the sum is the word, also where bit 31 makes it negative.
    tl.store(words_ptr + mask * words + word, tl.sum(is_set << bit[None, :], 1), mask=word < words)
    tl.store(counts_ptr + program, tl.sum(tl.sum(is_set, 1), 0))


@triton.jit
def soft_kernel(
    masks_ptr, values_ptr, areas_ptr, queries, batch_stride, mask_stride, y_stride, x_stride, h, w, H, W,
    tiles, threshold, MODE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write ``phi(R(mask))`` (B*Q, N) of sigmoid, prob or gated, and the sum of every tile."""
    program = tl.program_id(0).to(tl.int64)
    mask = program // tiles
    pixel = (program % tiles).to(tl.int32) * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < H * W
    base = _plane(masks_ptr, mask, queries, batch_stride, mask_stride)
    r = _resized(base, y_stride, x_stride, pixel, inside, h, w, H, W)
    if MODE == SIGMOID:
        value = _sigmoid(r)
    elif MODE == PROB:
        value = r
    else:
        value = tl.where(r > threshold, r, 0.0)
    value = tl.where(inside, value, 0.0)
    tl.store(values_ptr + mask * H * W + pixel, value, mask=inside)
    tl.store(areas_ptr + program, tl.sum(value, 0))


@triton.jit
def map_statistics_kernel(
    masks_ptr, statistics_ptr, areas_ptr, queries, batch_stride, mask_stride, y_stride, x_stride, h, w, H, W,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Write largest log-sigmoid and sum of exponentials (B*Q*K, 2) and the area of every map; one program per map."""
    mask = tl.program_id(0).to(tl.int64)
    base = _plane(masks_ptr, mask, queries, batch_stride, mask_stride)
    peaks = tl.full((BLOCK,), float("-inf"), tl.float32)
    for first in range(0, H * W, BLOCK):
        pixel = first + tl.arange(0, BLOCK)
        inside = pixel < H * W
        r = _resized(base, y_stride, x_stride, pixel, inside, h, w, H, W)
        peaks = tl.maximum(peaks, tl.where(inside, _log_sigmoid(r), float("-inf")))
    largest = tl.max(peaks, 0)
    sums = tl.zeros((BLOCK,), tl.float32)
    areas = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, H * W, BLOCK):
        pixel = first + tl.arange(0, BLOCK)
        inside = pixel < H * W
        r = _resized(base, y_stride, x_stride, pixel, inside, h, w, H, W)
        sums += tl.where(inside, tl.exp(_log_sigmoid(r) - largest), 0.0)
        areas += tl.where(inside, _sigmoid(r), 0.0)
    tl.store(statistics_ptr + 2 * mask, largest)
    tl.store(statistics_ptr + 2 * mask + 1, tl.sum(sums, 0))
    tl.store(areas_ptr + mask, tl.sum(areas, 0))


@triton.jit
def map_kernel(
    masks_ptr, statistics_ptr, values_ptr, queries, batch_stride, mask_stride, y_stride, x_stride, h, w, H, W,
    tiles, maps, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write the normalised weights of maps, averaged over ``maps`` of them: (rows, N)."""
    program = tl.program_id(0).to(tl.int64)
    row = program // tiles
    pixel = (program % tiles).to(tl.int32) * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < H * W
    value = tl.zeros((BLOCK,), tl.float32)
    for k in range(maps):
        mask = row * maps + k
        base = _plane(masks_ptr, mask, queries, batch_stride, mask_stride)
        ls = _log_sigmoid(_resized(base, y_stride, x_stride, pixel, inside, h, w, H, W))
        value += tl.exp(ls - tl.load(statistics_ptr + 2 * mask)) / tl.load(statistics_ptr + 2 * mask + 1)
    tl.store(values_ptr + row * H * W + pixel, value / maps, mask=inside)


@triton.jit
def rows_dot_kernel(a_ptr, b_ptr, sums_ptr, share, length, BLOCK: tl.constexpr):
    """Write ``sums[row] = sum_i a[row, i] b[row // share, i]``; one program per row."""
    row = tl.program_id(0).to(tl.int64)
    total = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, length, BLOCK):
        i = first + tl.arange(0, BLOCK)
        a = tl.load(a_ptr + row * length + i, mask=i < length, other=0.0)
        total += a * tl.load(b_ptr + row // share * length + i, mask=i < length, other=0.0)
    tl.store(sums_ptr + row, tl.sum(total, 0))


@triton.jit
def slope_kernel(
    masks_ptr, dots_ptr, centres_ptr, areas_ptr, statistics_ptr, slopes_ptr,
    queries, batch_stride, mask_stride, y_stride, x_stride, h, w, H, W,
    tiles, share, scale, eps, MODE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write the gradient to the resized masks, (B*Q*K, N) float32: phi'(r) (d - s) / D, or kmap's own form of it."""
    program = tl.program_id(0).to(tl.int64)
    mask = program // tiles
    pixel = (program % tiles).to(tl.int32) * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < H * W
    base = _plane(masks_ptr, mask, queries, batch_stride, mask_stride)
    r = _resized(base, y_stride, x_stride, pixel, inside, h, w, H, W)
    d = tl.load(dots_ptr + mask // share * H * W + pixel, mask=inside, other=0.0)
    difference = d - tl.load(centres_ptr + mask)
    if MODE == KMAP:
        v = tl.exp(_log_sigmoid(r) - tl.load(statistics_ptr + 2 * mask)) / tl.load(statistics_ptr + 2 * mask + 1)
        slope = v * _sigmoid(-r) * difference * scale
    elif MODE == PROB:
        slope = difference / (tl.load(areas_ptr + mask) + eps)
    else:
        slope = _sigmoid(r) * _sigmoid(-r) * difference / (tl.load(areas_ptr + mask) + eps)
    tl.store(slopes_ptr + mask * H * W + pixel, slope, mask=inside)


@triton.jit
def _adjoint_range(x, n_in, n_out):
    """Return first and one past the last output of the axis n_in -> n_out that may have input ``x`` as a tap."""
    step = 2 * n_in
    first = tl.maximum(2 * n_out * (x - 1) + n_out - n_in, 0)
    past = tl.maximum(2 * n_out * (x + 1) + n_out - n_in, 0)
    begin = tl.where(x == 0, 0, tl.minimum((first + step - 1) // step, n_out))
    end = tl.where(x == n_in - 1, n_out, tl.minimum((past + step - 1) // step, n_out))
    return begin, end


@triton.jit
def _adjoint_weight(i, x, n_in, n_out):
    low, high, weight = _taps(i, n_in, n_out)
    return tl.where(low == x, 1 - weight, 0.0) + tl.where(high == x, weight, 0.0)


@triton.jit
def gather_kernel(slopes_ptr, grad_ptr, h, w, H, W, tiles, BLOCK: tl.constexpr):
    """Write the adjoint of the mask resize: every mask pixel adds the resized pixels that used it. No atomics."""
    program = tl.program_id(0).to(tl.int64)
    mask = program // tiles
    pixel = (program % tiles).to(tl.int32) * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < h * w
    y, x = pixel // w, pixel % w
    row_begin, row_end = _adjoint_range(y, h, H)
    column_begin, column_end = _adjoint_range(x, w, W)
    most_rows = tl.max(tl.where(inside, row_end - row_begin, 0), 0)
    most_columns = tl.max(tl.where(inside, column_end - column_begin, 0), 0)
    base = slopes_ptr + mask * H * W
    total = tl.zeros((BLOCK,), tl.float32)
    for i in range(most_rows):
        row = row_begin + i
        line = tl.zeros((BLOCK,), tl.float32)
        for j in range(most_columns):
            column = column_begin + j
            used = inside & (row < row_end) & (column < column_end)
            slope = tl.load(base + row * W + column, mask=used, other=0.0)
            line += tl.where(used, _adjoint_weight(column, x, w, W) * slope, 0.0)
        total += tl.where(row < row_end, _adjoint_weight(row, y, h, H) * line, 0.0)
    tl.store(grad_ptr + mask * h * w + pixel, total.to(grad_ptr.dtype.element_ty), mask=inside)
