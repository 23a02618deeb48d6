// The loops of kernels_impl.h for AVX2 with FMA. Headers come first: what they define must stay baseline code.

#include "kernels_table.h"

#if defined(MP_X86)
#include <immintrin.h>

#define MP_AVX2
#define MP_SET_NAME "avx2"
#define MP_SET_FUSED true
MP_BEGIN_TARGET_AVX2
namespace mmseg_plugins::cpu::avx2 {
#include "simd.h"
#include "kernels_impl.h"
#include "argmax_impl.h"
const Kernels& table() {
  static const Kernels result = MP_KERNEL_TABLE;
  return result;
}
}  // namespace mmseg_plugins::cpu::avx2
MP_END_TARGET
#endif
