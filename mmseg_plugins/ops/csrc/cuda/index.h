// Index arithmetic of the kernels: where a pixel's taps are, which lane holds which element, who sums what. Plain
// functions of integers, so that the tests can run them on the CPU over all threads of a launch.
#pragma once

#include <cstdint>

#include "platform.h"

namespace mmseg_plugins::cuda {

MP_HD int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
MP_HD int64_t min_of(int64_t a, int64_t b) { return a < b ? a : b; }
MP_HD int64_t max_of(int64_t a, int64_t b) { return a > b ? a : b; }

struct Range {
  int64_t begin, end;
};

// ---- bilinear resizing --------------------------------------------------------------------------------------------

struct Tap {
  int low, high;
  float lambda;  // weight of `high`; 1 - lambda is the weight of `low`
};

// Taps of output `i` on an axis n_in -> n_out, half-pixel centres: floor and fraction of ((2i+1) n_in - n_out) / (2 n_out)
// in integers, so that lambda is rounded once. 32 bits hold every step while n_in * n_out < 2^30, which the host checks.
MP_HD Tap bilinear_tap(int i, int n_in, int n_out) {
  if (n_in == n_out) return Tap{i, i, 0.0f};
  const int numerator = (2 * i + 1) * n_in - n_out;
  const int position = numerator > 0 ? numerator : 0;
  const int low = position / (2 * n_out);
  const int high = low + 1 < n_in ? low + 1 : n_in - 1;
  return Tap{low, high, float(position - low * 2 * n_out) / float(2 * n_out)};
}

// The outputs of the axis n_in -> n_out that may have input `x` as a tap: those whose lower tap is x - 1 or x.
MP_HD Range adjoint_range(int x, int n_in, int n_out) {
  if (n_in == n_out) return Range{x, int64_t(x) + 1};
  // lower tap >= x - 1   <=>   (2i+1) n_in >= n_out + 2 n_out (x - 1);   lower tap <= x   <=>   (2i+1) n_in < n_out + 2 n_out (x + 1)
  const int64_t first = 2 * int64_t(n_out) * (x - 1) + n_out - n_in;
  const int64_t past = 2 * int64_t(n_out) * (int64_t(x) + 1) + n_out - n_in;
  const int64_t step = 2 * int64_t(n_in);
  const int64_t begin = first > 0 ? ceil_div(first, step) : 0;
  const int64_t end = past > 0 ? ceil_div(past, step) : 0;
  return Range{x == 0 ? 0 : min_of(begin, n_out), x == n_in - 1 ? n_out : min_of(end, n_out)};
}

// Weight with which the output that has these taps uses input `x`. Both taps are the same at the far border.
MP_HD float adjoint_weight(Tap tap, int x) {
  return (tap.low == x ? 1.0f - tap.lambda : 0.0f) + (tap.high == x ? tap.lambda : 0.0f);
}

// Taps as torch's interpolate computes them, in float32: for results that must not differ from it. `first` shifts
// the input rows when only rows first.. of the map are there.
MP_HD Tap torch_tap(int i, int n_in, int n_out, int first) {
  const float scale = float(n_in) / float(n_out);
  float source = scale * (float(i) + 0.5f) - 0.5f;
  source = source < 0.0f ? 0.0f : source;
  const int low = int(source);
  const int high = low + 1 < n_in ? low + 1 : low;
  return Tap{low - first, high - first, source - float(low)};
}

// ---- bits ---------------------------------------------------------------------------------------------------------

constexpr int kWordBits = 32;
constexpr int kPackWords = 64;  // words of one mask that a block of `pack` writes

MP_HD int64_t words_of(int64_t pixels) { return ceil_div(pixels, kWordBits); }
MP_HD bool bit_of(uint32_t word, int bit) { return (word >> bit) & 1u; }

// Words that warp `warp` of a pack block writes, in steps of the block's warp count.
MP_HD Range pack_words(int64_t tile, int warp, int64_t words) {
  const int64_t begin = tile * kPackWords;
  return Range{begin + warp, min_of(begin + kPackWords, words)};
}

// ---- tensor-core fragments: mma.sync.m16n8k16, two 16-bit numbers in each register ----------------------------------

MP_HD int fragment_a_row(int lane, int reg) { return lane / 4 + 8 * (reg & 1); }
MP_HD int fragment_a_k(int lane, int reg) { return lane % 4 * 2 + 8 * (reg >> 1); }
MP_HD int fragment_b_column(int lane) { return lane / 4; }
MP_HD int fragment_b_k(int lane, int reg) { return lane % 4 * 2 + 8 * reg; }
MP_HD int fragment_c_row(int lane, int item) { return lane / 4 + 8 * (item >> 1); }
MP_HD int fragment_c_column(int lane, int item) { return lane % 4 * 2 + (item & 1); }

// ---- products -----------------------------------------------------------------------------------------------------

struct TileShape {
  int m, n, k, threads;
};

// The elements of a rows x depth tile that thread `thread` fetches: the first one, and how far the next ones lie apart.
// Neighbouring threads take neighbours along the axis that is contiguous in memory; `threads` is a multiple of both sides.
struct ElementSteps {
  int row, k, row_step, k_step;
};
MP_HD ElementSteps tile_elements(int thread, int threads, int rows, int depth, bool k_contiguous) {
  return k_contiguous ? ElementSteps{thread / depth, thread % depth, threads / depth, 0}
                      : ElementSteps{thread % rows, thread / rows, 0, threads / rows};
}

// Coordinates of a product block. Row tiles run fastest: neighbours read the same columns of B, the large operand.
struct ProductTile {
  int64_t batch, split, row, column;
};
MP_HD ProductTile product_tile(int64_t block, int64_t row_tiles, int64_t column_tiles, int64_t splits) {
  ProductTile tile;
  tile.row = block % row_tiles;
  block /= row_tiles;
  tile.column = block % column_tiles;
  block /= column_tiles;
  tile.split = block % splits;
  tile.batch = block / splits;
  return tile;
}

// Part `split` of the depth, cut at multiples of `step`; later parts may be empty.
MP_HD Range split_range(int64_t split, int64_t splits, int64_t depth, int64_t step) {
  const int64_t length = ceil_div(ceil_div(depth, step), splits) * step;
  return Range{min_of(split * length, depth), min_of((split + 1) * length, depth)};
}

}  // namespace mmseg_plugins::cuda
