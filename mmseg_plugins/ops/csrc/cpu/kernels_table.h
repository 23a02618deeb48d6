// Included by every kernels_<set>.cpp, before anything is compiled for a special instruction set.

#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "kernels.h"

#if defined(__x86_64__) && defined(__GNUC__)
#define MP_X86 1
#if defined(__clang__)
#define MP_BEGIN_TARGET_AVX512                                                                               \
  _Pragma("clang attribute push(__attribute__((target(\"avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,popcnt\"))), " \
          "apply_to = function)")
#define MP_BEGIN_TARGET_AVX2 \
  _Pragma("clang attribute push(__attribute__((target(\"avx2,fma,popcnt\"))), apply_to = function)")
#define MP_END_TARGET _Pragma("clang attribute pop")
#else
#define MP_BEGIN_TARGET_AVX512 \
  _Pragma("GCC push_options") _Pragma("GCC target(\"avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,popcnt\")")
#define MP_BEGIN_TARGET_AVX2 _Pragma("GCC push_options") _Pragma("GCC target(\"avx2,fma,popcnt\")")
#define MP_END_TARGET _Pragma("GCC pop_options")
#endif
#endif

// In the order of struct Kernels.
#define MP_KERNEL_TABLE                                                                                         \
  {MP_SET_NAME, MP_SET_FUSED,  pack_greater, hard,         gate,   sigmoid,    sum,     kmap,                    \
   add_scaled,  mix,           spread,       spread_bytes, load_tile, build_tables, lookup, store_tile, scatter, \
   sigmoid_gradient, dot,      kmap_gradient, upsample_argmax, upsample_workspace, argmax_scores}
