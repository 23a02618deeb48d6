// Weights of label maps: packed one-hot bits when labels and features have the same grid, folded counts otherwise.
//
// Review notes. `label_bits_kernel`: a warp owns one word of 32 pixels in every segment, so no two warps write the same
// word. `label_fold_kernel`: a thread owns one feature pixel and adds to its own column of `folded` alone, in the order of
// the labels. Counts use atomic additions of integers, whose result does not depend on their order. `label_gather_kernel`: a
// thread owns one element of the gradient; neighbours mostly share a label and then read the same number.
#include "stages.h"

namespace mmseg_plugins::cuda {
namespace {

template <typename T>
struct LabelSource {
  const T* data;
  int64_t batch_stride, y_stride, x_stride;
  int height, width;
  int64_t segments, ignore_index;

  // The segment of a pixel, or -1.
  MP_HD int64_t at(int64_t b, int y, int x) const {
    const int64_t label = data[b * batch_stride + y * y_stride + x * x_stride];
    return label >= 0 && label < segments && label != ignore_index ? label : -1;
  }
};

template <typename T>
__global__ void __launch_bounds__(kThreads)
label_bits_kernel(const LabelSource<T> labels, int64_t total_words, int64_t word_count, uint32_t* words) {
  const int64_t item = int64_t(blockIdx.x) * (kThreads / 32) + (threadIdx.x >> 5);
  if (item >= total_words) return;  // the same for all lanes of a warp
  const int lane = static_cast<int>(threadIdx.x & 31u);
  const int64_t b = item / word_count, word = item % word_count, pixel = word * kWordBits + lane;
  int64_t segment = -1;
  if (pixel < int64_t(labels.height) * labels.width)
    segment = labels.at(b, static_cast<int>(pixel / labels.width), static_cast<int>(pixel % labels.width));
  for (int64_t s = 0; s < labels.segments; ++s) {
    const uint32_t bits = __ballot_sync(kFullWarp, segment == s);
    if (lane == s % 32) words[(b * labels.segments + s) * word_count + word] = bits;
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
label_fold_kernel(const LabelSource<T> labels, const Grid grid, int64_t total, float* folded) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= total) return;
  const int64_t b = i / grid.pixels(), pixel = i % grid.pixels();
  const int row = static_cast<int>(pixel / grid.width), column = static_cast<int>(pixel % grid.width);
  const Range ys = adjoint_range(row, grid.height, labels.height), xs = adjoint_range(column, grid.width, labels.width);
  float* own = folded + b * labels.segments * grid.pixels() + pixel;
  for (int64_t y = ys.begin; y < ys.end; ++y) {
    const float down = adjoint_weight(bilinear_tap(static_cast<int>(y), grid.height, labels.height), row);
    int64_t current = -1;
    float run = 0.0f;  // sum over the pixels of `current` that follow each other in this row
    for (int64_t x = xs.begin; x < xs.end; ++x) {
      const int64_t segment = labels.at(b, static_cast<int>(y), static_cast<int>(x));
      if (segment != current) {
        if (current >= 0) own[current * grid.pixels()] += down * run;
        current = segment;
        run = 0.0f;
      }
      run += adjoint_weight(bilinear_tap(static_cast<int>(x), grid.width, labels.width), column);
    }
    if (current >= 0) own[current * grid.pixels()] += down * run;
  }
}

constexpr int kCountRun = 16;  // pixels that a thread looks at: neighbours share a label, and then one addition

template <typename T>
__global__ void __launch_bounds__(kThreads) label_count_kernel(const LabelSource<T> labels, int64_t runs, int64_t total, int* counts) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= total) return;
  const int64_t b = i / runs, pixels = int64_t(labels.height) * labels.width;
  int64_t current = -1;
  int run = 0;
  for (int64_t pixel = i % runs * kCountRun; pixel < min_of((i % runs + 1) * kCountRun, pixels); ++pixel) {
    const int64_t segment = labels.at(b, static_cast<int>(pixel / labels.width), static_cast<int>(pixel % labels.width));
    if (segment != current) {
      if (current >= 0) atomicAdd(counts + b * labels.segments + current, run);
      current = segment;
      run = 0;
    }
    ++run;
  }
  if (current >= 0) atomicAdd(counts + b * labels.segments + current, run);
}

template <typename T>
Weights weights_of(const Device& device, const Tensor& labels, const LabelSource<T>& source, Grid grid) {
  const int64_t batch = labels.size(0), segments = source.segments;
  Weights result;
  if (grid.height == source.height && grid.width == source.width) {
    const int64_t words = words_of(grid.pixels());
    result.is_packed = true;
    result.values = empty_like_device(labels, {batch, segments, words}, ScalarType::Int);
    device.launch(label_bits_kernel<T>, ceil_div(batch * words, kThreads / 32), kThreads, source, batch * words, words,
                  written<uint32_t>(result.values));
    result.areas = count_words(device, result.values);
    return result;
  }
  result.values = zeros_like_device(labels, {batch, segments, grid.pixels()}, ScalarType::Float);
  result.areas = Areas{zeros_like_device(labels, {batch * segments, 1}, ScalarType::Int), 1, true};
  const int64_t cells = batch * grid.pixels(), runs = ceil_div(int64_t(source.height) * source.width, kCountRun);
  device.launch(label_fold_kernel<T>, ceil_div(cells, kThreads), kThreads, source, grid, cells, written<float>(result.values));
  device.launch(label_count_kernel<T>, ceil_div(batch * runs, kThreads), kThreads, source, runs, batch * runs,
                written<int>(result.areas.parts));
  return result;
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
label_gather_kernel(const LabelSource<T> labels, const float* rows, int64_t channels, int64_t total, Store type, void* grad) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= total) return;
  const int64_t pixels = int64_t(labels.height) * labels.width, pixel = i % pixels, plane = i / pixels, b = plane / channels;
  const int64_t segment = labels.at(b, static_cast<int>(pixel / labels.width), static_cast<int>(pixel % labels.width));
  store_number(grad, type, i, segment < 0 ? 0.0f : rows[(b * labels.segments + segment) * channels + plane % channels]);
}

template <typename T>
LabelSource<T> label_source(const Tensor& labels, int64_t segments, int64_t ignore_index) {
  return LabelSource<T>{read<T>(labels), labels.stride(0), labels.stride(1), labels.stride(2), static_cast<int>(labels.size(1)),
                        static_cast<int>(labels.size(2)), segments, ignore_index};
}

// Calls `use(LabelSource<T>)` with the type of the labels.
template <typename F>
auto with_labels(const Tensor& labels, int64_t segments, int64_t ignore_index, F&& use) {
  if (labels.scalar_type() == ScalarType::Int) return use(label_source<int32_t>(labels, segments, ignore_index));
  STD_TORCH_CHECK(labels.scalar_type() == ScalarType::Long, "labels must be int32 or int64");
  return use(label_source<int64_t>(labels, segments, ignore_index));
}

}  // namespace

Weights label_weights(const Device& device, const Tensor& labels, int64_t segments, int64_t ignore_index, Grid grid) {
  return with_labels(labels, segments, ignore_index,
                     [&](const auto& source) { return weights_of(device, labels, source, grid); });
}

Tensor label_gather(const Device& device, const Tensor& rows, const Tensor& labels, int64_t ignore_index, ScalarType type) {
  const int64_t channels = rows.size(2);
  Tensor grad = empty_like_device(rows, {labels.size(0), channels, labels.size(1), labels.size(2)}, type);
  with_labels(labels, rows.size(1), ignore_index, [&](auto source) {
    device.launch(label_gather_kernel<std::remove_cv_t<std::remove_pointer_t<decltype(source.data)>>>,
                  ceil_div(grad.numel(), kThreads), kThreads, source, read<float>(rows), channels, grad.numel(),
                  store_type(type), grad.mutable_data_ptr());
  });
  return grad;
}

}  // namespace mmseg_plugins::cuda
