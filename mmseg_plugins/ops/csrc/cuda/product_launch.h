// Chooses tiles and splits of a product and launches it. Included by the files that instantiate products.
#pragma once

#include "stages.h"

namespace mmseg_plugins::cuda {

// Two blocks for each of 132 multiprocessors. A constant and not the device's own number: results, which depend on how
// the depth is split, shall be the same on every device of a kind.
constexpr int64_t kWantedBlocks = 264;
constexpr int64_t kMostSplits = 64;

struct ProductSize {
  int64_t batch, rows, columns, depth;
};

// As many splits as fill the device, none with fewer than 8 steps of depth.
inline int64_t product_splits(const ProductSize& size) {
  const int64_t tiles = size.batch * ceil_div(size.rows, kTile.m) * ceil_div(size.columns, kTile.n);
  if (tiles == 0) return 1;
  const int64_t wanted = ceil_div(kWantedBlocks, tiles), possible = size.depth / (8 * kTile.k);
  return max_of(1, min_of(min_of(wanted, possible), kMostSplits));
}

template <int terms_a, int terms_b, bool half = false, typename A, typename B>
void launch_product(const Device& device, const A& a, const B& b, const ProductSize& size, int64_t splits,
                    const ProductOutput& out) {
  const ProductShape shape{size.rows, size.columns, size.depth, splits, ceil_div(size.rows, kTile.m),
                           ceil_div(size.columns, kTile.n)};
  device.launch(product_kernel<A, B, terms_a, terms_b, half>, size.batch * splits * shape.row_tiles * shape.column_tiles,
                kTile.threads, a, b, shape, out);
}

// Contiguous float32 results (splits, B, rows, columns).
inline ProductOutput float_output(const Tensor& parts) {
  const int64_t rows = parts.size(2), columns = parts.size(3);
  return ProductOutput{written<float>(parts), Store::float32, parts.size(1) * rows * columns, rows * columns, columns, 1};
}

// Features as the operand whose rows are channels and whose k runs over pixels.
template <typename T>
Strided<T> features_by_channel(const Features& features) {
  return Strided<T>{read<T>(features.tensor), features.batch_stride, features.channel_stride, features.pixel_stride};
}

// The same with pixels for rows and channels for k.
template <typename T>
Strided<T> features_by_pixel(const Features& features) {
  return Strided<T>{read<T>(features.tensor), features.batch_stride, features.pixel_stride, features.channel_stride};
}

// Products with packed weights, in product_bits_cuda.cu; with float32 weights, in product_soft_cuda.cu.
void pool_bits(const Device& device, const BitsByMask& bits, const Features& features, const ProductSize& size,
               int64_t splits, const ProductOutput& out, Precision precision);
void scatter_bits(const Device& device, const Strided<float>& grad, const BitsByPixel& bits, const ProductSize& size,
                  const ProductOutput& out, bool coarse);

}  // namespace mmseg_plugins::cuda
