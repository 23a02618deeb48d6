// Label maps from low-resolution logits: enlarge and take the best class, band by band, in registers.

#include <algorithm>
#include <cmath>

#include "ops.h"

namespace mmseg_plugins::cpu {

// Taps of one axis as torch's interpolate computes them, in float32 and fused where its kernels are. `first_in` rows of
// the source are missing in front, and the result begins at output `first_out`.
static Taps torch_taps(int64_t full_in, int64_t first_in, int64_t full_out, int64_t first_out, int64_t count) {
  Taps taps;
  const float scale = static_cast<float>(full_in) / static_cast<float>(full_out);
  for (int64_t i = first_out; i < first_out + count; ++i) {
    const float centre = static_cast<float>(i) + 0.5f;
    float source = kernels().fused ? std::fma(scale, centre, -0.5f) : scale * centre - 0.5f;
    source = std::max(source, 0.0f);
    const int64_t low = std::min(static_cast<int64_t>(source), full_in - 1);
    taps.i0.push_back(static_cast<int32_t>(low - first_in));
    taps.i1.push_back(static_cast<int32_t>(std::min(low + 1, full_in - 1) - first_in));
    taps.lam.push_back(std::min(std::max(source - static_cast<float>(low), 0.0f), 1.0f));
  }
  return taps;
}

// Row taps of a band (see _schema.py). Whoever chose the rows may have rounded the last bit of a source index
// differently; the row that is missing then weighs about nothing, and its neighbour stands in.
static Taps band_taps(const Sizes& band, int64_t h, int64_t height) {
  STD_TORCH_CHECK(band.empty() || band.size() == 4, "band must be empty or [full_h, first_h, full_H, first_H]");
  Taps taps = band.empty() ? torch_taps(h, 0, height, 0, height) : torch_taps(band[0], band[1], band[2], band[3], height);
  const int32_t last = static_cast<int32_t>(h) - 1;
  for (size_t y = 0; y < taps.i0.size(); ++y) {
    STD_TORCH_CHECK(taps.i0[y] >= -1 && taps.i1[y] <= last + 1, "the band needs rows that were not passed");
    taps.i0[y] = std::clamp(taps.i0[y], 0, last);
    taps.i1[y] = std::clamp(taps.i1[y], 0, last);
  }
  return taps;
}

struct LabelMaps {
  Tensor labels, score, margin, probability;
  LabelMaps(const Tensor& like, int64_t batch, const Sizes& size, bool want_score, bool want_margin, bool want_probability)
      : labels(torch::stable::new_empty(like, std::vector<int64_t>{batch, size[0], size[1]}, ScalarType::Long)),
        score(make(like, batch, size, want_score)),
        margin(make(like, batch, size, want_margin)),
        probability(make(like, batch, size, want_probability)) {}
  static Tensor make(const Tensor& like, int64_t batch, const Sizes& size, bool wanted) {
    return wanted ? empty_floats(like, {batch, size[0], size[1]}) : empty_floats(like, {0});
  }
  // Where image b of a map begins; null if the map is not wanted.
  static float* image(const Tensor& map, int64_t b, int64_t pixels) {
    return map.dim() == 1 ? nullptr : map.mutable_data_ptr<float>() + b * pixels;
  }
};

// Runs of equal values in a non-decreasing row_class.
static void class_runs(const Tensor& row_class, std::vector<int32_t>& start, std::vector<int64_t>& label) {
  const Tensor wide = torch::stable::contiguous(as_dtype(row_class, ScalarType::Long));
  const int64_t* data = wide.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < wide.numel(); ++i) {
    if (i == 0 || data[i] != data[i - 1]) {
      STD_TORCH_CHECK(i == 0 || data[i] > data[i - 1], "row_class must not decrease");
      start.push_back(static_cast<int32_t>(i));
      label.push_back(data[i]);
    }
  }
  start.push_back(static_cast<int32_t>(wide.numel()));
}

// Output rows that lie between the same two lines, at most this many together: work for all threads.
constexpr int64_t kRowsPerTask = 32;

static std::vector<std::pair<int64_t, int64_t>> row_groups(const Taps& rows) {
  std::vector<std::pair<int64_t, int64_t>> groups;
  const int64_t height = static_cast<int64_t>(rows.i0.size());
  for (int64_t y = 0; y < height;) {
    int64_t end = y + 1;
    while (end < height && rows.i0[end] == rows.i0[y] && rows.i1[end] == rows.i1[y] && end - y < kRowsPerTask) ++end;
    groups.emplace_back(y, end);
    y = end;
  }
  return groups;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> upsample_argmax(Tensor logits, Sizes size, Sizes band,
                                                           std::optional<Tensor> row_class, double logit_scale,
                                                           bool softmax_rows, bool want_score, bool want_margin,
                                                           bool want_probability) {
  if (is_double(logits)) {
    auto r = call_eager("upsample_argmax", 4, logits, size, band, row_class, logit_scale, softmax_rows, want_score,
                        want_margin, want_probability);
    return {r[0], r[1], r[2], r[3]};
  }
  Tensor source = as_float(logits);
  if (source.stride(3) != 1) source = torch::stable::contiguous(source);
  const int64_t batch = source.size(0), n = source.size(1), pixels = size[0] * size[1];
  STD_TORCH_CHECK(n > 0 && source.size(2) > 0 && source.size(3) > 0, "logits must have rows and pixels");
  const Taps rows = band_taps(band, source.size(2), size[0]);
  const Taps columns = torch_taps(source.size(3), 0, size[1], 0, size[1]);
  std::vector<int32_t> class_start;
  std::vector<int64_t> class_label;
  if (row_class.has_value()) class_runs(*row_class, class_start, class_label);
  std::vector<float> upper(rows.lam.size());
  for (size_t y = 0; y < upper.size(); ++y) upper[y] = 1.0f - rows.lam[y];
  LabelMaps maps(source, batch, size, want_score, want_margin, want_probability);
  const auto groups = row_groups(rows);
  const int64_t tasks = batch * static_cast<int64_t>(groups.size());
  parallel_items(tasks, 8 * n * size[1], [&](int64_t task) {
    const int64_t b = task / static_cast<int64_t>(groups.size());
    const auto [begin, end] = groups[task % groups.size()];
    UpsampleJob job{};
    job.logits = source.const_data_ptr<float>() + b * source.stride(0);
    job.row_stride = source.stride(1);
    job.line_stride = source.stride(2);
    job.rows = n;
    job.width_in = source.size(3);
    job.width = size[1];
    job.x0 = columns.i0.data();
    job.x1 = columns.i1.data();
    job.lam_x = columns.lam.data();
    job.class_start = class_start.empty() ? nullptr : class_start.data();
    job.class_label = class_label.empty() ? nullptr : class_label.data();
    job.classes = class_label.empty() ? n : static_cast<int64_t>(class_label.size());
    job.logit_scale = static_cast<float>(logit_scale);
    job.softmax_rows = softmax_rows;
    job.labels = maps.labels.mutable_data_ptr<int64_t>() + b * pixels;
    job.score = LabelMaps::image(maps.score, b, pixels);
    job.margin = LabelMaps::image(maps.margin, b, pixels);
    job.probability = LabelMaps::image(maps.probability, b, pixels);
    Floats workspace(kernels().upsample_workspace(n));
    kernels().upsample_argmax(job, rows.i0[begin], rows.i1[begin], begin, end, upper.data(), rows.lam.data(),
                              workspace.data());
  });
  return {maps.labels, maps.score, maps.margin, maps.probability};
}

// ---- mask classification --------------------------------------------------------------------------------------------

// Class scores exist for about this many pixels at a time.
constexpr int64_t kPixelsPerBand = 8192;

// sigmoid of the resized mask logits of image b, output rows [begin, end): (Q, rows * W).
static Tensor mask_probabilities(const Tensor& logits, int64_t b, const Taps& rows, const Taps& columns, int64_t begin,
                                 int64_t end) {
  const int64_t queries = logits.size(1), width = static_cast<int64_t>(columns.i0.size()), count = (end - begin) * width;
  Tensor result = empty_floats(logits, {queries, count});
  float* out = result.mutable_data_ptr<float>();
  const float* data = logits.const_data_ptr<float>() + b * logits.stride(0);
  parallel_items(queries, 16 * count, [&](int64_t q) {
    std::vector<float> taps(4 * width);
    float *a = taps.data(), *c = a + 2 * width;
    const float* mask = data + q * logits.stride(1);
    for (int64_t y = begin; y < end; ++y) {
      const float *upper = mask + rows.i0[y] * logits.stride(2), *lower = mask + rows.i1[y] * logits.stride(2);
      for (int64_t x = 0; x < width; ++x) {
        a[x] = upper[columns.i0[x]];
        a[width + x] = upper[columns.i1[x]];
        c[x] = lower[columns.i0[x]];
        c[width + x] = lower[columns.i1[x]];
      }
      float* target = out + q * count + (y - begin) * width;
      kernels().mix(a, a + width, c, c + width, columns.lam.data(), rows.lam[y], width, target);
      kernels().sigmoid(target, width, target);
    }
  });
  return result;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> mask_argmax(Tensor weights, Tensor mask_logits, Sizes size, Sizes band,
                                                       double logit_scale, bool want_score, bool want_margin,
                                                       bool want_probability) {
  if (is_double(mask_logits) || is_double(weights)) {
    auto r = call_eager("mask_argmax", 4, weights, mask_logits, size, band, logit_scale, want_score, want_margin,
                        want_probability);
    return {r[0], r[1], r[2], r[3]};
  }
  const Tensor logits = torch::stable::contiguous(as_float(mask_logits));
  const Tensor by_class = torch::stable::transpose(torch::stable::contiguous(as_float(weights)), 1, 2);  // (B, K, Q)
  const int64_t batch = logits.size(0), classes = weights.size(2), height = size[0], width = size[1];
  STD_TORCH_CHECK(classes > 0 && logits.size(2) > 0 && logits.size(3) > 0, "there must be classes and pixels");
  const Taps rows = band_taps(band, logits.size(2), height);
  const Taps columns = torch_taps(logits.size(3), 0, width, 0, width);
  LabelMaps maps(logits, batch, size, want_score, want_margin, want_probability);
  const int64_t step = std::max<int64_t>(1, kPixelsPerBand / std::max<int64_t>(1, width));
  for (int64_t b = 0; b < batch; ++b) {
    Tensor image_weights = by_class;
    image_weights = torch::stable::select(image_weights, 0, b);
    for (int64_t y = 0; y < height; y += step) {
      const int64_t end = std::min(y + step, height), count = (end - y) * width, offset = y * width;
      const Tensor probabilities = mask_probabilities(logits, b, rows, columns, y, end);
      const Tensor scores = torch::stable::contiguous(torch::stable::matmul(image_weights, probabilities));
      const auto at = [&](const Tensor& map) {
        float* image = LabelMaps::image(map, b, height * width);
        return image ? image + offset : nullptr;
      };
      const ScoresJob job{scores.const_data_ptr<float>(), count, classes, static_cast<float>(logit_scale),
                          maps.labels.mutable_data_ptr<int64_t>() + b * height * width + offset, at(maps.score),
                          at(maps.margin), at(maps.probability)};
      const int64_t tile = 1024, tiles = ceil_div(count, tile);
      parallel_items(tiles, 4 * classes * tile, [&](int64_t i) {
        kernels().argmax_scores(job, i * tile, std::min((i + 1) * tile, count));
      });
    }
  }
  return {maps.labels, maps.score, maps.margin, maps.probability};
}

}  // namespace mmseg_plugins::cpu
