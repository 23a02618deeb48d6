// What the C++ sources share: the stable-ABI headers, checks, attribute codes and resize taps.
//
// Only PyTorch's stable ABI is used (target 2.10), so one binary serves every later torch. Schemas, gradients, fake
// kernels and vmap rules live in Python; ../_schema.py is the agreement on formulas, layouts and letters.

#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/Half.h>

#include <array>
#include <cstdint>
#include <optional>
#include <tuple>
#include <vector>

namespace mmseg_plugins {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Codes of _schema.py.
enum Mode : int64_t { kHard = 0, kSigmoid = 1, kProb = 2, kGated = 3, kKmap = 4 };
enum Reduce : int64_t { kMean = 0, kNone = 1 };

// STABLE_TORCH_ERROR_CODE_CHECK of our own: the macro is missing from some headers that we build against.
#define MP_CHECK_STATUS(call) STD_TORCH_CHECK((call) == 0, "call into torch failed: " #call)

// The source of each output index of one axis: (1 - lam) * x[i0] + lam * x[i1].
struct Taps {
  std::vector<int32_t> i0, i1;
  std::vector<float> lam;
};

// Bilinear taps with half-pixel centres. The fraction is exact: integers, then one division.
inline Taps exact_taps(int64_t n_in, int64_t n_out) {
  Taps taps;
  taps.i0.resize(n_out);
  taps.i1.resize(n_out);
  taps.lam.resize(n_out);
  for (int64_t i = 0; i < n_out; ++i) {
    int64_t u = (2 * i + 1) * n_in - n_out;
    if (u < 0) u = 0;
    const int64_t first = u / (2 * n_out);
    taps.i0[i] = static_cast<int32_t>(first);
    taps.i1[i] = static_cast<int32_t>(first + 1 < n_in ? first + 1 : n_in - 1);
    taps.lam[i] = static_cast<float>(static_cast<double>(u % (2 * n_out)) / static_cast<double>(2 * n_out));
  }
  return taps;
}

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace mmseg_plugins
