// The operators mask_pool_fwd, mask_pool_bwd_features and mask_pool_bwd_masks: which stages they are made of.
#include "stages.h"

namespace mmseg_plugins::cuda {
namespace {

constexpr int64_t kReduceMean = 0;

struct Attributes {
  Mode mode;
  float threshold, eps;
  int64_t maps;
  bool average, resize_features;
  Precision precision;
};

Attributes checked_attributes(int64_t mode, double threshold, double eps, int64_t maps, int64_t reduce, bool resize_features,
                              bool allow_tf32) {
  STD_TORCH_CHECK(mode >= 0 && mode <= static_cast<int>(Mode::kmap), "unknown mode ", mode);
  STD_TORCH_CHECK(maps >= 1, "maps_per_mask must be at least 1, got ", maps);
  const Mode checked = static_cast<Mode>(mode);
  return Attributes{checked, static_cast<float>(threshold), static_cast<float>(eps), maps,
                    checked == Mode::kmap && reduce == kReduceMean && maps > 1, resize_features, Precision{allow_tf32}};
}

Grid grid_for(int64_t height, int64_t width, const Tensor& masks) {
  STD_TORCH_CHECK(masks.dim() == 4, "masks must be (B, Q, h, w), got ", masks.dim(), " dimensions");
  return checked_grid(height, width, masks.size(2), masks.size(3));
}

// The weights whose product is taken: averaged over the maps of a mask where that is asked for.
Weights weights_for(const Device& device, const Tensor& masks, Grid grid, const Attributes& a) {
  if (a.resize_features) return fold_masks(device, masks, grid, a.mode, a.threshold);
  if (a.mode == Mode::hard) return pack_masks(device, masks, grid, a.threshold);
  return soft_weights(device, masks, grid, MaskOptions{a.mode, a.threshold, a.maps, a.average});
}

void average_if_asked(const Device& device, Weights& weights, const Attributes& a) {
  if (a.resize_features && a.average && weights.values.size(1) > 0)
    weights.values = average_maps(device, weights.values, a.maps);
}

// Areas as (B, rows) where no division adds them up: kmap's have one part, those of folded kmaps several.
Tensor map_areas(const Weights& weights, int64_t batch, int64_t rows) {
  Tensor parts = weights.areas.parts;
  if (weights.areas.count != 1) {
    const int64_t axis = 1;
    parts = torch::stable::sum(parts, IntHeaderOnlyArrayRef(&axis, 1), false, ScalarType::Float);
  }
  const std::vector<int64_t> shape{batch, rows};
  return torch::stable::view(parts, IntHeaderOnlyArrayRef(shape.data(), shape.size()));
}

Tensor nothing(const Tensor& like, ScalarType type) { return empty_like_device(like, {0}, type); }

Tensor saved_for(const Device& device, const Tensor& masks, const Weights& weights, Grid grid, const Attributes& a) {
  if (a.resize_features || a.mode == Mode::hard) return weights.values;
  if (a.mode == Mode::kmap) return map_statistics(device, masks, grid);
  return nothing(masks, ScalarType::Float);
}

std::tuple<Tensor, Tensor, Tensor> mask_pool_fwd(const Tensor& features, const Tensor& masks, int64_t mode, double threshold,
                                                 double eps, int64_t maps, int64_t reduce, bool resize_features,
                                                 bool allow_tf32, bool save, std::optional<ScalarType> out_dtype) {
  const Attributes a = checked_attributes(mode, threshold, eps, maps, reduce, resize_features, allow_tf32);
  const Features input(features);
  STD_TORCH_CHECK(masks.dim() == 4 && masks.size(0) == input.batch, "masks must be (B, Q, h, w) with B = ", input.batch);
  STD_TORCH_CHECK(masks.size(1) % a.maps == 0, "masks must hold ", a.maps, " maps for every mask, got ", masks.size(1));
  const Grid grid = grid_for(features.size(2), features.size(3), masks);
  const Device device(features);
  Weights weights = weights_for(device, masks, grid, a);
  const Tensor saved = save ? saved_for(device, masks, weights, grid, a)
                            : nothing(masks, a.mode == Mode::hard && !resize_features ? ScalarType::Int : ScalarType::Float);
  average_if_asked(device, weights, a);
  const bool divide = a.mode != Mode::kmap;
  const Precision precision{allow_tf32, a.mode == Mode::gated || a.mode == Mode::hard};
  const PoolEnd end{divide, a.eps, out_dtype.value_or(features.scalar_type())};
  Pooled result = pool_weights(device, weights, input, precision, end);
  if (!divide) result.area = map_areas(weights, masks.size(0), masks.size(1));
  return {result.pooled, result.area, saved};
}

// Weights of a backward: from what the forward saved if that is enough, else from the masks again.
std::optional<Weights> weights_again(const Device& device, const std::optional<Tensor>& masks, const Tensor& saved, Grid grid,
                                     const Attributes& a) {
  Weights weights;
  if (saved.numel() > 0 && (a.resize_features || a.mode == Mode::hard)) {
    weights.is_packed = !a.resize_features;
    weights.values = saved.is_contiguous() ? saved : torch::stable::contiguous(saved);
  } else if (masks.has_value()) {
    weights = weights_for(device, *masks, grid, a);
  } else {
    return std::nullopt;
  }
  average_if_asked(device, weights, a);
  return weights;
}

Tensor mask_pool_bwd_features(const Tensor& grad, std::optional<Tensor> masks, const Tensor& saved, const Tensor& area,
                              int64_t mode, double threshold, double eps, int64_t maps, int64_t reduce, bool resize_features,
                              bool allow_tf32, const std::vector<int64_t>& feature_size, ScalarType dtype) {
  const Attributes a = checked_attributes(mode, threshold, eps, maps, reduce, resize_features, allow_tf32);
  STD_TORCH_CHECK(feature_size.size() == 2, "feature_size must be (H, W)");
  const int64_t height = feature_size[0], width = feature_size[1];
  const Grid grid = masks.has_value() ? grid_for(height, width, *masks) : checked_grid(height, width, height, width);
  const Device device(grad);
  const std::optional<Weights> weights = weights_again(device, masks, saved, grid, a);
  if (!weights) return zeros_like_device(grad, {grad.size(0), grad.size(2), height, width}, dtype);
  const Tensor scaled = scaled_grad(device, grad, a.mode == Mode::kmap ? nullptr : &area, a.eps);
  return scatter_product(device, scaled, *weights, grid, dtype, a.precision);
}

// The centre s of every map: the sum of its weights times the dots, on the feature grid.
Tensor map_centres(const Device& device, const Tensor& masks, const Tensor& saved, const Tensor& dots, Grid grid,
                   const Attributes& a, int64_t share) {
  if (a.resize_features) {
    const Tensor folded = saved.numel() > 0 ? saved : fold_masks(device, masks, grid, a.mode, a.threshold).values;
    return rows_dot(device, as_float32(folded), dots, share);
  }
  const Weights weights = soft_weights(device, masks, grid, MaskOptions{a.mode, a.threshold, a.maps, false});
  return rows_dot(device, weights.values, dots, share);
}

Tensor mask_pool_bwd_masks(const Tensor& grad, const Tensor& features, const Tensor& masks, const Tensor& pooled,
                           const Tensor& saved, const Tensor& area, int64_t mode, double threshold, double eps, int64_t maps,
                           int64_t reduce, bool resize_features, bool allow_tf32) {
  const Attributes a = checked_attributes(mode, threshold, eps, maps, reduce, resize_features, allow_tf32);
  if (a.mode == Mode::hard || a.mode == Mode::gated)
    return zeros_like_device(masks, {masks.size(0), masks.size(1), masks.size(2), masks.size(3)}, masks.scalar_type());
  const Features input(features);
  const Grid grid = grid_for(features.size(2), features.size(3), masks);
  const Device device(features);
  const Tensor wide = as_float32(grad);
  MaskGradient in{a.mode, dot_product(device, wide, input, a.precision), Tensor(), as_float32(area), std::nullopt, 1, 1.0f, a.eps};
  if (a.mode == Mode::kmap) {
    const Grid map_grid = resize_features ? grid_for(masks.size(2), masks.size(3), masks) : grid;
    in.share = a.average ? a.maps : 1;
    in.scale = a.average ? 1.0f / static_cast<float>(a.maps) : 1.0f;
    in.centres = map_centres(device, masks, saved, in.dots, grid, a, in.share);
    in.statistics = !resize_features && saved.numel() > 0 ? as_float32(saved) : map_statistics(device, masks, map_grid);
  } else {
    in.centres = rows_dot(device, wide, as_float32(pooled), 1);
  }
  return mask_gradient(device, masks, in, grid, resize_features);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mmseg_plugins, MP_DISPATCH_KEY, m) {
  m.impl("mask_pool_fwd", TORCH_BOX(&mask_pool_fwd));
  m.impl("mask_pool_bwd_features", TORCH_BOX(&mask_pool_bwd_features));
  m.impl("mask_pool_bwd_masks", TORCH_BOX(&mask_pool_bwd_masks));
}

}  // namespace mmseg_plugins::cuda
