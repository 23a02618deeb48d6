// Bilinear enlargement of logits and the best class per pixel, in one pass and without the enlarged logits.
//
// The enlarged value is computed as torch's kernel for interpolate does, in the same order of operations and rounded to the
// type of the logits, since two classes that tie there must tie here.
//
// Review notes. One thread per pixel, no shared memory and no barrier; a thread reads four taps of every row and keeps its
// state in registers. Neighbouring pixels read the same taps, which the first-level cache serves.
#include "winner.h"

namespace mmseg_plugins::cuda {
namespace {

template <typename T>
struct LogitSource {
  const T* data;
  int64_t rows, batch_stride, row_stride, y_stride, x_stride;
};

template <typename T>
__global__ void __launch_bounds__(kThreads)
upsample_argmax_kernel(const LogitSource<T> logits, const Enlargement to, const int64_t* row_class, bool softmax_rows,
                       int64_t count, const WinnerOutput out) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= count) return;
  const int64_t pixels = int64_t(to.out_height) * to.out_width, b = i / pixels;
  const Tap y = to.rows(static_cast<int>(i % pixels / to.out_width)), x = to.columns(static_cast<int>(i % pixels % to.out_width));
  const T* base = logits.data + b * logits.batch_stride;
  const int64_t top_left = y.low * logits.y_stride + x.low * logits.x_stride, top_right = y.low * logits.y_stride + x.high * logits.x_stride;
  const int64_t bottom_left = y.high * logits.y_stride + x.low * logits.x_stride, bottom_right = y.high * logits.y_stride + x.high * logits.x_stride;
  const bool sum_rows = out.probability && softmax_rows, sum_classes = out.probability && !softmax_rows;
  const float left = 1.0f - x.lambda, top = 1.0f - y.lambda;
  Winner winner = Winner::none();
  float score = 0.0f;
  int64_t current = -1;  // class of `score`, whose rows may go on
  for (int64_t row = 0; row < logits.rows; ++row) {
    const T* at = base + row * logits.row_stride;
    const float value = top * (left * static_cast<float>(at[top_left]) + x.lambda * static_cast<float>(at[top_right])) +
                        y.lambda * (left * static_cast<float>(at[bottom_left]) + x.lambda * static_cast<float>(at[bottom_right]));
    const float rounded = static_cast<float>(static_cast<T>(value));
    const int64_t its_class = row_class ? row_class[row] : row;
    if (sum_rows) winner.add_exponential(rounded * out.logit_scale);
    if (its_class == current) {
      score = rounded > score ? rounded : score;
      continue;
    }
    if (current >= 0) {
      winner.add(score, current);
      if (sum_classes) winner.add_exponential(score * out.logit_scale);
    }
    current = its_class;
    score = rounded;
  }
  winner.add(score, current);
  if (sum_classes) winner.add_exponential(score * out.logit_scale);
  out.write(i, winner);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> upsample_argmax(const Tensor& logits, const std::vector<int64_t>& size,
                                                           const std::vector<int64_t>& band, std::optional<Tensor> row_class,
                                                           double logit_scale, bool softmax_rows, bool want_score,
                                                           bool want_margin, bool want_probability) {
  const Enlargement to = checked_enlargement(logits, size, band);
  STD_TORCH_CHECK(logits.size(1) > 0, "logits must have at least one row");
  const Device device(logits);
  const WinnerTensors result = empty_winners(logits, to, want_score, want_margin, want_probability);
  Tensor classes;
  if (row_class.has_value()) {
    STD_TORCH_CHECK(row_class->scalar_type() == ScalarType::Long && row_class->dim() == 1 && row_class->size(0) == logits.size(1),
                    "row_class must be int64 (N,) with N = ", logits.size(1));
    classes = row_class->is_contiguous() ? *row_class : torch::stable::contiguous(*row_class);
  }
  const int64_t count = result.labels.numel();
  with_float_type(logits, "logits", [&](auto number) {
    using T = decltype(number);
    const LogitSource<T> source{read<T>(logits), logits.size(1), logits.stride(0), logits.stride(1), logits.stride(2), logits.stride(3)};
    device.launch(upsample_argmax_kernel<T>, ceil_div(count, kThreads), kThreads, source, to,
                  row_class.has_value() ? read<int64_t>(classes) : nullptr, softmax_rows, count,
                  result.output(static_cast<float>(logit_scale)));
  });
  return result.all();
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mmseg_plugins, MP_DISPATCH_KEY, m) { m.impl("upsample_argmax", TORCH_BOX(&upsample_argmax)); }

}  // namespace mmseg_plugins::cuda
