// The loops of kernels_impl.h for the baseline of the platform, and the choice between the sets.

#include "kernels_table.h"

#define MP_SET_NAME "baseline"
#define MP_SET_FUSED false

namespace mmseg_plugins::cpu {

namespace base {
#include "simd.h"
#include "kernels_impl.h"
#include "argmax_impl.h"
const Kernels& table() {
  static const Kernels result = MP_KERNEL_TABLE;
  return result;
}
}  // namespace base

#if defined(MP_X86)
namespace avx512 {
const Kernels& table();
}
namespace avx2 {
const Kernels& table();
}
#endif

static const Kernels& choose() {
#if defined(MP_X86)
  // MMSEG_PLUGINS_CPU_SET=baseline|avx2|avx512 lowers the choice, for tests on one machine.
  const char* wanted = std::getenv("MMSEG_PLUGINS_CPU_SET");
  const auto allows = [&](const char* name) { return wanted == nullptr || std::strcmp(wanted, name) == 0; };
  if (allows("avx512") && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    return avx512::table();
  }
  if ((allows("avx512") || allows("avx2")) && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    return avx2::table();
  }
#endif
  return base::table();
}

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

}  // namespace mmseg_plugins::cpu
