// Pooling at mask resolution: the weights of the mask grid are folded onto the feature grid, w = U^T phi(M), where U is
// the bilinear enlargement of the features, which is never made.
//
// Review notes. A block owns one feature row of one mask and up to kThreads of its columns, and sums the mask pixels
// that have them as a tap: first along y, one column of mask pixels per thread, then along x from shared memory. Every
// mask pixel has exactly one lower tap per axis, so "the lower taps are in my row and my columns" counts it once for the
// area. The loop over pieces of kPiece columns has the same bounds in all threads, which therefore meet at its barriers.
#include "stages.h"

namespace mmseg_plugins::cuda {
namespace {

constexpr int kPiece = 2048;  // mask columns in shared memory at a time

struct FoldOptions {
  Mode mode;
  float threshold;
  const float* statistics;  // kmap: of every map, else null
};

MP_D float fold_weight(const FoldOptions& options, int64_t mask, float r) {
  if (options.mode != Mode::kmap) return weight_of(options.mode, r, options.threshold);
  return expf(log_sigmoid(r) - options.statistics[2 * mask]) / options.statistics[2 * mask + 1];
}

template <typename Source, typename Count>
__global__ void __launch_bounds__(kThreads)
fold_kernel(const Source source, const Grid grid, const FoldOptions options, int64_t tiles, float* folded, Count* areas) {
  using Piece = float[kPiece];
  using Scratch = Count[kThreads / 32];
  MP_SHARED(Piece, columns);
  MP_SHARED(Scratch, scratch);
  const int64_t mask = blockIdx.x / tiles / grid.height, plane = source.plane(mask);
  const int row = static_cast<int>(blockIdx.x / tiles % grid.height);
  const int first = static_cast<int>(blockIdx.x % tiles) * kThreads;
  const int past = static_cast<int>(min_of(first + kThreads, grid.width)), own = first + static_cast<int>(threadIdx.x);
  const Range ys = adjoint_range(row, grid.height, source.height);
  const Range xs{adjoint_range(first, grid.width, source.width).begin, adjoint_range(past - 1, grid.width, source.width).end};
  const Range own_xs = own < past ? adjoint_range(own, grid.width, source.width) : Range{0, 0};
  float sum = 0.0f;
  Count area = 0;
  for (int64_t begin = xs.begin; begin < xs.end; begin += kPiece) {
    const int64_t end = min_of(begin + kPiece, xs.end);
    __syncthreads();
    for (int64_t x = begin + threadIdx.x; x < end; x += kThreads) {
      const int low = bilinear_tap(static_cast<int>(x), grid.width, source.width).low;
      const bool counts = low >= first && low < past;
      float column = 0.0f;
      for (int64_t y = ys.begin; y < ys.end; ++y) {
        const Tap tap = bilinear_tap(static_cast<int>(y), grid.height, source.height);
        const float r = source.at(plane, static_cast<int>(y), static_cast<int>(x));
        const float weight = fold_weight(options, mask, r);
        column += adjoint_weight(tap, row) * weight;
        if (counts && tap.low == row) area += static_cast<Count>(options.mode == Mode::kmap ? sigmoid(r) : weight);
      }
      columns[x - begin] = column;
    }
    __syncthreads();
    for (int64_t x = max_of(begin, own_xs.begin); x < min_of(end, own_xs.end); ++x)
      sum += adjoint_weight(bilinear_tap(static_cast<int>(x), grid.width, source.width), own) * columns[x - begin];
  }
  if (own < past) folded[(mask * grid.height + row) * grid.width + own] = sum;
  area = block_reduce<SumOf>(area, scratch);
  if (threadIdx.x == 0) areas[blockIdx.x] = area;
}

template <typename Source>
void launch_fold(const Device& device, const Source& source, int64_t masks, Grid grid, const FoldOptions& options,
                 const Weights& result) {
  const int64_t tiles = ceil_div(grid.width, kThreads), blocks = masks * grid.height * tiles;
  float* folded = written<float>(result.values);
  if (result.areas.is_integer) {
    device.launch(fold_kernel<Source, int>, blocks, kThreads, source, grid, options, tiles, folded,
                  written<int>(result.areas.parts));
  } else {
    device.launch(fold_kernel<Source, float>, blocks, kThreads, source, grid, options, tiles, folded,
                  written<float>(result.areas.parts));
  }
}

Weights empty_fold(const Tensor& like, int64_t batch, int64_t rows, Grid grid, bool is_integer) {
  const int64_t parts = grid.height * ceil_div(grid.width, kThreads);
  Weights result;
  result.values = empty_like_device(like, {batch, rows, grid.pixels()}, ScalarType::Float);
  const ScalarType type = is_integer ? ScalarType::Int : ScalarType::Float;
  result.areas = Areas{empty_like_device(like, {batch * rows, parts}, type), parts, is_integer};
  return result;
}

// ---- run lengths --------------------------------------------------------------------------------------------------

// The runs of a mask. Offsets come from the caller and cannot be checked without waiting for the device: cut to what is there.
MP_HD Range runs_of(const int64_t* offsets, int64_t mask, int64_t runs) {
  const int64_t begin = min_of(max_of(offsets[mask], 0), runs);
  return Range{begin, min_of(max_of(offsets[mask + 1], begin), runs)};
}

// Ends of all runs: ends[i] is the sum of the counts of one mask up to run i. One block per mask, piece by piece.
__global__ void __launch_bounds__(kThreads) run_ends_kernel(const int64_t* counts, const int64_t* offsets, int64_t runs,
                                                          int64_t* ends) {
  using Scan = int64_t[2][kThreads];
  MP_SHARED(Scan, scan);
  const auto [begin, end] = runs_of(offsets, blockIdx.x, runs);
  const int thread = static_cast<int>(threadIdx.x);
  int64_t before = 0;
  for (int64_t piece = begin; piece < end; piece += kThreads) {
    const int64_t run = piece + thread;
    scan[0][thread] = run < end ? counts[run] : 0;
    __syncthreads();
    int side = 0;
    for (int offset = 1; offset < kThreads; offset *= 2, side ^= 1) {
      scan[side ^ 1][thread] = scan[side][thread] + (thread >= offset ? scan[side][thread - offset] : 0);
      __syncthreads();
    }
    if (run < end) ends[run] = before + scan[side][thread];
    before += scan[side][kThreads - 1];
    __syncthreads();
  }
}

// Whether the pixel at column-major `position` lies in a run of ones. Runs 0, 2, .. are zeros; past the last run is zero.
MP_HD bool inside_run(const int64_t* ends, Range runs, int64_t position) {
  int64_t low = runs.begin, high = runs.end;  // the first run that ends behind the position
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (ends[middle] > position) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return low < runs.end && ((low - runs.begin) & 1) != 0;
}

__global__ void __launch_bounds__(kThreads)
decode_kernel(const int64_t* ends, const int64_t* offsets, int64_t runs, int64_t height, int64_t width, int64_t bytes,
              uint8_t* bits) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x, row_bytes = ceil_div(width, 8);
  if (i >= bytes) return;
  const int64_t row = i / row_bytes, x0 = i % row_bytes * 8, mask = row / height, y = row % height;
  const Range own = runs_of(offsets, mask, runs);
  unsigned byte = 0;
  for (int64_t x = x0; x < min_of(x0 + 8, width); ++x) byte |= unsigned(inside_run(ends, own, x * height + y)) << (x - x0);
  bits[i] = static_cast<uint8_t>(byte);
}

}  // namespace

Weights fold_masks(const Device& device, const Tensor& masks, Grid grid, Mode mode, float threshold) {
  const int64_t count = masks.size(0) * masks.size(1);
  Weights result = empty_fold(masks, masks.size(0), masks.size(1), grid, mode == Mode::hard);
  FoldOptions options{mode, threshold, nullptr};
  const Grid mask_grid{static_cast<int>(masks.size(2)), static_cast<int>(masks.size(3))};
  std::optional<Tensor> statistics;
  if (mode == Mode::kmap) {
    statistics = map_statistics(device, masks, mask_grid);
    options.statistics = read<float>(*statistics);
  }
  with_mask_type(masks, [&](auto number) {
    launch_fold(device, mask_source<decltype(number)>(masks), count, grid, options, result);
  });
  return result;
}

Weights fold_bits(const Device& device, const Tensor& bits, int64_t width, Grid grid) {
  const Tensor dense = bits.is_contiguous() ? bits : torch::stable::contiguous(bits);
  const BitSource source{read<uint8_t>(dense), dense.size(3), static_cast<int>(dense.size(2)), static_cast<int>(width)};
  Weights result = empty_fold(bits, dense.size(0), dense.size(1), grid, true);
  launch_fold(device, source, dense.size(0) * dense.size(1), grid, FoldOptions{Mode::hard, 0.5f, nullptr}, result);
  return result;
}

Tensor decode_runs(const Device& device, const Tensor& counts, const Tensor& offsets, int64_t height, int64_t width) {
  const Tensor runs = counts.is_contiguous() ? counts : torch::stable::contiguous(counts);
  const Tensor starts = offsets.is_contiguous() ? offsets : torch::stable::contiguous(offsets);
  const int64_t masks = starts.size(0) - 1;
  Tensor ends = empty_like_device(runs, {runs.size(0)}, ScalarType::Long);
  Tensor bits = empty_like_device(runs, {masks, height, ceil_div(width, 8)}, ScalarType::Byte);
  device.launch(run_ends_kernel, masks, kThreads, read<int64_t>(runs), read<int64_t>(starts), runs.size(0),
                written<int64_t>(ends));
  device.launch(decode_kernel, ceil_div(bits.numel(), kThreads), kThreads, read<int64_t>(ends), read<int64_t>(starts),
                runs.size(0), height, width, bits.numel(), written<uint8_t>(bits));
  return bits;
}

}  // namespace mmseg_plugins::cuda
