// What a kernel file needs from CUDA, or from the emulator of the tests (tests/ops/emulation) when it is built as C++.
#pragma once

#include <cstdint>

#ifdef MMSEG_PLUGINS_EMULATION

#include "cuda_emulation.h"

#define MP_HD inline
#define MP_D inline
#define MP_SHARED(type, name) type& name = ::emulation::shared<type, __LINE__>()

#else

#include <cuda_runtime.h>

#define MP_HD __host__ __device__ __forceinline__
#define MP_D __device__ __forceinline__
#define MP_SHARED(type, name) __shared__ type name

#endif

namespace mmseg_plugins::cuda {

constexpr unsigned kFullWarp = 0xFFFFFFFFu;
constexpr int kThreads = 256;  // block size of every kernel but the product, whose own is in product.cuh

// Warp sums in a butterfly: every lane ends with the same bits, whatever the order in which lanes run.
template <typename T>
MP_D T warp_sum(T value) {
  for (int offset = 16; offset > 0; offset >>= 1) value += __shfl_xor_sync(kFullWarp, value, offset);
  return value;
}

MP_D float warp_max(float value) {
  for (int offset = 16; offset > 0; offset >>= 1) {
    const float other = __shfl_xor_sync(kFullWarp, value, offset);
    value = other > value ? other : value;
  }
  return value;
}

struct SumOf {
  template <typename T>
  MP_D static T warp(T value) {
    return warp_sum(value);
  }
  template <typename T>
  MP_D static T pair(T a, T b) {
    return a + b;
  }
};

struct MaxOf {
  MP_D static float warp(float value) { return warp_max(value); }
  MP_D static float pair(float a, float b) { return b > a ? b : a; }
};

// The reduction of one value per thread over a block of kThreads, the same bits in every thread. `scratch` is one slot
// per warp in shared memory; it may be used again at once, since the first barrier stands before the first write.
template <typename Reduce, typename T>
MP_D T block_reduce(T value, T* scratch) {
  value = Reduce::warp(value);
  __syncthreads();
  if ((threadIdx.x & 31u) == 0) scratch[threadIdx.x >> 5] = value;
  __syncthreads();
  T total = scratch[0];
  for (int warp = 1; warp < kThreads / 32; ++warp) total = Reduce::pair(total, scratch[warp]);
  return total;
}

}  // namespace mmseg_plugins::cuda
