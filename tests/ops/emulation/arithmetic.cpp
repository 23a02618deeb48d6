// The kernels' index arithmetic behind plain C functions, so that a test can run it over all threads of a launch.
#include "index.h"
#include "numbers.h"
#include "sources.h"

using namespace mmseg_plugins::cuda;

extern "C" {

void taps(int n_in, int n_out, int* low, int* high, float* lambda) {
  for (int i = 0; i < n_out; ++i) {
    const Tap tap = bilinear_tap(i, n_in, n_out);
    low[i] = tap.low, high[i] = tap.high, lambda[i] = tap.lambda;
  }
}

void torch_taps(int n_in, int n_out, int* low, int* high, float* lambda) {
  for (int i = 0; i < n_out; ++i) {
    const Tap tap = torch_tap(i, n_in, n_out, 0);
    low[i] = tap.low, high[i] = tap.high, lambda[i] = tap.lambda;
  }
}

// matrix (n_in, n_out): what each input's gather range adds up to.
void adjoint(int n_in, int n_out, float* matrix) {
  for (int x = 0; x < n_in; ++x) {
    const Range range = adjoint_range(x, n_in, n_out);
    for (int64_t i = range.begin; i < range.end; ++i)
      matrix[int64_t(x) * n_out + i] += adjoint_weight(bilinear_tap(int(i), n_in, n_out), x);
  }
}

// places (32 lanes, 4 or 2 registers, 2): row and k (column for C) of each register or item.
void fragments(int* a, int* b, int* c) {
  for (int lane = 0; lane < 32; ++lane) {
    for (int reg = 0; reg < 4; ++reg) {
      *a++ = fragment_a_row(lane, reg), *a++ = fragment_a_k(lane, reg);
      *c++ = fragment_c_row(lane, reg), *c++ = fragment_c_column(lane, reg);
    }
    for (int reg = 0; reg < 2; ++reg) *b++ = fragment_b_column(lane), *b++ = fragment_b_k(lane, reg);
  }
}

// How often each element of a rows x depth tile is fetched.
void tile_cover(int threads, int rows, int depth, int k_contiguous, int* times) {
  for (int thread = 0; thread < threads; ++thread) {
    const ElementSteps e = tile_elements(thread, threads, rows, depth, k_contiguous != 0);
    for (int step = 0; step < rows * depth / threads; ++step)
      ++times[(e.row + step * e.row_step) * depth + e.k + step * e.k_step];
  }
}

// How often each (batch, split, row tile, column tile) is visited by `blocks` blocks.
void product_cover(int batch, int splits, int row_tiles, int column_tiles, int* times) {
  for (int block = 0; block < batch * splits * row_tiles * column_tiles; ++block) {
    const ProductTile t = product_tile(block, row_tiles, column_tiles, splits);
    ++times[((t.batch * splits + t.split) * row_tiles + t.row) * column_tiles + t.column];
  }
}

void splits(int64_t count, int64_t depth, int64_t step, int64_t* ranges) {
  for (int64_t split = 0; split < count; ++split) {
    const Range range = split_range(split, count, depth, step);
    *ranges++ = range.begin, *ranges++ = range.end;
  }
}

// How often each word is written by a pack launch of `tiles` blocks of `warps` warps.
void pack_cover(int64_t words, int64_t tiles, int warps, int* times) {
  for (int64_t tile = 0; tile < tiles; ++tile)
    for (int warp = 0; warp < warps; ++warp) {
      const Range range = pack_words(tile, warp, words);
      for (int64_t word = range.begin; word < range.end; word += warps) ++times[word];
    }
}

void terms(const float* values, int count, float* parts) {
  for (int i = 0; i < count; ++i) {
    uint16_t bits[3];
    split_terms(values[i], bits);
    for (const uint16_t term : bits) *parts++ = float_of_bits(uint32_t(term) << 16);
  }
}

}  // extern "C"
