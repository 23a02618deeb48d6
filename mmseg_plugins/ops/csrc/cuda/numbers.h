// Number types inside kernels: what is stored, what a tensor core takes, and how a float32 is split into bfloat16 terms.
#pragma once

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <cmath>
#include <cstdint>
#include <cstring>

#include "platform.h"

namespace mmseg_plugins::cuda {

using BFloat16 = torch::headeronly::BFloat16;
using Half = torch::headeronly::Half;

// Types a kernel can store to; chosen at run time in an epilogue, where a branch costs nothing.
enum class Store : int { float32, bfloat16, float16 };

MP_D void store_number(void* data, Store type, int64_t index, float value) {
  if (type == Store::float32) {
    static_cast<float*>(data)[index] = value;
  } else if (type == Store::bfloat16) {
    static_cast<BFloat16*>(data)[index] = BFloat16(value);
  } else {
    static_cast<Half*>(data)[index] = Half(value);
  }
}

MP_HD uint32_t bits_of_float(float value) {
#ifdef __CUDA_ARCH__
  return __float_as_uint(value);
#else
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
#endif
}

MP_HD float float_of_bits(uint32_t bits) {
#ifdef __CUDA_ARCH__
  return __uint_as_float(bits);
#else
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
#endif
}

// Splits `value` into bfloat16 terms, large to small, by cutting: 24 significant bits are 8 + 8 + 8, so three terms are
// exact (a remainder below the smallest subnormal aside) and none overflows. Two terms are good to 2^-15.
template <int count>
MP_HD void split_terms(float value, uint16_t (&terms)[count]) {
  for (int i = 0; i < count; ++i) {
    const uint32_t cut = bits_of_float(value) & 0xFFFF0000u;
    terms[i] = static_cast<uint16_t>(cut >> 16);
    value -= float_of_bits(cut);
  }
}

// A number is fetched from memory in its own type and becomes `count` 16-bit terms when it goes to shared memory.
template <int count>
MP_HD void terms_of(float value, uint16_t (&terms)[count]) {
  split_terms(value, terms);
}
template <int count>
MP_HD void terms_of(Half value, uint16_t (&terms)[count]) {
  split_terms(static_cast<float>(value), terms);  // 11 significant bits: two terms are exact
}
template <int count>
MP_HD void terms_of(BFloat16 value, uint16_t (&terms)[count]) {
  terms[0] = value.x;
  for (int i = 1; i < count; ++i) terms[i] = 0;
}

constexpr uint16_t kOneBFloat16 = 0x3F80;
constexpr uint16_t kOneHalf = 0x3C00;

MP_D float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// Not with fminf, which would drop a NaN.
MP_D float log_sigmoid(float x) { return (x < 0.0f ? x : 0.0f) - log1pf(expf(-fabsf(x))); }

}  // namespace mmseg_plugins::cuda
