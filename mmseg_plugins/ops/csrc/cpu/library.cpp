// Registers the CPU kernels. The schemas are defined in Python, which must come first.

#include "ops.h"

#define MP_IMPL(name) m.impl(#name, TORCH_BOX(&mmseg_plugins::cpu::name))

STABLE_TORCH_LIBRARY_IMPL(mmseg_plugins, CPU, m) {
  MP_IMPL(mask_pool_fwd);
  MP_IMPL(mask_pool_bwd_features);
  MP_IMPL(mask_pool_bwd_masks);
  MP_IMPL(label_pool_fwd);
  MP_IMPL(label_pool_bwd);
  MP_IMPL(bits_pool_fwd);
  MP_IMPL(bits_pool_bwd);
  MP_IMPL(rle_pool_fwd);
  MP_IMPL(rle_to_bits);
  MP_IMPL(pack_bits);
  MP_IMPL(upsample_argmax);
  MP_IMPL(mask_argmax);
}
