// Label map of mask classification: scores s_k(x) = sum_q weights[q, k] * sigmoid(R(masks)[q, x]) and their best class,
// without a tensor of the size K x H x W or Q x H x W.
//
// A block takes 32 pixels, one per lane. The sigmoids of up to kQueries masks at these pixels stand in shared memory; the
// classes go by in chunks of 64, eight to a warp, so a thread keeps eight sums. At the end the warps' winners are merged.
//
// Review notes. All loops that hold a barrier have bounds that are the same in every thread. `sigmoids` and `weights` are
// overwritten only behind a barrier that follows their last use. Sums run over q in order, so results repeat bit by bit.
#include "winner.h"

namespace mmseg_plugins::cuda {
namespace {

constexpr int kPixels = 32, kWarps = kThreads / 32;
constexpr int kQueries = 256;    // masks whose sigmoids are in shared memory
constexpr int kQuerySteps = 32;  // masks whose weights are
constexpr int kClasses = 64, kPerWarp = kClasses / kWarps;

struct MaskScores {
  const float* weights;  // contiguous (B, Q, K)
  int64_t queries, classes;
};

template <typename T>
MP_D float enlarged(const MaskSource<T>& masks, int64_t plane, Tap y, Tap x) {
  const float left = 1.0f - x.lambda, top = 1.0f - y.lambda;
  return top * (left * masks.at(plane, y.low, x.low) + x.lambda * masks.at(plane, y.low, x.high)) +
         y.lambda * (left * masks.at(plane, y.high, x.low) + x.lambda * masks.at(plane, y.high, x.high));
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
mask_argmax_kernel(const MaskSource<T> masks, const MaskScores scores, const Enlargement to, int64_t blocks_per_image,
                   const WinnerOutput out) {
  using Sigmoids = float[kQueries][kPixels];
  using Weights = float[kQuerySteps][kClasses];
  using Winners = Winner[kWarps][kPixels];
  union Memory {
    Weights weights;
    Winners winners;
  };
  MP_SHARED(Sigmoids, sigmoids);
  MP_SHARED(Memory, memory);
  const int64_t b = blockIdx.x / blocks_per_image, pixels = int64_t(to.out_height) * to.out_width;
  const int lane = static_cast<int>(threadIdx.x & 31u), warp = static_cast<int>(threadIdx.x >> 5);
  const int64_t pixel = blockIdx.x % blocks_per_image * kPixels + lane, seen = min_of(pixel, pixels - 1);
  const Tap y = to.rows(static_cast<int>(seen / to.out_width)), x = to.columns(static_cast<int>(seen % to.out_width));
  Winner winner = Winner::none();
  for (int64_t class0 = 0; class0 < scores.classes; class0 += kClasses) {
    float sums[kPerWarp] = {};
    for (int64_t query0 = 0; query0 < scores.queries; query0 += kQueries) {
      const int queries = static_cast<int>(min_of(kQueries, scores.queries - query0));
      if (class0 == 0 || scores.queries > kQueries) {  // else they are still there
        __syncthreads();
        for (int q = warp; q < queries; q += kWarps)
          sigmoids[q][lane] = sigmoid(enlarged(masks, masks.plane(b * scores.queries + query0 + q), y, x));
      }
      for (int step = 0; step < queries; step += kQuerySteps) {
        __syncthreads();
        for (int i = static_cast<int>(threadIdx.x); i < kQuerySteps * kClasses; i += kThreads) {
          const int q = step + i / kClasses;
          const int64_t k = class0 + i % kClasses;
          const bool inside = q < queries && k < scores.classes;
          memory.weights[i / kClasses][i % kClasses] =
              inside ? scores.weights[(b * scores.queries + query0 + q) * scores.classes + k] : 0.0f;
        }
        __syncthreads();
        const int count = static_cast<int>(min_of(kQuerySteps, queries - step));
        for (int q = 0; q < count; ++q) {
          const float s = sigmoids[step + q][lane];
#pragma unroll
          for (int j = 0; j < kPerWarp; ++j) sums[j] += memory.weights[q][warp * kPerWarp + j] * s;
        }
      }
    }
#pragma unroll
    for (int j = 0; j < kPerWarp; ++j) {
      const int64_t k = class0 + warp * kPerWarp + j;
      if (k >= scores.classes) continue;
      winner.add(sums[j], k);
      if (out.probability) winner.add_exponential(sums[j] * out.logit_scale);
    }
  }
  __syncthreads();
  memory.winners[warp][lane] = winner;
  __syncthreads();
  if (warp != 0 || pixel >= pixels) return;
  for (int other = 1; other < kWarps; ++other) winner.merge(memory.winners[other][lane]);
  out.write(b * pixels + pixel, winner);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> mask_argmax(const Tensor& weights, const Tensor& mask_logits,
                                                       const std::vector<int64_t>& size, const std::vector<int64_t>& band,
                                                       double logit_scale, bool want_score, bool want_margin,
                                                       bool want_probability) {
  const Enlargement to = checked_enlargement(mask_logits, size, band);
  STD_TORCH_CHECK(weights.dim() == 3 && weights.size(0) == mask_logits.size(0) && weights.size(1) == mask_logits.size(1) &&
                      weights.size(2) > 0,
                  "weights must be (B, Q, K) with B and Q of the mask logits and at least one class");
  const Device device(mask_logits);
  const WinnerTensors result = empty_winners(mask_logits, to, want_score, want_margin, want_probability);
  const Tensor dense = as_float32(weights);
  const MaskScores scores{read<float>(dense), weights.size(1), weights.size(2)};
  const int64_t blocks = ceil_div(int64_t(to.out_height) * to.out_width, kPixels);
  with_float_type(mask_logits, "mask logits", [&](auto number) {
    using T = decltype(number);
    device.launch(mask_argmax_kernel<T>, mask_logits.size(0) * blocks, kThreads, mask_source<T>(mask_logits), scores, to, blocks,
                  result.output(static_cast<float>(logit_scale)));
  });
  return result.all();
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mmseg_plugins, MP_DISPATCH_KEY, m) { m.impl("mask_argmax", TORCH_BOX(&mask_argmax)); }

}  // namespace mmseg_plugins::cuda
