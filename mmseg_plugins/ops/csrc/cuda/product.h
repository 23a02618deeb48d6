// C[row, column] = sum_k A[row, k] * B[column, k] on tensor cores, float32 accuracy from bfloat16 terms.
//
// One kernel for all products of this library. Both operands are fetched element by element through an operand object,
// split into 16-bit terms (numbers.h) and laid k-contiguous into shared memory; the passes over pairs of terms run from
// the smallest to the largest. A tensor core cuts its float32 sums instead of rounding them, and a chain of thousands of
// cut sums drifts by far more than the bound that this library keeps. Therefore each piece of kTile.k is summed from
// zero, and the pieces are added with ordinary rounded additions.
//
// The depth may be split over blocks: split s writes its own partial result, and whoever reads them adds them in order,
// so that a result depends on the shape alone and never on which block ends first.
//
// Review notes. Every thread reaches both barriers: `range` is the same for the whole block. The first barrier of an
// iteration lets the slowest warp finish reading the panel before anyone overwrites it, the second publishes it. Rows,
// columns and k outside the operands are zero, so a tile at the border adds nothing and reads nothing.
#pragma once

#include "index.h"
#include "numbers.h"
#include "platform.h"

namespace mmseg_plugins::cuda {

constexpr TileShape kTile{128, 64, 32, 256};
constexpr int kWarpsM = 4, kWarpsN = 2;            // 8 warps, each 32 x 32
constexpr int kWarpM = kTile.m / kWarpsM, kWarpN = kTile.n / kWarpsN;
constexpr int kFragmentsM = kWarpM / 16, kFragmentsN = kWarpN / 8;
// 20 32-bit words per row: the 8 rows x 4 words that a warp reads for a fragment lie in 32 different banks.
constexpr int kPanelStride = kTile.k + 8;

static_assert(kWarpsM * kWarpsN * 32 == kTile.threads);
static_assert(kTile.threads % kTile.m == 0 && kTile.threads % kTile.n == 0 && kTile.threads % kTile.k == 0);

// ---- operands -----------------------------------------------------------------------------------------------------

// An operand says where its element (row, k) of image b stands, in units of its own, how far that moves with the row
// and with k (the steps of one fetch are linear: fixed, in the same word, or whole rows of words apart), and reads it.

// Element (row, k) of image b: data[b * batch + row * row_stride + k * k_stride].
template <typename T>
struct Strided {
  using Raw = T;
  const T* data;
  int64_t batch, row_stride, k_stride;

  MP_HD bool k_contiguous() const { return k_stride == 1; }
  MP_HD static Raw zero() { return T(0.0f); }
  MP_HD int64_t place(int64_t b, int64_t row, int64_t k) const { return b * batch + row * row_stride + k * k_stride; }
  MP_HD int64_t move(int rows, int ks) const { return rows * row_stride + ks * k_stride; }
  MP_HD Raw read(int64_t place, int64_t, int64_t) const { return data[place]; }
};

// 0/1 weights packed along the pixels: words[(b * masks + mask) * words_per_mask + pixel / 32]. Rows are masks, k runs
// over pixels.
struct BitsByMask {
  using Raw = bool;
  const uint32_t* words;
  int64_t masks, words_per_mask;

  MP_HD static bool k_contiguous() { return true; }
  MP_HD static Raw zero() { return false; }
  MP_HD int64_t place(int64_t b, int64_t row, int64_t k) const { return (b * masks + row) * words_per_mask + k / kWordBits; }
  MP_HD int64_t move(int rows, int) const { return rows * words_per_mask; }
  MP_HD Raw read(int64_t place, int64_t, int64_t k) const { return bit_of(words[place], static_cast<int>(k % kWordBits)); }
};

// The same bits; rows are pixels, k runs over masks.
struct BitsByPixel {
  using Raw = bool;
  const uint32_t* words;
  int64_t masks, words_per_mask;

  MP_HD static bool k_contiguous() { return false; }
  MP_HD static Raw zero() { return false; }
  MP_HD int64_t place(int64_t b, int64_t row, int64_t k) const { return (b * masks + k) * words_per_mask + row / kWordBits; }
  MP_HD int64_t move(int, int ks) const { return ks * words_per_mask; }
  MP_HD Raw read(int64_t place, int64_t row, int64_t) const { return bit_of(words[place], static_cast<int>(row % kWordBits)); }
};

template <bool half, typename Raw, int count>
MP_HD void operand_terms(Raw raw, uint16_t (&terms)[count]) {
  if constexpr (half && std::is_same_v<Raw, Half>) {
    static_assert(count == 1);
    terms[0] = raw.x;
  } else if constexpr (std::is_same_v<Raw, bool>) {
    static_assert(count == 1);
    terms[0] = raw ? (half ? kOneHalf : kOneBFloat16) : uint16_t(0);
  } else {
    static_assert(!half);
    terms_of(raw, terms);
  }
}

// ---- kernel -------------------------------------------------------------------------------------------------------

struct ProductShape {
  int64_t rows, columns, depth, splits, row_tiles, column_tiles;
};

// Where results go: data[split * split_stride + b * batch + row * row_stride + column * column_stride]. With `counts`,
// (B, rows) set bits of 0/1 weights, results are divided by them (plus eps) and the counts are written to `area`: the
// end of a pooling whose depth is not split.
struct ProductOutput {
  void* data;
  Store type;
  int64_t split_stride, batch, row_stride, column_stride;
  const int* counts = nullptr;
  float eps = 0.0f;
  float* area = nullptr;
};

template <bool half>
MP_D void multiply_fragment(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#ifdef MMSEG_PLUGINS_EMULATION
  emulation::mma(d, a, b, half);
#else
  if constexpr (half) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  } else {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
#endif
}

// A panel of one operand: `terms` planes of rows x k, two 16-bit numbers per 32-bit word.
template <int rows, int terms>
struct Panel {
  static constexpr int kSteps = rows * kTile.k / kTile.threads;
  union Plane {
    uint16_t number[rows][kPanelStride];
    uint32_t word[rows][kPanelStride / 2];
  };
  Plane plane[terms];
};

// The elements of the next panel that this thread holds in registers while the current one is multiplied.
template <typename Operand, int rows>
struct Fetched {
  static constexpr int kSteps = rows * kTile.k / kTile.threads;
  typename Operand::Raw raw[kSteps];

  MP_D void load(const Operand& operand, int64_t b, int64_t row0, int64_t row_count, int64_t k0, int64_t k_end) {
    const ElementSteps e = tile_elements(static_cast<int>(threadIdx.x), kTile.threads, rows, kTile.k, operand.k_contiguous());
    const int row_limit = static_cast<int>(min_of(rows, row_count - row0)), k_limit = static_cast<int>(min_of(kTile.k, k_end - k0));
    const int64_t row = row0 + e.row, k = k0 + e.k;
    const int64_t place = operand.place(b, row, k), move = operand.move(e.row_step, e.k_step);
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      const bool inside = e.row + step * e.row_step < row_limit && e.k + step * e.k_step < k_limit;
      raw[step] = inside ? operand.read(place + step * move, row, k) : Operand::zero();
    }
  }

  template <bool half, int terms>
  MP_D void store(Panel<rows, terms>& panel, bool k_contiguous) const {
    const ElementSteps e = tile_elements(static_cast<int>(threadIdx.x), kTile.threads, rows, kTile.k, k_contiguous);
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      uint16_t numbers[terms];
      operand_terms<half>(raw[step], numbers);
#pragma unroll
      for (int term = 0; term < terms; ++term)
        panel.plane[term].number[e.row + step * e.row_step][e.k + step * e.k_step] = numbers[term];
    }
  }
};

using Accumulator = float[kFragmentsM][kFragmentsN][4];

// One pass: adds the product of a plane of A and a plane of B to `part`.
template <bool half, typename PlaneA, typename PlaneB>
MP_D void multiply_planes(const PlaneA& a, const PlaneB& b, Accumulator& part) {
  const int lane = static_cast<int>(threadIdx.x & 31u), warp = static_cast<int>(threadIdx.x >> 5);
  const int row0 = warp / kWarpsN * kWarpM, column0 = warp % kWarpsN * kWarpN;
#pragma unroll
  for (int k0 = 0; k0 < kTile.k; k0 += 16) {
    uint32_t right[kFragmentsN][2];
#pragma unroll
    for (int n = 0; n < kFragmentsN; ++n)
#pragma unroll
      for (int reg = 0; reg < 2; ++reg)
        right[n][reg] = b.word[column0 + 8 * n + fragment_b_column(lane)][(k0 + fragment_b_k(lane, reg)) / 2];
#pragma unroll
    for (int m = 0; m < kFragmentsM; ++m) {
      uint32_t left[4];
#pragma unroll
      for (int reg = 0; reg < 4; ++reg)
        left[reg] = a.word[row0 + 16 * m + fragment_a_row(lane, reg)][(k0 + fragment_a_k(lane, reg)) / 2];
#pragma unroll
      for (int n = 0; n < kFragmentsN; ++n) multiply_fragment<half>(part[m][n], left, right[n]);
    }
  }
}

// All pairs (i, j) of terms whose product counts: i + j below the larger number of terms. What is left out is below
// 2^-21 of the product at worst, 2^-24 on average, for three terms on both sides; nothing is left out against 0/1 weights.
template <bool half, int terms_a, int terms_b>
MP_D void multiply_panels(const Panel<kTile.m, terms_a>& a, const Panel<kTile.n, terms_b>& b, Accumulator& part) {
  constexpr int kLast = (terms_a > terms_b ? terms_a : terms_b) - 1;
#pragma unroll
  for (int order = kLast; order >= 0; --order)
#pragma unroll
    for (int i = 0; i < terms_a; ++i) {
      const int j = order - i;
      if (j >= 0 && j < terms_b) multiply_planes<half>(a.plane[i], b.plane[j], part);
    }
}

MP_D void write_tile(const ProductOutput& out, const ProductShape& shape, const ProductTile& tile, const Accumulator& total) {
  const int lane = static_cast<int>(threadIdx.x & 31u), warp = static_cast<int>(threadIdx.x >> 5);
  const int64_t row0 = tile.row * kTile.m + warp / kWarpsN * kWarpM;
  const int64_t column0 = tile.column * kTile.n + warp % kWarpsN * kWarpN;
  const int64_t base = tile.split * out.split_stride + tile.batch * out.batch;
  const bool writes_area = out.counts != nullptr && tile.column == 0 && warp % kWarpsN == 0 && lane % 4 == 0;
#pragma unroll
  for (int m = 0; m < kFragmentsM; ++m)
#pragma unroll
    for (int half = 0; half < 4; half += 2) {
      const int64_t row = row0 + 16 * m + fragment_c_row(lane, half);
      if (row >= shape.rows) continue;
      const float count = out.counts != nullptr ? static_cast<float>(out.counts[tile.batch * shape.rows + row]) : 1.0f;
      if (writes_area) out.area[tile.batch * shape.rows + row] = count;
      const float divisor = count + out.eps;
#pragma unroll
      for (int n = 0; n < kFragmentsN; ++n)
#pragma unroll
        for (int item = half; item < half + 2; ++item) {
          const int64_t column = column0 + 8 * n + fragment_c_column(lane, item);
          if (column < shape.columns)
            store_number(out.data, out.type, base + row * out.row_stride + column * out.column_stride, total[m][n][item] / divisor);
        }
    }
}

template <typename A, typename B, int terms_a, int terms_b, bool half>
// Two blocks per multiprocessor where the registers allow it without spilling much (three term planes on one side).
__global__ void __launch_bounds__(kTile.threads, terms_a * terms_b <= 3 ? 2 : 1)
product_kernel(const A a, const B b, const ProductShape shape, const ProductOutput out) {
  using PanelA = Panel<kTile.m, terms_a>;
  using PanelB = Panel<kTile.n, terms_b>;
  MP_SHARED(PanelA, panel_a);
  MP_SHARED(PanelB, panel_b);
  const ProductTile tile = product_tile(blockIdx.x, shape.row_tiles, shape.column_tiles, shape.splits);
  const Range range = split_range(tile.split, shape.splits, shape.depth, kTile.k);
  const int64_t row0 = tile.row * kTile.m, column0 = tile.column * kTile.n;
  Accumulator total = {};
  Fetched<A, kTile.m> next_a;
  Fetched<B, kTile.n> next_b;
  next_a.load(a, tile.batch, row0, shape.rows, range.begin, range.end);
  next_b.load(b, tile.batch, column0, shape.columns, range.begin, range.end);
  for (int64_t k = range.begin; k < range.end; k += kTile.k) {
    __syncthreads();
    next_a.template store<half>(panel_a, a.k_contiguous());
    next_b.template store<half>(panel_b, b.k_contiguous());
    __syncthreads();
    if (k + kTile.k < range.end) {
      next_a.load(a, tile.batch, row0, shape.rows, k + kTile.k, range.end);
      next_b.load(b, tile.batch, column0, shape.columns, k + kTile.k, range.end);
    }
    Accumulator part = {};
    multiply_panels<half>(panel_a, panel_b, part);
#pragma unroll
    for (int m = 0; m < kFragmentsM; ++m)
#pragma unroll
      for (int n = 0; n < kFragmentsN; ++n)
#pragma unroll
        for (int item = 0; item < 4; ++item) total[m][n][item] += part[m][n][item];
  }
  write_tile(out, shape, tile, total);
}

}  // namespace mmseg_plugins::cuda
