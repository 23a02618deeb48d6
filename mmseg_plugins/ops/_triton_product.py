"""Triton kernels: products of weights and features in float32 accuracy on tensor cores, and the end of a pooling.

Operands are split into bfloat16 terms by cutting off bits: three terms hold a float32 exactly. A tensor core cuts its
sums instead of rounding them, so each piece of the depth is summed from zero and the pieces are added by ordinary
additions; a single chain over ten thousand pixels would drift past the bound of the numerics contract.

Letters as in ``_schema.py``; ``rows``, ``columns`` and ``depth`` are the three sizes of a product.
"""

# ruff: noqa: ANN001, ANN202  kernel arguments are pointers and numbers that Triton types itself

import triton
import triton.language as tl

# How an operand is stored: numbers, or words of 32 bits packed along the depth or along the rows.
NUMBERS, BITS_ALONG_DEPTH, BITS_ALONG_ROWS = 0, 1, 2


@triton.jit
def _load_operand(base, row, k, row_stride, k_stride, inside, LAYOUT: tl.constexpr):
    """Load elements (row, k) as float32; zero where not ``inside``."""
    # No early returns: the compiler types the code behind them all the same.
    if LAYOUT == 0:
        value = tl.load(base + row * row_stride + k * k_stride, mask=inside, other=0).to(tl.float32)
    elif LAYOUT == 1:
        word = tl.load(base + row * row_stride + k // 32, mask=inside, other=0)
        value = ((word >> (k % 32).to(tl.int32)) & 1).to(tl.float32)
    else:
        word = tl.load(base + row // 32 + k * k_stride, mask=inside, other=0)
        value = ((word >> (row % 32).to(tl.int32)) & 1).to(tl.float32)
    return value


@triton.jit
def _cut(x):
    """Keep the bits of a float32 that bfloat16 has."""
    return (x.to(tl.int32, bitcast=True) & -65536).to(tl.float32, bitcast=True)


@triton.jit
def _dot(a, b, total, HALF: tl.constexpr, CAST: tl.constexpr):
    """Add ``a @ b``; the values fit the 16-bit type. The interpreter has no bfloat16 product and keeps float32."""
    if not CAST:
        total = tl.dot(a, b, total, input_precision="ieee")
    elif HALF:
        total = tl.dot(a.to(tl.float16), b.to(tl.float16), total)
    else:
        total = tl.dot(a.to(tl.bfloat16), b.to(tl.bfloat16), total)
    return total


@triton.jit
def _dot_terms(a, b, total, TERMS_A: tl.constexpr, TERMS_B: tl.constexpr, HALF: tl.constexpr, CAST: tl.constexpr):
    """Add the products of all pairs of terms that count, the small ones first."""
    a0 = _cut(a) if TERMS_A > 1 else a
    b0 = _cut(b) if TERMS_B > 1 else b
    a1 = _cut(a - a0)
    b1 = _cut(b - b0)
    if TERMS_A == 3:
        total = _dot((a - a0) - a1, b0, total, HALF, CAST)
    if TERMS_B == 3:
        total = _dot(a0, (b - b0) - b1, total, HALF, CAST)
    if TERMS_A * TERMS_B >= 6:
        total = _dot(a1, b1, total, HALF, CAST)
    if TERMS_A > 1:
        total = _dot(a1, b0, total, HALF, CAST)
    if TERMS_B > 1:
        total = _dot(a0, b1, total, HALF, CAST)
    return _dot(a0, b0, total, HALF, CAST)


@triton.jit
def product_kernel(
    a_ptr,
    b_ptr,
    out_ptr,
    rows,
    columns,
    depth,
    row_tiles,
    column_tiles,
    splits,
    a_batch,
    a_row,
    a_k,
    b_batch,
    b_row,
    b_k,
    out_split,
    out_batch,
    out_row,
    A_LAYOUT: tl.constexpr,
    B_LAYOUT: tl.constexpr,
    TERMS_A: tl.constexpr,
    TERMS_B: tl.constexpr,
    HALF: tl.constexpr,
    CAST: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Compute ``out[split, image, row, column] = sum_k A[row, k] B[column, k]`` over the split's part of the depth.

    One program per tile and split; row tiles run fastest. The strides of ``out`` along the columns are 1.
    """
    program = tl.program_id(0)
    row_tile = program % row_tiles
    program = program // row_tiles
    column_tile = program % column_tiles
    program = program // column_tiles
    split = (program % splits).to(tl.int64)
    image = (program // splits).to(tl.int64)
    row = row_tile.to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    column = column_tile.to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    length = tl.cdiv(tl.cdiv(depth, 2 * BLOCK_K), splits) * 2 * BLOCK_K
    begin = split * length
    end = tl.minimum(begin + length, depth)
    a_base = a_ptr + image * a_batch
    b_base = b_ptr + image * b_batch
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for k0 in range(begin, end, 2 * BLOCK_K):
        # Two dots in a row: the compiler would merge a single one with the addition below into one long chain.
        part = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        for half in tl.static_range(2):
            k = k0 + half * BLOCK_K + tl.arange(0, BLOCK_K)
            a_inside = (row[:, None] < rows) & (k[None, :] < end)
            b_inside = (column[None, :] < columns) & (k[:, None] < end)
            a = _load_operand(a_base, row[:, None], k[None, :], a_row, a_k, a_inside, A_LAYOUT)
            b = _load_operand(b_base, column[None, :], k[:, None], b_row, b_k, b_inside, B_LAYOUT)
            part = _dot_terms(a, b, part, TERMS_A, TERMS_B, HALF, CAST)
        total += part
    target = out_ptr + split * out_split + image * out_batch + row[:, None] * out_row + column[None, :]
    tl.store(target, total.to(out_ptr.dtype.element_ty), mask=(row[:, None] < rows) & (column[None, :] < columns))


@triton.jit
def finish_kernel(
    parts_ptr, area_ptr, pooled_ptr, out_area_ptr, rows, channels, splits, area_parts, eps,
    DIVIDE: tl.constexpr, BLOCK: tl.constexpr, BLOCK_PARTS: tl.constexpr,
):  # fmt: skip
    """Add the splits of a product in order, and divide by area + eps; one program per row."""
    row = tl.program_id(0).to(tl.int64)
    divisor = 1.0
    if DIVIDE:
        area = tl.sum(tl.zeros((BLOCK_PARTS,), area_ptr.dtype.element_ty), 0)
        for first in range(0, area_parts, BLOCK_PARTS):
            i = first + tl.arange(0, BLOCK_PARTS)
            area += tl.sum(tl.load(area_ptr + row * area_parts + i, mask=i < area_parts, other=0), 0)
        divisor = area.to(tl.float32) + eps
        tl.store(out_area_ptr + row, area.to(tl.float32))
    for first in range(0, channels, BLOCK):
        c = first + tl.arange(0, BLOCK)
        total = tl.zeros((BLOCK,), tl.float32)
        for split in range(splits):
            place = (split * rows + row) * channels + c
            total += tl.load(parts_ptr + place, mask=c < channels, other=0.0)
        tl.store(pooled_ptr + row * channels + c, (total / divisor).to(pooled_ptr.dtype.element_ty), mask=c < channels)
