// Gradient to the masks. d = grad . features comes from a product; here it becomes dr = phi'(r) (d - s) / D, and then the
// adjoint of the mask resize in gather form: each mask pixel adds the few resized pixels that used it, always in the same
// order and without atomics.
//
// Review notes. Every kernel writes each of its results once, from one thread. `rows_dot_kernel` runs one block per row
// and its loops meet at no barrier but those of the reduction. A mask pixel that no resized pixel uses gets exactly 0.
#include "stages.h"

namespace mmseg_plugins::cuda {
namespace {

// sums[row] = sum_i a[row, i] * b[row / share, i]: the centre s of every mask, or of `share` maps of one mask.
__global__ void __launch_bounds__(kThreads)
rows_dot_kernel(const float* a, const float* b, int64_t share, int64_t length, float* sums) {
  using Scratch = float[kThreads / 32];
  MP_SHARED(Scratch, scratch);
  const int64_t row = blockIdx.x;
  float sum = 0.0f;
  for (int64_t i = threadIdx.x; i < length; i += kThreads) sum += a[row * length + i] * b[row / share * length + i];
  sum = block_reduce<SumOf>(sum, scratch);
  if (threadIdx.x == 0) sums[row] = sum;
}

struct SlopeOptions {
  Mode mode;
  int64_t share;      // maps of one mask that use the same dots
  float scale;        // 1 / K for averaged maps
  float eps;
};

// Statistics of a kmap, per map; areas and centres of every mask. Null where a mode has no use for them.
struct SlopeInputs {
  const float* dots;        // (B, rows / share, N) on the feature grid
  const float* centres;     // (M,)
  const float* areas;       // (M,)
  const float* statistics;  // (M, 2), kmap
};

struct DotSource {
  const float* data;
  int height, width;

  MP_HD float at(int64_t plane, int y, int x) const { return data[plane + int64_t(y) * width + x]; }
};

// d / d r of a pixel of mask `m` whose mask value is r and whose dot product is d.
MP_D float slope(const SlopeOptions& options, const SlopeInputs& in, int64_t m, float r, float d) {
  const float difference = d - in.centres[m];
  if (options.mode == Mode::kmap) {
    const float v = expf(log_sigmoid(r) - in.statistics[2 * m]) / in.statistics[2 * m + 1];
    return v * sigmoid(-r) * difference * options.scale;
  }
  const float factor = options.mode == Mode::prob ? 1.0f : sigmoid(r) * sigmoid(-r);
  return factor * difference / (in.areas[m] + options.eps);
}

// One thread per pixel of `out_grid`: the feature grid, or the mask grid when the features are what is resized.
template <typename Source>
__global__ void __launch_bounds__(kThreads)
slope_kernel(const Source source, const Grid out_grid, const Grid dot_grid, const SlopeOptions options, const SlopeInputs in,
             int64_t count, float* slopes) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= count) return;
  const int64_t m = i / out_grid.pixels();
  const int pixel = static_cast<int>(i % out_grid.pixels());
  const DotSource dots{in.dots, dot_grid.height, dot_grid.width};
  const float r = resized_pixel(source, source.plane(m), out_grid, pixel);
  const float d = resized_pixel(dots, m / options.share * dot_grid.pixels(), out_grid, pixel);
  slopes[i] = slope(options, in, m, r, d);
}

__global__ void __launch_bounds__(kThreads)
gather_kernel(const float* slopes, const Grid grid, const Grid mask_grid, int64_t count, Store type, void* result) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= count) return;
  const int64_t m = i / mask_grid.pixels();
  const int y = static_cast<int>(i % mask_grid.pixels()) / mask_grid.width;
  const int x = static_cast<int>(i % mask_grid.pixels()) % mask_grid.width;
  const Range rows = adjoint_range(y, mask_grid.height, grid.height), columns = adjoint_range(x, mask_grid.width, grid.width);
  float sum = 0.0f;
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    float line = 0.0f;
    for (int64_t column = columns.begin; column < columns.end; ++column)
      line += adjoint_weight(bilinear_tap(static_cast<int>(column), mask_grid.width, grid.width), x) *
              slopes[m * grid.pixels() + row * grid.width + column];
    sum += adjoint_weight(bilinear_tap(static_cast<int>(row), mask_grid.height, grid.height), y) * line;
  }
  store_number(result, type, i, sum);
}

}  // namespace

Tensor rows_dot(const Device& device, const Tensor& a, const Tensor& b, int64_t share) {
  const int64_t rows = a.size(0) * a.size(1);
  Tensor sums = empty_like_device(a, {rows}, ScalarType::Float);
  device.launch(rows_dot_kernel, rows, kThreads, read<float>(a), read<float>(b), share, a.size(2), written<float>(sums));
  return sums;
}

Tensor mask_gradient(const Device& device, const Tensor& masks, const MaskGradient& in, Grid grid, bool resize_features) {
  const int64_t count = masks.size(0) * masks.size(1);
  const Grid mask_grid{static_cast<int>(masks.size(2)), static_cast<int>(masks.size(3))};
  const Grid slope_grid = resize_features ? mask_grid : grid;
  Tensor slopes = empty_like_device(masks, {count, slope_grid.pixels()}, ScalarType::Float);
  const SlopeOptions options{in.mode, in.share, in.scale, in.eps};
  const SlopeInputs inputs{read<float>(in.dots), read<float>(in.centres), read<float>(in.areas),
                           in.statistics ? read<float>(*in.statistics) : nullptr};
  with_mask_type(masks, [&](auto number) {
    using T = decltype(number);
    device.launch(slope_kernel<MaskSource<T>>, ceil_div(slopes.numel(), kThreads), kThreads, mask_source<T>(masks), slope_grid,
                  grid, options, inputs, slopes.numel(), written<float>(slopes));
  });
  Tensor result = empty_like_device(masks, {masks.size(0), masks.size(1), mask_grid.height, mask_grid.width}, masks.scalar_type());
  device.launch(gather_kernel, ceil_div(result.numel(), kThreads), kThreads, read<float>(slopes), slope_grid, mask_grid,
                result.numel(), store_type(masks.scalar_type()), result.mutable_data_ptr());
  return result;
}

}  // namespace mmseg_plugins::cuda
