// First stage of pooling on the feature grid: resize a mask, apply phi, and keep the weights as bits (hard) or float32.
//
// Review notes. Each pixel, and each word of bits, is written by exactly one thread; the bits past N are cleared because
// lanes past the last pixel vote "outside". In `pack_kernel` the loop bounds of a warp depend on the warp alone, so all
// its lanes meet in every ballot. Areas of bits are integer sums.
#include "stages.h"

namespace mmseg_plugins::cuda {
namespace {

constexpr int kWarps = kThreads / 32;
constexpr int kSoftTile = 16 * kThreads;  // pixels of one mask that a block of `soft_kernel` handles

template <typename Source>
__global__ void __launch_bounds__(kThreads)
pack_kernel(const Source source, const Grid grid, float threshold, int64_t tiles, uint32_t* words, int* counts) {
  using Scratch = int[kWarps];
  MP_SHARED(Scratch, scratch);
  const int64_t mask = blockIdx.x / tiles, plane = source.plane(mask);
  const int lane = static_cast<int>(threadIdx.x & 31u), warp = static_cast<int>(threadIdx.x >> 5);
  const int64_t word_count = words_of(grid.pixels());
  const Range range = pack_words(blockIdx.x % tiles, warp, word_count);
  int count = 0;
  for (int64_t word = range.begin; word < range.end; word += kWarps) {
    const int64_t pixel = word * kWordBits + lane;
    const bool inside =
        pixel < grid.pixels() && resized_pixel(source, plane, grid, static_cast<int>(pixel)) > threshold;
    const uint32_t bits = __ballot_sync(kFullWarp, inside);
    if (lane == 0) {
      words[mask * word_count + word] = bits;
      count += __popc(bits);
    }
  }
  count = block_reduce<SumOf>(count, scratch);
  if (threadIdx.x == 0) counts[blockIdx.x] = count;
}

template <typename Source>
__global__ void __launch_bounds__(kThreads)
soft_kernel(const Source source, const Grid grid, Mode mode, float threshold, int64_t tiles, float* values, float* areas) {
  using Scratch = float[kWarps];
  MP_SHARED(Scratch, scratch);
  const int64_t mask = blockIdx.x / tiles, plane = source.plane(mask);
  const int64_t begin = blockIdx.x % tiles * kSoftTile, end = min_of(begin + kSoftTile, grid.pixels());
  float area = 0.0f;
  for (int64_t pixel = begin + threadIdx.x; pixel < end; pixel += kThreads) {
    const float weight = weight_of(mode, resized_pixel(source, plane, grid, static_cast<int>(pixel)), threshold);
    values[mask * grid.pixels() + pixel] = weight;
    area += weight;
  }
  area = block_reduce<SumOf>(area, scratch);
  if (threadIdx.x == 0) areas[blockIdx.x] = area;
}

struct MapStatistics {
  float largest, sum, area;
};

// Largest log-sigmoid of a map, the sum of exp(log-sigmoid - largest), and the plain sum of sigmoids; same in all threads.
template <typename Source>
MP_D MapStatistics statistics_of(const Source& source, int64_t plane, Grid grid, float* scratch) {
  float largest = -INFINITY;
  for (int pixel = static_cast<int>(threadIdx.x); pixel < grid.pixels(); pixel += kThreads)
    largest = MaxOf::pair(largest, log_sigmoid(resized_pixel(source, plane, grid, pixel)));
  largest = block_reduce<MaxOf>(largest, scratch);
  float sum = 0.0f, area = 0.0f;
  for (int pixel = static_cast<int>(threadIdx.x); pixel < grid.pixels(); pixel += kThreads) {
    const float r = resized_pixel(source, plane, grid, pixel);
    sum += expf(log_sigmoid(r) - largest);
    area += sigmoid(r);
  }
  sum = block_reduce<SumOf>(sum, scratch);
  area = block_reduce<SumOf>(area, scratch);
  return MapStatistics{largest, sum, area};
}

template <typename Source>
__global__ void __launch_bounds__(kThreads)
statistics_kernel(const Source source, const Grid grid, float* statistics) {
  using Scratch = float[kWarps];
  MP_SHARED(Scratch, scratch);
  const int64_t map = blockIdx.x;
  const MapStatistics found = statistics_of(source, source.plane(map), grid, scratch);
  if (threadIdx.x == 0) {
    statistics[2 * map] = found.largest;
    statistics[2 * map + 1] = found.sum;
  }
}

// One block per row of results: `maps` maps are averaged into it. A thread comes back to the same pixels in every pass.
template <typename Source>
__global__ void __launch_bounds__(kThreads)
map_kernel(const Source source, const Grid grid, int64_t maps, float* values, float* areas) {
  using Scratch = float[kWarps];
  MP_SHARED(Scratch, scratch);
  const int64_t row = blockIdx.x;
  const float share = 1.0f / static_cast<float>(maps);
  for (int64_t k = 0; k < maps; ++k) {
    const int64_t map = row * maps + k, plane = source.plane(map);
    const MapStatistics found = statistics_of(source, plane, grid, scratch);
    if (threadIdx.x == 0) areas[map] = found.area;
    for (int pixel = static_cast<int>(threadIdx.x); pixel < grid.pixels(); pixel += kThreads) {
      const float v = expf(log_sigmoid(resized_pixel(source, plane, grid, pixel)) - found.largest) / found.sum * share;
      float& value = values[row * grid.pixels() + pixel];
      value = k == 0 ? v : value + v;
    }
  }
}

__global__ void __launch_bounds__(kThreads)
average_kernel(const float* values, int64_t rows, int64_t maps, int64_t pixels, float* averages) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= rows * pixels) return;
  const int64_t row = i / pixels, pixel = i % pixels;
  float sum = 0.0f;
  for (int64_t k = 0; k < maps; ++k) sum += values[(row * maps + k) * pixels + pixel];
  averages[i] = sum / static_cast<float>(maps);
}

__global__ void __launch_bounds__(kThreads) count_kernel(const uint32_t* words, int64_t word_count, int* counts) {
  using Scratch = int[kWarps];
  MP_SHARED(Scratch, scratch);
  int count = 0;
  for (int64_t word = threadIdx.x; word < word_count; word += kThreads)
    count += __popc(words[blockIdx.x * word_count + word]);
  count = block_reduce<SumOf>(count, scratch);
  if (threadIdx.x == 0) counts[blockIdx.x] = count;
}

}  // namespace

Weights pack_masks(const Device& device, const Tensor& masks, Grid grid, float threshold) {
  const int64_t batch = masks.size(0), rows = masks.size(1), words = words_of(grid.pixels());
  const int64_t tiles = ceil_div(words, kPackWords);
  Weights result;
  result.is_packed = true;
  result.values = empty_like_device(masks, {batch, rows, words}, ScalarType::Int);
  result.areas = Areas{empty_like_device(masks, {batch * rows, tiles}, ScalarType::Int), tiles, true};
  with_mask_type(masks, [&](auto number) {
    using T = decltype(number);
    device.launch(pack_kernel<MaskSource<T>>, batch * rows * tiles, kThreads, mask_source<T>(masks), grid, threshold, tiles,
                  written<uint32_t>(result.values), written<int>(result.areas.parts));
  });
  return result;
}

Weights soft_weights(const Device& device, const Tensor& masks, Grid grid, const MaskOptions& options) {
  const int64_t batch = masks.size(0), maps = masks.size(1), pixels = grid.pixels();
  const bool is_map = options.mode == Mode::kmap;
  const int64_t averaged = is_map && options.average ? options.maps : 1;
  const int64_t tiles = is_map ? 1 : ceil_div(pixels, kSoftTile);
  Weights result;
  result.values = empty_like_device(masks, {batch, maps / averaged, pixels}, ScalarType::Float);
  result.areas = Areas{empty_like_device(masks, {batch * maps, tiles}, ScalarType::Float), tiles, false};
  float* values = written<float>(result.values);
  float* areas = written<float>(result.areas.parts);
  with_mask_type(masks, [&](auto number) {
    using T = decltype(number);
    if (is_map) {
      device.launch(map_kernel<MaskSource<T>>, batch * maps / averaged, kThreads, mask_source<T>(masks), grid, averaged,
                    values, areas);
    } else {
      device.launch(soft_kernel<MaskSource<T>>, batch * maps * tiles, kThreads, mask_source<T>(masks), grid, options.mode,
                    options.threshold, tiles, values, areas);
    }
  });
  return result;
}

Tensor map_statistics(const Device& device, const Tensor& masks, Grid grid) {
  Tensor statistics = empty_like_device(masks, {masks.size(0), masks.size(1), 2}, ScalarType::Float);
  with_mask_type(masks, [&](auto number) {
    using T = decltype(number);
    device.launch(statistics_kernel<MaskSource<T>>, masks.size(0) * masks.size(1), kThreads, mask_source<T>(masks), grid,
                  written<float>(statistics));
  });
  return statistics;
}

Tensor average_maps(const Device& device, const Tensor& values, int64_t maps) {
  const int64_t rows = values.size(1) / maps, pixels = values.size(2);
  Tensor averages = empty_like_device(values, {values.size(0), rows, pixels}, ScalarType::Float);
  device.launch(average_kernel, ceil_div(averages.numel(), kThreads), kThreads, read<float>(values), values.size(0) * rows,
                maps, pixels, written<float>(averages));
  return averages;
}

Areas count_words(const Device& device, const Tensor& words) {
  const int64_t masks = words.size(0) * words.size(1);
  Areas areas{empty_like_device(words, {masks, 1}, ScalarType::Int), 1, true};
  device.launch(count_kernel, masks, kThreads, read<uint32_t>(words), words.size(2), written<int>(areas.parts));
  return areas;
}

}  // namespace mmseg_plugins::cuda
