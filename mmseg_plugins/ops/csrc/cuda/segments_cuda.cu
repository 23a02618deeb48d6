// The operators on label maps, bit masks and run lengths, and the packing of masks.
#include "stages.h"

namespace mmseg_plugins::cuda {
namespace {

using Sizes = std::vector<int64_t>;

__global__ void __launch_bounds__(kThreads)
pack_rows_kernel(const float* masks, float threshold, int64_t width, int64_t bytes, uint8_t* bits) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x, row_bytes = ceil_div(width, 8);
  if (i >= bytes) return;
  const int64_t row = i / row_bytes, x0 = i % row_bytes * 8;
  unsigned byte = 0;
  for (int64_t x = x0; x < min_of(x0 + 8, width); ++x) byte |= unsigned(masks[row * width + x] > threshold) << (x - x0);
  bits[i] = static_cast<uint8_t>(byte);
}

Tensor pack_bits(const Tensor& masks, double threshold) {
  STD_TORCH_CHECK(masks.dim() >= 2, "masks must be (..., h, w)");
  const Tensor dense = as_float32(masks);
  const int64_t width = masks.size(-1);
  Sizes shape(masks.sizes().begin(), masks.sizes().end());
  shape.back() = ceil_div(width, 8);
  Tensor bits = torch::stable::new_empty(dense, IntHeaderOnlyArrayRef(shape.data(), shape.size()), ScalarType::Byte);
  const Device device(masks);
  device.launch(pack_rows_kernel, ceil_div(bits.numel(), kThreads), kThreads, read<float>(dense), static_cast<float>(threshold),
                width, bits.numel(), written<uint8_t>(bits));
  return bits;
}

Tensor rle_to_bits(const Tensor& counts, const Tensor& offsets, const Sizes& size) {
  STD_TORCH_CHECK(size.size() == 2, "size must be (h, w)");
  STD_TORCH_CHECK(counts.scalar_type() == ScalarType::Long && offsets.scalar_type() == ScalarType::Long && offsets.size(0) >= 1,
                  "counts and offsets must be int64, offsets with one entry more than there are masks");
  const Device device(counts);
  return decode_runs(device, counts, offsets, size[0], size[1]);
}

PoolEnd end_of(double eps, const Tensor& features, std::optional<ScalarType> out_dtype) {
  return PoolEnd{true, static_cast<float>(eps), out_dtype.value_or(features.scalar_type())};
}

Tensor scatter_weights(const Device& device, const Tensor& grad, const Weights& weights, const Tensor& area, double eps, Grid grid,
                       ScalarType dtype, bool allow_tf32) {
  const Tensor scaled = scaled_grad(device, grad, &area, static_cast<float>(eps));
  return scatter_product(device, scaled, weights, grid, dtype, Precision{allow_tf32});
}

Grid label_grid(const Tensor& labels, int64_t height, int64_t width) {
  STD_TORCH_CHECK(labels.dim() == 3, "labels must be (B, h, w), got ", labels.dim(), " dimensions");
  return checked_grid(height, width, labels.size(1), labels.size(2));
}

std::tuple<Tensor, Tensor> label_pool_fwd(const Tensor& features, const Tensor& labels, int64_t num_segments, int64_t ignore_index,
                                          double eps, bool allow_tf32, std::optional<ScalarType> out_dtype) {
  const Features input(features);
  const Grid grid = label_grid(labels, features.size(2), features.size(3));
  STD_TORCH_CHECK(labels.size(0) == input.batch, "labels must be (B, h, w) with B = ", input.batch);
  const Device device(features);
  const Weights weights = label_weights(device, labels, num_segments, ignore_index, grid);
  const Pooled result = pool_weights(device, weights, input, Precision{allow_tf32, true}, end_of(eps, features, out_dtype));
  return {result.pooled, result.area};
}

Tensor label_pool_bwd(const Tensor& grad, const Tensor& labels, const Tensor& area, int64_t ignore_index, double eps,
                      bool allow_tf32, const Sizes& feature_size, ScalarType dtype) {
  STD_TORCH_CHECK(feature_size.size() == 2, "feature_size must be (H, W)");
  const Grid grid = label_grid(labels, feature_size[0], feature_size[1]);
  const Device device(grad);
  // On equal grids a pixel has but one segment: a read per element, however many segments there are.
  if (grid.height == labels.size(1) && grid.width == labels.size(2))
    return label_gather(device, scaled_grad(device, grad, &area, static_cast<float>(eps)), labels, ignore_index, dtype);
  const Weights weights = label_weights(device, labels, grad.size(1), ignore_index, grid);
  return scatter_weights(device, grad, weights, area, eps, grid, dtype, allow_tf32);
}

Grid bits_grid(const Tensor& bits, const Sizes& size, int64_t height, int64_t width) {
  STD_TORCH_CHECK(size.size() == 2 && bits.dim() == 4 && bits.scalar_type() == ScalarType::Byte && bits.size(2) == size[0] &&
                      bits.size(3) == ceil_div(size[1], 8),
                  "bits must be uint8 (B, Q, h, ceil(w / 8)) for size (h, w)");
  return checked_grid(height, width, size[0], size[1]);
}

std::tuple<Tensor, Tensor> bits_pool_fwd(const Tensor& features, const Tensor& bits, const Sizes& size, double eps, bool allow_tf32,
                                         std::optional<ScalarType> out_dtype) {
  const Features input(features);
  const Grid grid = bits_grid(bits, size, features.size(2), features.size(3));
  STD_TORCH_CHECK(bits.size(0) == input.batch, "bits must be (B, Q, h, ceil(w / 8)) with B = ", input.batch);
  const Device device(features);
  const Weights weights = fold_bits(device, bits, size[1], grid);
  const Pooled result = pool_weights(device, weights, input, Precision{allow_tf32, true}, end_of(eps, features, out_dtype));
  return {result.pooled, result.area};
}

Tensor bits_pool_bwd(const Tensor& grad, const Tensor& bits, const Tensor& area, const Sizes& size, double eps, bool allow_tf32,
                     const Sizes& feature_size, ScalarType dtype) {
  STD_TORCH_CHECK(feature_size.size() == 2, "feature_size must be (H, W)");
  const Grid grid = bits_grid(bits, size, feature_size[0], feature_size[1]);
  const Device device(grad);
  return scatter_weights(device, grad, fold_bits(device, bits, size[1], grid), area, eps, grid, dtype, allow_tf32);
}

std::tuple<Tensor, Tensor, Tensor> rle_pool_fwd(const Tensor& features, const Tensor& counts, const Tensor& offsets,
                                                const Sizes& size, double eps, bool allow_tf32,
                                                std::optional<ScalarType> out_dtype) {
  const Features input(features);
  const Tensor flat = rle_to_bits(counts, offsets, size);
  const Grid grid = checked_grid(features.size(2), features.size(3), size[0], size[1]);
  const int64_t rows = input.batch > 0 ? flat.size(0) / input.batch : 0;
  STD_TORCH_CHECK(rows * input.batch == flat.size(0), "offsets name ", flat.size(0), " masks, not a multiple of B = ", input.batch);
  const Sizes shape{input.batch, rows, size[0], ceil_div(size[1], 8)};
  const Tensor bits = torch::stable::view(flat, IntHeaderOnlyArrayRef(shape.data(), shape.size()));
  const Device device(features);
  const Weights weights = fold_bits(device, bits, size[1], grid);
  const Pooled result = pool_weights(device, weights, input, Precision{allow_tf32, true}, end_of(eps, features, out_dtype));
  return {result.pooled, result.area, weights.values};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mmseg_plugins, MP_DISPATCH_KEY, m) {
  m.impl("label_pool_fwd", TORCH_BOX(&label_pool_fwd));
  m.impl("label_pool_bwd", TORCH_BOX(&label_pool_bwd));
  m.impl("bits_pool_fwd", TORCH_BOX(&bits_pool_fwd));
  m.impl("bits_pool_bwd", TORCH_BOX(&bits_pool_bwd));
  m.impl("rle_pool_fwd", TORCH_BOX(&rle_pool_fwd));
  m.impl("rle_to_bits", TORCH_BOX(&rle_to_bits));
  m.impl("pack_bits", TORCH_BOX(&pack_bits));
}

}  // namespace mmseg_plugins::cuda
