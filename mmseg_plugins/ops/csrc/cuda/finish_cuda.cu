// Last stage of pooling: add the parts of the product in order, divide once, round once.
#include "stages.h"

namespace mmseg_plugins::cuda {
namespace {

struct FinishShape {
  int64_t rows, channels, splits, area_parts;  // rows counts all images
  bool is_integer, divide;
  float eps;
};

// One block per pooled row.
__global__ void __launch_bounds__(kThreads)
finish_kernel(const float* parts, const void* area_parts, const FinishShape shape, Store type, void* pooled, float* area) {
  using Integers = int[kThreads / 32];
  using Floats = float[kThreads / 32];
  MP_SHARED(Integers, integers);
  MP_SHARED(Floats, floats);
  const int64_t row = blockIdx.x;
  float divisor = 1.0f;
  if (shape.divide) {
    float total;
    if (shape.is_integer) {
      int count = 0;
      for (int64_t i = threadIdx.x; i < shape.area_parts; i += kThreads)
        count += static_cast<const int*>(area_parts)[row * shape.area_parts + i];
      total = static_cast<float>(block_reduce<SumOf>(count, integers));
    } else {
      float sum = 0.0f;
      for (int64_t i = threadIdx.x; i < shape.area_parts; i += kThreads)
        sum += static_cast<const float*>(area_parts)[row * shape.area_parts + i];
      total = block_reduce<SumOf>(sum, floats);
    }
    if (threadIdx.x == 0) area[row] = total;
    divisor = total + shape.eps;
  }
  for (int64_t c = threadIdx.x; c < shape.channels; c += kThreads) {
    float sum = 0.0f;
    for (int64_t split = 0; split < shape.splits; ++split)
      sum += parts[(split * shape.rows + row) * shape.channels + c];
    store_number(pooled, type, row * shape.channels + c, sum / divisor);
  }
}

__global__ void __launch_bounds__(kThreads)
scale_kernel(const float* grad, const float* area, float eps, int64_t channels, int64_t count, float* scaled) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i < count) scaled[i] = grad[i] / (area[i / channels] + eps);
}

}  // namespace

Pooled finish_pool(const Device& device, const Tensor& parts, const Weights& weights, PoolEnd end) {
  const int64_t batch = parts.size(1), rows = parts.size(2), channels = parts.size(3);
  Pooled result;
  result.pooled = empty_like_device(parts, {batch, rows, channels}, end.type);
  // Without a division (kmap) the areas are complete already, and there may be more of them than rows.
  result.area = end.divide ? empty_like_device(parts, {batch, rows}, ScalarType::Float) : weights.areas.parts;
  const FinishShape shape{batch * rows, channels, parts.size(0), weights.areas.count, weights.areas.is_integer, end.divide, end.eps};
  device.launch(finish_kernel, batch * rows, kThreads, read<float>(parts), weights.areas.parts.const_data_ptr(), shape,
                store_type(end.type), result.pooled.mutable_data_ptr(), end.divide ? written<float>(result.area) : nullptr);
  return result;
}

Tensor scaled_grad(const Device& device, const Tensor& grad, const Tensor* area, float eps) {
  const Tensor wide = as_float32(grad);
  if (area == nullptr) return wide;
  Tensor scaled = empty_like_device(wide, {wide.size(0), wide.size(1), wide.size(2)}, ScalarType::Float);
  const Tensor dense = as_float32(*area);
  device.launch(scale_kernel, ceil_div(wide.numel(), kThreads), kThreads, read<float>(wide), read<float>(dense), eps,
                wide.size(2), wide.numel(), written<float>(scaled));
  return scaled;
}

}  // namespace mmseg_plugins::cuda
