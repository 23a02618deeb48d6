// Mask pooling forwards and backwards.

#include <algorithm>
#include <cstring>

#include "ops.h"

namespace mmseg_plugins::cpu {

// ---- weights on the feature grid ------------------------------------------------------------------------------------

// Weights (B, R, N) of soft masks on the reader's grid. Probabilities that are there already are used in place.
static Tensor soft_weights(const Tensor& masks, const MaskReader& reader, const Attributes& a, int64_t rows,
                           float* area) {
  const int64_t batch = masks.size(0), n = reader.pixels();
  if (a.mode == kProb && reader.is_in_place()) {
    const float* data = reader.tensor().const_data_ptr<float>();
    if (area) {
      parallel_items(batch * rows, n,
                     [&](int64_t t) { area[t] = static_cast<float>(kernels().sum(data + t * n, n)); });
    }
    return torch::stable::reshape(reader.tensor(), {batch, rows, n});
  }
  Tensor weights = empty_floats(masks, {batch, rows, n});
  weigh_masks(reader, a.mode, a.threshold, weights.mutable_data_ptr<float>(), area);
  return weights;
}

// kmap weights that sum to 1 per map: averaged over the maps of a mask, (B, Q, N), or all of them, (B, Q*K, N).
// stats (2 per map: largest logsigmoid, sum) and area may be null.
static Tensor kmap_weights(const Tensor& masks, const MaskReader& reader, const Attributes& a, float* stats,
                           float* area) {
  const int64_t n = reader.pixels(), maps = reader.count();
  const int64_t per_row = a.reduce == kMean ? a.maps_per_mask : 1;
  Tensor weights = empty_floats(masks, {masks.size(0), masks.size(1) / per_row, n});
  float* data = weights.mutable_data_ptr<float>();
  parallel_items(maps / per_row, 16 * n * per_row, [&](int64_t row) {
    std::vector<float> plane(n), values(n);
    float* target = data + row * n;
    std::fill(target, target + n, 0.0f);
    for (int64_t map = row * per_row; map < (row + 1) * per_row; ++map) {
      double s[2];
      const double sum = kernels().kmap(reader.plane(map, plane.data()), n, values.data(), s);
      kernels().add_scaled(static_cast<float>(1.0 / (s[1] * static_cast<double>(per_row))), values.data(), n, target);
      if (area) area[map] = static_cast<float>(sum);
      if (stats) {
        stats[2 * map] = static_cast<float>(s[0]);
        stats[2 * map + 1] = static_cast<float>(s[1]);
      }
    }
  });
  return weights;
}

// (B, Q*K, N) -> (B, Q, N), the mean over the K maps of a mask.
static Tensor average_maps(const Tensor& folded, const Attributes& a) {
  if (a.mode != kKmap || a.reduce != kMean || a.maps_per_mask == 1) return folded;
  const int64_t n = folded.size(2), maps = a.maps_per_mask, rows = folded.size(0) * folded.size(1) / maps;
  Tensor mean = zero_floats(folded, {folded.size(0), folded.size(1) / maps, n});
  const float* source = folded.const_data_ptr<float>();
  float* target = mean.mutable_data_ptr<float>();
  parallel_items(rows, maps * n, [&](int64_t row) {
    for (int64_t k = 0; k < maps; ++k) {
      kernels().add_scaled(1.0f / static_cast<float>(maps), source + (row * maps + k) * n, n, target + row * n);
    }
  });
  return mean;
}

static Tensor folded_weights(const Tensor& masks, int64_t height, int64_t width, const Attributes& a, float* area) {
  const MaskReader reader(masks, masks.size(2), masks.size(3));
  const Folder folder(height, width, masks.size(2), masks.size(3));
  Tensor folded = empty_floats(masks, {masks.size(0), masks.size(1), height * width});
  if (a.mode == kKmap) {
    fold_kmap(reader, folder, folded.mutable_data_ptr<float>(), area);
  } else {
    fold_masks(reader, folder, a.mode, a.threshold, folded.mutable_data_ptr<float>(), area);
  }
  return folded;
}

static Tensor packed_words(const Tensor& masks, int64_t height, int64_t width, double threshold, float* area) {
  const MaskReader reader(masks, height, width);
  Tensor words = torch::stable::new_empty(masks, {masks.size(0), masks.size(1), ceil_div(height * width, kTile)},
                                          ScalarType::Int);
  pack_masks(reader, threshold, reinterpret_cast<uint32_t*>(words.mutable_data_ptr<int32_t>()), area);
  return words;
}

static const uint32_t* words_of(const Tensor& words) {
  return reinterpret_cast<const uint32_t*>(words.const_data_ptr<int32_t>());
}

// ---- forward --------------------------------------------------------------------------------------------------------

std::tuple<Tensor, Tensor, Tensor> mask_pool_fwd(Tensor features, Tensor masks, int64_t mode, double threshold,
                                                 double eps, int64_t maps_per_mask, int64_t reduce,
                                                 bool resize_features, bool allow_tf32, bool save,
                                                 OptionalDtype out_dtype) {
  if (is_double(features) || is_double(masks)) {
    auto r = call_eager("mask_pool_fwd", 3, features, masks, mode, threshold, eps, maps_per_mask, reduce,
                        resize_features, allow_tf32, save, out_dtype);
    return {r[0], r[1], r[2]};
  }
  const Attributes a{mode, threshold, eps, maps_per_mask, reduce, resize_features, allow_tf32};
  const Features f(features);
  const int64_t batch = masks.size(0), rows = masks.size(1);
  Tensor area = empty_floats(features, {batch, rows});
  float* areas = area.mutable_data_ptr<float>();
  const bool hard_here = mode == kHard && !resize_features;
  Tensor saved = torch::stable::new_empty(features, {0}, hard_here ? ScalarType::Int : ScalarType::Float);
  Tensor pooled = saved;
  if (hard_here) {
    const Tensor words = packed_words(masks, f.height, f.width, threshold, areas);
    pooled = bits_by_features(words_of(words), rows, f, area, eps);
    if (save) saved = words;
  } else if (resize_features) {
    const Tensor folded = folded_weights(masks, f.height, f.width, a, areas);
    pooled = weights_by_features(average_maps(folded, a), f);
    if (mode != kKmap) divide_rows(pooled, area, eps);
    if (save) saved = folded;
  } else if (mode == kKmap) {
    const MaskReader reader(masks, f.height, f.width);
    if (save) saved = empty_floats(features, {batch, rows, 2});
    pooled = weights_by_features(
        kmap_weights(masks, reader, a, save ? saved.mutable_data_ptr<float>() : nullptr, areas), f);
  } else {
    const MaskReader reader(masks, f.height, f.width);
    pooled = weights_by_features(soft_weights(masks, reader, a, rows, areas), f);
    divide_rows(pooled, area, eps);
  }
  return {as_dtype(pooled, out_dtype.value_or(features.scalar_type())), area, saved};
}

// ---- gradient to the features ---------------------------------------------------------------------------------------

// (grad / (area + eps))^T @ weights; area is left out for kmap.
static Tensor scatter_gradient(const Tensor& grad, const Tensor& weights, const Tensor* area, double eps) {
  Tensor scaled = grad;
  if (area) {
    scaled = torch::stable::clone(grad);
    divide_rows(scaled, *area, eps);
  }
  return grad_by_weights(scaled, weights);
}

Tensor mask_pool_bwd_features(Tensor grad, std::optional<Tensor> masks, Tensor saved, Tensor area, int64_t mode,
                              double threshold, double eps, int64_t maps_per_mask, int64_t reduce,
                              bool resize_features, bool allow_tf32, Sizes feature_size, ScalarType dtype) {
  if (is_double(area)) {
    return call_eager("mask_pool_bwd_features", 1, grad, masks, saved, area, mode, threshold, eps, maps_per_mask,
                      reduce, resize_features, allow_tf32, feature_size, dtype)[0];
  }
  const Attributes a{mode, threshold, eps, maps_per_mask, reduce, resize_features, allow_tf32};
  const int64_t height = feature_size[0], width = feature_size[1];
  const Tensor g = torch::stable::contiguous(as_float(grad));
  const Tensor areas = torch::stable::contiguous(area);
  Tensor result = g;
  if (!masks.has_value() && saved.numel() == 0) {  // no mask at all
    result = zero_floats(g, {g.size(0), g.size(2), height * width});
  } else if (mode == kHard && !resize_features) {
    Tensor recomputed = empty_floats(areas, {area.size(0), area.size(1)});
    const Tensor words = saved.numel() ? torch::stable::contiguous(saved)
                                       : packed_words(*masks, height, width, threshold, recomputed.mutable_data_ptr<float>());
    result = grad_by_bits(g, words_of(words), height * width, areas, eps);
  } else if (resize_features) {
    Tensor recomputed = empty_floats(areas, {area.size(0), area.size(1)});
    const Tensor folded = saved.numel() ? torch::stable::contiguous(saved)
                                        : folded_weights(*masks, height, width, a, recomputed.mutable_data_ptr<float>());
    result = scatter_gradient(g, average_maps(folded, a), mode == kKmap ? nullptr : &areas, eps);
  } else {
    const MaskReader reader(*masks, height, width);
    const Tensor weights = mode == kKmap ? kmap_weights(*masks, reader, a, nullptr, nullptr)
                                         : soft_weights(*masks, reader, a, masks->size(1), nullptr);
    result = scatter_gradient(g, weights, mode == kKmap ? nullptr : &areas, eps);
  }
  return as_dtype(torch::stable::reshape(result, {grad.size(0), grad.size(2), height, width}), dtype);
}

// ---- gradient to the masks ------------------------------------------------------------------------------------------

// The adjoint of the resize from the mask grid to the feature grid: every mask pixel sums the outputs that used it.
static void spread_to_masks(const float* grad, const Folder& folder, int64_t height, int64_t width, float* workspace,
                            float* out) {
  folder.start(workspace);
  for (int64_t y = 0; y < height; ++y) folder.add(y, grad + y * width, workspace);
  folder.finish(workspace, out);
}

Tensor mask_pool_bwd_masks(Tensor grad, Tensor features, Tensor masks, Tensor pooled, Tensor saved, Tensor area,
                           int64_t mode, double threshold, double eps, int64_t maps_per_mask, int64_t reduce,
                           bool resize_features, bool allow_tf32) {
  const bool detached = mode == kHard || mode == kGated;
  if (is_double(area) || resize_features || detached) {
    return call_eager("mask_pool_bwd_masks", 1, grad, features, masks, pooled, saved, area, mode, threshold, eps,
                      maps_per_mask, reduce, resize_features, allow_tf32)[0];
  }
  const Features f(features);
  const int64_t h = masks.size(2), w = masks.size(3), n = f.pixels, channels = f.channels;
  const MaskReader reader(masks, f.height, f.width);
  const bool same = h == f.height && w == f.width;
  const Folder folder(h, w, f.height, f.width);
  const Tensor g = torch::stable::contiguous(as_float(grad)), p = torch::stable::contiguous(as_float(pooled));
  const Tensor areas = torch::stable::contiguous(area), dots = grad_by_features(g, f);
  const float *g_data = g.const_data_ptr<float>(), *p_data = p.const_data_ptr<float>();
  const float *area_data = areas.const_data_ptr<float>(), *dot_data = dots.const_data_ptr<float>();
  const int64_t per_row = mode == kKmap && reduce == kMean ? maps_per_mask : 1;
  Tensor result = empty_floats(masks, {masks.size(0), masks.size(1), h, w});
  float* out = result.mutable_data_ptr<float>();
  parallel_items(reader.count(), 16 * n, [&](int64_t t) {
    const Kernels& k = kernels();
    std::vector<float> plane(n), values(n), workspace(same ? 0 : folder.workspace());
    const float* r = reader.plane(t, plane.data());
    const float* d = dot_data + t / per_row * n;
    float* target = same ? out + t * n : values.data();
    if (mode == kKmap) {
      std::vector<float> weights(n);
      double stats[2];
      k.kmap(r, n, weights.data(), stats);
      const double factor = 1.0 / static_cast<double>(per_row), norm = 1.0 / stats[1];
      const double centre = k.dot(weights.data(), d, n) * factor * norm;
      k.kmap_gradient(r, weights.data(), d, static_cast<float>(factor), static_cast<float>(norm),
                      static_cast<float>(centre), n, target);
    } else {
      const float centre = static_cast<float>(k.dot(g_data + t * channels, p_data + t * channels, channels));
      const float factor = 1.0f / (area_data[t] + static_cast<float>(eps));
      if (mode == kSigmoid) {
        k.sigmoid_gradient(r, d, centre, factor, n, target);
      } else {
        for (int64_t i = 0; i < n; ++i) target[i] = (d[i] - centre) * factor;
      }
    }
    if (!same) spread_to_masks(target, folder, f.height, f.width, workspace.data(), out + t * h * w);
  });
  return as_dtype(result, masks.scalar_type());
}

}  // namespace mmseg_plugins::cpu
