// What the CPU operators share: inputs in a form the loops can read, weights of a mask, products, and the way back to
// the eager tier.

#pragma once

#include <algorithm>
#include <memory>
#include <new>
#include <string>

#include "../common.h"
#include "kernels.h"

namespace mmseg_plugins::cpu {

using OptionalDtype = std::optional<ScalarType>;

// Attributes that the mask_pool operators share, in the order of _schema.py.
struct Attributes {
  int64_t mode;
  double threshold, eps;
  int64_t maps_per_mask, reduce;
  bool resize_features, allow_tf32;
};

// ---- tensors --------------------------------------------------------------------------------------------------------

Tensor as_float(const Tensor& tensor);                    // float32, same layout
Tensor empty_floats(const Tensor& like, std::vector<int64_t> sizes);
Tensor zero_floats(const Tensor& like, std::vector<int64_t> sizes);
Tensor as_dtype(const Tensor& tensor, ScalarType dtype);  // the tensor itself if it has the dtype already
inline bool is_double(const Tensor& tensor) { return tensor.scalar_type() == ScalarType::Double; }

// Float32 features (B, C, H, W) with one stride for all pixels: channels before pixels, or channels last.
struct Features {
  Tensor tensor;
  int64_t batch, channels, height, width, pixels;
  int64_t batch_stride, channel_stride, pixel_stride;
  const float* data;
  explicit Features(const Tensor& features);
  const float* image(int64_t b) const { return data + b * batch_stride; }
};

// weights (B, R, N) @ features^T -> (B, R, C); grad^T (B, C, R) @ weights (B, R, N) -> (B, C, N); grad @ features.
Tensor weights_by_features(const Tensor& weights, const Features& features);
Tensor grad_by_weights(const Tensor& grad, const Tensor& weights);
Tensor grad_by_features(const Tensor& grad, const Features& features);

// Divides row r of (B, R, C) by area[r] + eps, in place.
void divide_rows(Tensor& rows, const Tensor& area, double eps);

// Runs `body(item)` for all items, in parallel; `cost` is about how many simple operations one item takes.
template <typename Body>
void parallel_items(int64_t items, int64_t cost, const Body& body) {
  const int64_t grain = cost > 0 ? std::max<int64_t>(1, 32768 / cost) : 1;
  torch::stable::parallel_for(0, items, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) body(i);
  });
}

// Floats that begin at a cache line: a vector that straddles two costs twice as much to load.
class Floats {
 public:
  explicit Floats(int64_t count, float value = 0.0f)
      : count_(count), data_(new (std::align_val_t(64)) float[std::max<int64_t>(count, 1)]) {
    fill(value);
  }
  float* data() { return data_.get(); }
  float& operator[](int64_t i) { return data_.get()[i]; }
  void fill(float value) { std::fill_n(data_.get(), count_, value); }

 private:
  struct Free {
    void operator()(float* data) const { ::operator delete[](data, std::align_val_t(64)); }
  };
  int64_t count_;
  std::unique_ptr<float[], Free> data_;
};

// ---- masks ----------------------------------------------------------------------------------------------------------

// Reads masks (T, h, w) of any dtype as float planes on a grid of (H, W).
class MaskReader {
 public:
  MaskReader(const Tensor& masks, int64_t height, int64_t width);
  int64_t count() const { return count_; }
  int64_t pixels() const { return height_ * width_; }
  // r of mask t on the grid. Either a pointer into the masks, or `buffer` (pixels() floats) filled.
  const float* plane(int64_t t, float* buffer) const;
  // Line y of mask t as it is, `buffer` holds w floats.
  const float* line(int64_t t, int64_t y, float* buffer) const;
  // The bytes of a line of a bool mask; null for other dtypes.
  const uint8_t* bool_line(int64_t t, int64_t y) const;
  // Whether the masks are float32 on the grid already, and the tensor whose planes these are.
  bool is_in_place() const { return same_ && dtype_ == ScalarType::Float; }
  const Tensor& tensor() const { return masks_; }
  int64_t mask_height() const { return h_; }
  int64_t mask_width() const { return w_; }

 private:
  Tensor masks_;
  ScalarType dtype_;
  int64_t count_, h_, w_, height_, width_;
  bool same_;
  Taps rows_, columns_;
};

// Bits of hard masks, (T, words), with their areas; the layout that `saved` has.
void pack_masks(const MaskReader& reader, double threshold, uint32_t* words, float* area);

// Weights (T, N) on the reader's grid for sigmoid, prob, gated and hard. area may be null.
void weigh_masks(const MaskReader& reader, int64_t mode, double threshold, float* weights, float* area);

// ---- folding --------------------------------------------------------------------------------------------------------

// The adjoint of the enlargement (H, W) -> (h, w), applied to one map line by line.
class Folder {
 public:
  Folder(int64_t height, int64_t width, int64_t h, int64_t w);
  int64_t workspace() const { return (height_ + 1) * w_; }  // floats
  void start(float* workspace) const;
  // Adds line y with the values `row`; or bytes of 0 and 1, whose number is returned.
  void add(int64_t y, const float* row, float* workspace) const;
  int64_t add_bytes(int64_t y, const uint8_t* row, float* workspace) const;
  // Folds the columns and writes the map (H, W).
  void finish(const float* workspace, float* map) const;
  int64_t height() const { return height_; }
  int64_t width() const { return width_; }
  const Taps& rows() const { return rows_; }
  const Taps& columns() const { return columns_; }

 private:
  int64_t height_, width_, h_, w_;
  Taps rows_, columns_;
  std::vector<int32_t> run_start_;  // columns of the mask grid that share their first tap
};

// Folded weights (T, H*W) and areas (T) of masks that stay on their own grid.
void fold_masks(const MaskReader& reader, const Folder& folder, int64_t mode, double threshold, float* folded,
                float* area);
// kmap: weights of every map sum to 1 before they are folded.
void fold_kmap(const MaskReader& reader, const Folder& folder, float* folded, float* area);

// ---- bit product ----------------------------------------------------------------------------------------------------

// words (B, R, words of N) by features -> (B, R, C), divided by area + eps.
Tensor bits_by_features(const uint32_t* words, int64_t rows, const Features& features, const Tensor& area, double eps);
// (grad / (area + eps))^T by words -> (B, C, N)
Tensor grad_by_bits(const Tensor& grad, const uint32_t* words, int64_t pixels, const Tensor& area, double eps);

// ---- the eager tier -------------------------------------------------------------------------------------------------

// Calls `<name>_eager`, the same operator in plain PyTorch: for float64 and for what has no loop of its own here.
template <typename... Arguments>
std::vector<Tensor> call_eager(const std::string& name, size_t results, const Arguments&... arguments) {
  std::array<StableIValue, sizeof...(Arguments)> stack{torch::stable::detail::from(arguments)...};
  MP_CHECK_STATUS(torch_call_dispatcher(("mmseg_plugins::" + name + "_eager").c_str(), "", stack.data(),
                                        TORCH_ABI_VERSION));
  std::vector<Tensor> tensors;
  for (size_t i = 0; i < results; ++i) tensors.push_back(torch::stable::detail::to<Tensor>(stack[i]));
  return tensors;
}

}  // namespace mmseg_plugins::cpu
