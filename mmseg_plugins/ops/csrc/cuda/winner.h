// The running best of class scores at one pixel, and where the results of a label map go. Shared by the two argmax kernels.
#pragma once

#include "host.h"

namespace mmseg_plugins::cuda {

struct Winner {
  float best, second;    // best score, and the best score of any other class
  float largest, sum;    // log-sum-exp of the scaled scores: largest + log(sum)
  int64_t label;         // -1: no class yet

  MP_HD static Winner none() { return Winner{-INFINITY, -INFINITY, -INFINITY, 0.0f, -1}; }

  // Takes the score of another class. Classes come in increasing order, so an equal score does not win.
  MP_HD void add(float score, int64_t its_label) {
    if (label < 0 || score > best) {
      second = label < 0 ? second : best;
      best = score;
      label = its_label;
    } else if (score > second) {
      second = score;
    }
  }

  MP_HD void add_exponential(float scaled) {
    if (scaled > largest) {
      sum = sum * expf(largest - scaled) + 1.0f;  // exp(-inf) = 0 the first time
      largest = scaled;
    } else {
      sum += expf(scaled - largest);
    }
  }

  // Joins the winner over other classes, in any order of the classes.
  MP_HD void merge(const Winner& other) {
    if (other.label < 0) return;
    const float peak = other.largest > largest ? other.largest : largest;
    sum = sum * expf(largest - peak) + other.sum * expf(other.largest - peak);
    largest = peak;
    if (label < 0 || other.best > best || (other.best == best && other.label < label)) {
      second = label >= 0 && best > other.second ? best : other.second;
      best = other.best;
      label = other.label;
    } else if (other.best > second) {
      second = other.best;
    }
  }
};

// Null where a result is not wanted.
struct WinnerOutput {
  int64_t* labels;
  float *score, *margin, *probability;
  float logit_scale;

  MP_HD void write(int64_t i, const Winner& winner) const {
    labels[i] = winner.label;
    if (score) score[i] = winner.best;
    if (margin) margin[i] = winner.best - winner.second;
    if (probability) probability[i] = expf(winner.best * logit_scale - winner.largest) / winner.sum;
  }
};

// The map that is enlarged, of which `height` rows from `first_in` on are there, and the rows that are wanted of the result.
struct Enlargement {
  int full_in, first_in, full_out, first_out;  // rows
  int height, width, out_height, out_width;

  // Taps of row `y` of the wanted rows. Clamped: the last bit of a source index may differ between this device and the one
  // that chose the rows, and then the row that is missing has a weight of about 0.
  MP_HD Tap rows(int y) const {
    Tap tap = torch_tap(first_out + y, full_in, full_out, first_in);
    tap.low = static_cast<int>(max_of(0, min_of(tap.low, height - 1)));
    tap.high = static_cast<int>(max_of(0, min_of(tap.high, height - 1)));
    return tap;
  }
  MP_HD Tap columns(int x) const { return torch_tap(x, width, out_width, 0); }
};

inline Enlargement checked_enlargement(const Tensor& maps, const std::vector<int64_t>& size, const std::vector<int64_t>& band) {
  STD_TORCH_CHECK(maps.dim() == 4, "logits must be (B, N, h, w), got ", maps.dim(), " dimensions");
  STD_TORCH_CHECK(size.size() == 2 && (band.empty() || band.size() == 4), "size must be (H, W), and band empty or 4 numbers");
  const int64_t height = maps.size(2), width = maps.size(3);
  checked_grid(size[0], size[1], size[0], size[1]);
  checked_grid(height, width, height, width);
  const std::vector<int64_t> rows = band.empty() ? std::vector<int64_t>{height, 0, size[0], 0} : band;
  STD_TORCH_CHECK(rows[0] > 0 && rows[1] >= 0 && rows[1] + height <= rows[0] && rows[3] >= 0 && rows[3] + size[0] <= rows[2],
                  "band must lie inside the map");
  checked_grid(rows[2], size[1], rows[0], width);
  return Enlargement{static_cast<int>(rows[0]), static_cast<int>(rows[1]), static_cast<int>(rows[2]), static_cast<int>(rows[3]),
                     static_cast<int>(height),  static_cast<int>(width),   static_cast<int>(size[0]), static_cast<int>(size[1])};
}

struct WinnerTensors {
  Tensor labels, score, margin, probability;

  WinnerOutput output(float logit_scale) const {
    const auto wanted = [](const Tensor& tensor) { return tensor.numel() > 0 ? written<float>(tensor) : nullptr; };
    return WinnerOutput{written<int64_t>(labels), wanted(score), wanted(margin), wanted(probability), logit_scale};
  }
  std::tuple<Tensor, Tensor, Tensor, Tensor> all() const { return {labels, score, margin, probability}; }
};

inline WinnerTensors empty_winners(const Tensor& maps, const Enlargement& to, bool want_score, bool want_margin,
                                   bool want_probability) {
  const auto floats = [&](bool wanted) {
    return wanted ? empty_like_device(maps, {maps.size(0), to.out_height, to.out_width}, ScalarType::Float)
                  : empty_like_device(maps, {0}, ScalarType::Float);
  };
  return WinnerTensors{empty_like_device(maps, {maps.size(0), to.out_height, to.out_width}, ScalarType::Long),
                       floats(want_score), floats(want_margin), floats(want_probability)};
}

}  // namespace mmseg_plugins::cuda
