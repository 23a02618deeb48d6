// Products with float32 weights or gradients on either side. Three bfloat16 terms on both sides leave an error of float32
// size; two are far better than TF32 or a 16-bit result asks for.
#include "product_launch.h"

namespace mmseg_plugins::cuda {
namespace {

// float32 rows (B, rows, depth) against features.
template <bool by_channel>
void rows_by_features(const Device& device, const Strided<float>& rows, const Features& features, const ProductSize& size,
                      int64_t splits, const ProductOutput& out, Precision precision) {
  with_float_type(features.tensor, "features", [&](auto number) {
    using T = decltype(number);
    const Strided<T> operand = by_channel ? features_by_channel<T>(features) : features_by_pixel<T>(features);
    if constexpr (std::is_same_v<T, float>) {
      if (precision.allow_tf32) {
        launch_product<2, 2>(device, rows, operand, size, splits, out);
      } else {
        launch_product<3, 3>(device, rows, operand, size, splits, out);
      }
    } else {
      constexpr int kTerms = std::is_same_v<T, Half> ? 2 : 1;
      if (precision.exact_weights) {
        launch_product<3, kTerms>(device, rows, operand, size, splits, out);
      } else {
        launch_product<2, kTerms>(device, rows, operand, size, splits, out);
      }
    }
  });
}

Tensor float_parts(const Tensor& like, const ProductSize& size, int64_t splits) {
  return empty_like_device(like, {splits, size.batch, size.rows, size.columns}, ScalarType::Float);
}

Strided<float> contiguous_rows(const Tensor& values) {
  return Strided<float>{read<float>(values), values.size(1) * values.size(2), values.size(2), 1};
}

}  // namespace

Pooled pool_weights(const Device& device, const Weights& weights, const Features& features, Precision precision, PoolEnd end) {
  const int64_t rows = weights.values.size(1);
  const ProductSize size{features.batch, rows, features.channels, features.pixels};
  const int64_t splits = product_splits(size);
  if (!weights.is_packed) {
    Tensor parts = float_parts(weights.values, size, splits);
    rows_by_features<true>(device, contiguous_rows(weights.values), features, size, splits, float_output(parts), precision);
    return finish_pool(device, parts, weights, end);
  }
  const BitsByMask bits{read<uint32_t>(weights.values), rows, weights.values.size(2)};
  if (splits > 1 || weights.areas.count > 1 || !end.divide) {
    Tensor parts = float_parts(weights.values, size, splits);
    pool_bits(device, bits, features, size, splits, float_output(parts), precision);
    return finish_pool(device, parts, weights, end);
  }
  // Few pixels: the product itself divides, which saves a launch.
  Pooled result{empty_like_device(weights.values, {size.batch, rows, size.columns}, end.type),
                empty_like_device(weights.values, {size.batch, rows}, ScalarType::Float)};
  const ProductOutput out{result.pooled.mutable_data_ptr(), store_type(end.type), 0, rows * size.columns, size.columns, 1,
                          read<int>(weights.areas.parts), end.eps, written<float>(result.area)};
  pool_bits(device, bits, features, size, 1, out, precision);
  return result;
}

Tensor scatter_product(const Device& device, const Tensor& grad, const Weights& weights, Grid grid, ScalarType type,
                       Precision precision) {
  const int64_t batch = grad.size(0), rows = grad.size(1), channels = grad.size(2), pixels = grid.pixels();
  Tensor result = empty_like_device(grad, {batch, channels, grid.height, grid.width}, type);
  const ProductOutput out{result.mutable_data_ptr(), store_type(type), 0, channels * pixels, pixels, 1};
  const ProductSize size{batch, channels, pixels, rows};
  const Strided<float> left{read<float>(grad), rows * channels, 1, channels};
  const bool coarse = precision.allow_tf32 || type != ScalarType::Float;
  if (weights.is_packed) {
    const BitsByPixel bits{read<uint32_t>(weights.values), rows, weights.values.size(2)};
    scatter_bits(device, left, bits, size, out, coarse);
    return result;
  }
  const Strided<float> right{read<float>(weights.values), rows * pixels, 1, pixels};
  if (coarse) {
    launch_product<2, 2>(device, left, right, size, 1, out);
  } else {
    launch_product<3, 3>(device, left, right, size, 1, out);
  }
  return result;
}

Tensor dot_product(const Device& device, const Tensor& grad, const Features& features, Precision precision) {
  const ProductSize size{features.batch, grad.size(1), features.pixels, features.channels};
  Tensor dots = float_parts(grad, size, 1);
  rows_by_features<false>(device, contiguous_rows(grad), features, size, 1, float_output(dots), precision);
  return dots;
}

}  // namespace mmseg_plugins::cuda
