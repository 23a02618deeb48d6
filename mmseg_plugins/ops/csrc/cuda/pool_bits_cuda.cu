// Products with 0/1 weights. A bit is exact in every type, so features of 16 bits need one pass, and float32 features are
// split into three bfloat16 terms whose products with 0/1 are exact as well: float32 results at a third of bfloat16's rate.
#include "product_launch.h"

namespace mmseg_plugins::cuda {

void pool_bits(const Device& device, const BitsByMask& bits, const Features& features, const ProductSize& size,
               int64_t splits, const ProductOutput& out, Precision precision) {
  with_float_type(features.tensor, "features", [&](auto number) {
    using T = decltype(number);
    const Strided<T> operand = features_by_channel<T>(features);
    if constexpr (std::is_same_v<T, float>) {
      if (precision.allow_tf32) {
        launch_product<1, 2>(device, bits, operand, size, splits, out);
      } else {
        launch_product<1, 3>(device, bits, operand, size, splits, out);
      }
    } else {
      launch_product<1, 1, std::is_same_v<T, Half>>(device, bits, operand, size, splits, out);
    }
  });
}

void scatter_bits(const Device& device, const Strided<float>& grad, const BitsByPixel& bits, const ProductSize& size,
                  const ProductOutput& out, bool coarse) {
  if (coarse) {
    launch_product<2, 1>(device, grad, bits, size, 1, out);
  } else {
    launch_product<3, 1>(device, grad, bits, size, 1, out);
  }
}

}  // namespace mmseg_plugins::cuda
