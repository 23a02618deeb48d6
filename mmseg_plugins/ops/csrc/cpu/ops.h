// The CPU kernels of the operators, by the names and argument orders of _schema.py.

#pragma once

#include "host.h"

namespace mmseg_plugins::cpu {

using Sizes = std::vector<int64_t>;

std::tuple<Tensor, Tensor, Tensor> mask_pool_fwd(Tensor features, Tensor masks, int64_t mode, double threshold,
                                                 double eps, int64_t maps_per_mask, int64_t reduce,
                                                 bool resize_features, bool allow_tf32, bool save,
                                                 OptionalDtype out_dtype);

Tensor mask_pool_bwd_features(Tensor grad, std::optional<Tensor> masks, Tensor saved, Tensor area, int64_t mode,
                              double threshold, double eps, int64_t maps_per_mask, int64_t reduce,
                              bool resize_features, bool allow_tf32, Sizes feature_size, ScalarType dtype);

Tensor mask_pool_bwd_masks(Tensor grad, Tensor features, Tensor masks, Tensor pooled, Tensor saved, Tensor area,
                           int64_t mode, double threshold, double eps, int64_t maps_per_mask, int64_t reduce,
                           bool resize_features, bool allow_tf32);

std::tuple<Tensor, Tensor> label_pool_fwd(Tensor features, Tensor labels, int64_t num_segments, int64_t ignore_index,
                                          double eps, bool allow_tf32, OptionalDtype out_dtype);

Tensor label_pool_bwd(Tensor grad, Tensor labels, Tensor area, int64_t ignore_index, double eps, bool allow_tf32,
                      Sizes feature_size, ScalarType dtype);

std::tuple<Tensor, Tensor> bits_pool_fwd(Tensor features, Tensor bits, Sizes size, double eps, bool allow_tf32,
                                         OptionalDtype out_dtype);

Tensor bits_pool_bwd(Tensor grad, Tensor bits, Tensor area, Sizes size, double eps, bool allow_tf32,
                     Sizes feature_size, ScalarType dtype);

std::tuple<Tensor, Tensor, Tensor> rle_pool_fwd(Tensor features, Tensor counts, Tensor offsets, Sizes size, double eps,
                                                bool allow_tf32, OptionalDtype out_dtype);

Tensor rle_to_bits(Tensor counts, Tensor offsets, Sizes size);

Tensor pack_bits(Tensor masks, double threshold);

std::tuple<Tensor, Tensor, Tensor, Tensor> upsample_argmax(Tensor logits, Sizes size, Sizes band,
                                                           std::optional<Tensor> row_class, double logit_scale,
                                                           bool softmax_rows, bool want_score, bool want_margin,
                                                           bool want_probability);

std::tuple<Tensor, Tensor, Tensor, Tensor> mask_argmax(Tensor weights, Tensor mask_logits, Sizes size, Sizes band,
                                                       double logit_scale, bool want_score, bool want_margin,
                                                       bool want_probability);

}  // namespace mmseg_plugins::cpu
