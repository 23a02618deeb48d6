// The stages that the operators are put together from. Weights on the feature grid are bits or float32; products take
// either. M = B * rows counts masks, maps or segments; N = H * W pixels of the feature grid.
#pragma once

#include "host.h"
#include "product.h"

namespace mmseg_plugins::cuda {

// Areas as parts that somebody adds in order: (M, count), int32 when pixels are counted, else float32.
struct Areas {
  Tensor parts;
  int64_t count = 1;
  bool is_integer = false;
};

struct Weights {
  Tensor values;  // int32 (B, rows, ceil(N / 32)) when packed, else float32 (B, rows, N)
  bool is_packed = false;
  Areas areas;
};

struct MaskOptions {
  Mode mode;
  float threshold;
  int64_t maps;      // K
  bool average;      // kmap: one row of averaged weights per mask
};

// ---- weights (weights_cuda.cu, fold_cuda.cu, label_cuda.cu) ----------------------------------------------------------

Weights pack_masks(const Device& device, const Tensor& masks, Grid grid, float threshold);
Weights soft_weights(const Device& device, const Tensor& masks, Grid grid, const MaskOptions& options);
// kmap: (B, Q*K, 2) with the largest log-sigmoid and the sum of exponentials of every map.
Tensor map_statistics(const Device& device, const Tensor& masks, Grid grid);
// (B, Q*K, N) to (B, Q, N).
Tensor average_maps(const Device& device, const Tensor& values, int64_t maps);
// Weights made at mask resolution and folded onto the grid.
Weights fold_masks(const Device& device, const Tensor& masks, Grid grid, Mode mode, float threshold);
Weights fold_bits(const Device& device, const Tensor& bits, int64_t width, Grid grid);
Weights label_weights(const Device& device, const Tensor& labels, int64_t segments, int64_t ignore_index, Grid grid);
// Every pixel takes the row of its segment: float32 (B, S, C) to (B, C, h, w) of `type`, zero outside all segments.
Tensor label_gather(const Device& device, const Tensor& rows, const Tensor& labels, int64_t ignore_index, ScalarType type);
// Areas of packed weights.
Areas count_words(const Device& device, const Tensor& words);
Tensor decode_runs(const Device& device, const Tensor& counts, const Tensor& offsets, int64_t height, int64_t width);

// ---- products (product_bits_cuda.cu, product_soft_cuda.cu) -----------------------------------------------------------

// Whether a float32 product may be as coarse as TF32; and whether float32 weights must be exact to the last bit even
// against 16-bit features (gated weights are binary in the numerics contract, sigmoids are not).
struct Precision {
  bool allow_tf32;
  bool exact_weights = false;
};

struct Pooled {
  Tensor pooled, area;
};

// The end of a pooling: whether to divide by area + eps (kmap does not), and the type to round to.
struct PoolEnd {
  bool divide;
  float eps;
  ScalarType type;
};

// weights * features, divided and rounded: (B, rows, C), and the areas (B, rows).
Pooled pool_weights(const Device& device, const Weights& weights, const Features& features, Precision precision, PoolEnd end);
// grad^T * weights: (B, rows, C) float32 with (B, rows, N) to (B, C, H, W) of `type`.
Tensor scatter_product(const Device& device, const Tensor& grad, const Weights& weights, Grid grid, ScalarType type,
                       Precision precision);
// grad * features: (B, rows, C) float32 with (B, C, N) to float32 (B, rows, N).
Tensor dot_product(const Device& device, const Tensor& grad, const Features& features, Precision precision);

// ---- ends (finish_cuda.cu) -----------------------------------------------------------------------------------------

// Adds the parts (splits, B, rows, C) of a product in order, divides, and rounds once.
Pooled finish_pool(const Device& device, const Tensor& parts, const Weights& weights, PoolEnd end);
// float32 (B, rows, C): grad / (area + eps), or grad alone without `area`.
Tensor scaled_grad(const Device& device, const Tensor& grad, const Tensor* area, float eps);

// ---- gradient to the masks (backward_cuda.cu) ------------------------------------------------------------------------

struct MaskGradient {
  Mode mode;
  Tensor dots;                       // float32 (B, rows / share, N): grad . features
  Tensor centres, areas;             // float32 (M,)
  std::optional<Tensor> statistics;  // kmap
  int64_t share;                     // maps per row of dots
  float scale, eps;
};

// sums[row] = sum_i a[row, i] * b[row / share, i] for float32 (B, rows, L) and (B, rows / share, L).
Tensor rows_dot(const Device& device, const Tensor& a, const Tensor& b, int64_t share);
Tensor mask_gradient(const Device& device, const Tensor& masks, const MaskGradient& in, Grid grid, bool resize_features);

}  // namespace mmseg_plugins::cuda
