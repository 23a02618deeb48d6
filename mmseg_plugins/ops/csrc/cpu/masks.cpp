// Masks to weights: resizing, phi, packing to bits, and folding masks of a finer grid to the feature grid.

#include <algorithm>
#include <cstring>

#include "host.h"

namespace mmseg_plugins::cpu {

// Calls `body` with a null pointer of the element type of the masks.
template <typename Body>
static void with_mask_type(ScalarType dtype, const Body& body) {
  switch (dtype) {
    case ScalarType::Float: return body(static_cast<const float*>(nullptr));
    case ScalarType::Half: return body(static_cast<const torch::headeronly::Half*>(nullptr));
    case ScalarType::BFloat16: return body(static_cast<const torch::headeronly::BFloat16*>(nullptr));
    case ScalarType::Bool: return body(static_cast<const uint8_t*>(nullptr));  // a byte of 0 or 1
    case ScalarType::Byte: return body(static_cast<const uint8_t*>(nullptr));
    default: STD_TORCH_CHECK(false, "masks must be float32, float16, bfloat16, float64, bool or uint8");
  }
}

MaskReader::MaskReader(const Tensor& masks, int64_t height, int64_t width)
    : masks_(torch::stable::contiguous(masks)), dtype_(masks.scalar_type()), height_(height), width_(width) {
  const int64_t axes = masks.dim();
  h_ = masks.size(axes - 2);
  w_ = masks.size(axes - 1);
  STD_TORCH_CHECK(h_ > 0 && w_ > 0 && height > 0 && width > 0, "masks and features must have pixels");
  count_ = masks.numel() / (h_ * w_);
  same_ = h_ == height && w_ == width;
  if (!same_) {
    rows_ = exact_taps(h_, height);
    columns_ = exact_taps(w_, width);
  }
}

template <typename T>
static void convert(const T* source, int64_t n, float* target) {
  for (int64_t i = 0; i < n; ++i) target[i] = static_cast<float>(source[i]);
}

// Picks the two taps of every output column from one line.
template <typename T>
static void pick(const T* line, const Taps& columns, int64_t n, float* first, float* second) {
  for (int64_t x = 0; x < n; ++x) {
    first[x] = static_cast<float>(line[columns.i0[x]]);
    second[x] = static_cast<float>(line[columns.i1[x]]);
  }
}

const float* MaskReader::plane(int64_t t, float* buffer) const {
  const void* data = masks_.const_data_ptr();
  if (same_ && dtype_ == ScalarType::Float) return static_cast<const float*>(data) + t * pixels();
  with_mask_type(dtype_, [&](auto* null) {
    const auto* mask = static_cast<decltype(null)>(data) + t * h_ * w_;
    if (same_) return convert(mask, pixels(), buffer);
    // Only lines and columns that are a tap of something are read.
    std::vector<float> taps(4 * width_);
    float *a = taps.data(), *b = a + width_, *c = b + width_, *d = c + width_;
    for (int64_t y = 0; y < height_; ++y) {
      pick(mask + int64_t(rows_.i0[y]) * w_, columns_, width_, a, b);
      pick(mask + int64_t(rows_.i1[y]) * w_, columns_, width_, c, d);
      kernels().mix(a, b, c, d, columns_.lam.data(), rows_.lam[y], width_, buffer + y * width_);
    }
  });
  return buffer;
}

const float* MaskReader::line(int64_t t, int64_t y, float* buffer) const {
  const void* data = masks_.const_data_ptr();
  const int64_t offset = (t * h_ + y) * w_;
  if (dtype_ == ScalarType::Float) return static_cast<const float*>(data) + offset;
  with_mask_type(dtype_, [&](auto* null) { convert(static_cast<decltype(null)>(data) + offset, w_, buffer); });
  return buffer;
}

const uint8_t* MaskReader::bool_line(int64_t t, int64_t y) const {
  if (dtype_ != ScalarType::Bool) return nullptr;
  return static_cast<const uint8_t*>(masks_.const_data_ptr()) + (t * h_ + y) * w_;
}

void pack_masks(const MaskReader& reader, double threshold, uint32_t* words, float* area) {
  const int64_t word_count = ceil_div(reader.pixels(), kTile);
  parallel_items(reader.count(), reader.pixels(), [&](int64_t t) {
    std::vector<float> buffer(reader.pixels());
    const float* r = reader.plane(t, buffer.data());
    const int64_t count =
        kernels().pack_greater(r, reader.pixels(), static_cast<float>(threshold), words + t * word_count);
    area[t] = static_cast<float>(count);
  });
}

// phi of n values; returns the sum of the weights.
static double weigh(const float* r, int64_t n, int64_t mode, float threshold, float* weights) {
  const Kernels& k = kernels();
  switch (mode) {
    case kHard: return static_cast<double>(k.hard(r, n, threshold, weights));
    case kSigmoid: return k.sigmoid(r, n, weights);
    case kGated: return k.gate(r, n, threshold, weights);
    default:
      if (r != weights) std::memcpy(weights, r, n * sizeof(float));
      return k.sum(weights, n);
  }
}

void weigh_masks(const MaskReader& reader, int64_t mode, double threshold, float* weights, float* area) {
  const int64_t n = reader.pixels();
  parallel_items(reader.count(), 4 * n, [&](int64_t t) {
    float* target = weights + t * n;
    const float* r = reader.plane(t, target);
    const double sum = weigh(r, n, mode, static_cast<float>(threshold), target);
    if (area) area[t] = static_cast<float>(sum);
  });
}

// ---- folding --------------------------------------------------------------------------------------------------------

Folder::Folder(int64_t height, int64_t width, int64_t h, int64_t w)
    : height_(height), width_(width), h_(h), w_(w), rows_(exact_taps(height, h)), columns_(exact_taps(width, w)) {
  for (int64_t x = 0; x < w; ++x) {
    if (x == 0 || columns_.i0[x] != columns_.i0[x - 1]) run_start_.push_back(static_cast<int32_t>(x));
  }
  run_start_.push_back(static_cast<int32_t>(w));
}

void Folder::start(float* workspace) const { std::fill(workspace, workspace + this->workspace(), 0.0f); }

void Folder::add(int64_t y, const float* row, float* workspace) const {
  // At the far border both taps are the same line: the second goes to a spare one, with weight 0 on purpose.
  const bool border = rows_.i1[y] == rows_.i0[y];
  float* upper = workspace + rows_.i0[y] * w_;
  kernels().spread(row, w_, border ? 1.0f : 1.0f - rows_.lam[y], border ? 0.0f : rows_.lam[y], upper, upper + w_);
}

int64_t Folder::add_bytes(int64_t y, const uint8_t* row, float* workspace) const {
  const bool border = rows_.i1[y] == rows_.i0[y];
  float* upper = workspace + rows_.i0[y] * w_;
  return kernels().spread_bytes(row, w_, border ? 1.0f : 1.0f - rows_.lam[y], border ? 0.0f : rows_.lam[y], upper,
                                upper + w_);
}

void Folder::finish(const float* workspace, float* map) const {
  std::fill(map, map + height_ * width_, 0.0f);
  for (int64_t y = 0; y < height_; ++y) {
    const float* row = workspace + y * w_;
    float* out = map + y * width_;
    for (size_t run = 0; run + 1 < run_start_.size(); ++run) {
      float first = 0, second = 0;
      for (int32_t x = run_start_[run]; x < run_start_[run + 1]; ++x) {
        first += (1.0f - columns_.lam[x]) * row[x];
        second += columns_.lam[x] * row[x];
      }
      out[columns_.i0[run_start_[run]]] += first;
      out[columns_.i1[run_start_[run]]] += second;
    }
  }
}

void fold_masks(const MaskReader& reader, const Folder& folder, int64_t mode, double threshold, float* folded,
                float* area) {
  const int64_t h = reader.mask_height(), w = reader.mask_width(), cells = folder.height() * folder.width();
  // Bytes of 0 and 1 need no phi if the threshold lies between them.
  const bool bytes = reader.bool_line(0, 0) != nullptr &&
                     (mode == kProb || (mode == kHard && threshold >= 0 && threshold < 1));
  parallel_items(reader.count(), h * w, [&](int64_t t) {
    std::vector<float> workspace(folder.workspace()), values(w), weights(w);
    folder.start(workspace.data());
    double sum = 0;
    for (int64_t y = 0; y < h; ++y) {
      if (bytes) {
        sum += static_cast<double>(folder.add_bytes(y, reader.bool_line(t, y), workspace.data()));
        continue;
      }
      const float* r = reader.line(t, y, values.data());
      sum += weigh(r, w, mode, static_cast<float>(threshold), weights.data());
      folder.add(y, weights.data(), workspace.data());
    }
    folder.finish(workspace.data(), folded + t * cells);
    area[t] = static_cast<float>(sum);
  });
}

void fold_kmap(const MaskReader& reader, const Folder& folder, float* folded, float* area) {
  const int64_t h = reader.mask_height(), w = reader.mask_width(), cells = folder.height() * folder.width();
  parallel_items(reader.count(), 8 * h * w, [&](int64_t t) {
    std::vector<float> workspace(folder.workspace()), r(h * w), weights(h * w);
    for (int64_t y = 0; y < h; ++y) {
      const float* line = reader.line(t, y, r.data() + y * w);
      if (line != r.data() + y * w) std::memcpy(r.data() + y * w, line, w * sizeof(float));
    }
    double stats[2];
    area[t] = static_cast<float>(kernels().kmap(r.data(), h * w, weights.data(), stats));
    const float norm = static_cast<float>(1.0 / stats[1]);
    for (float& value : weights) value *= norm;
    folder.start(workspace.data());
    for (int64_t y = 0; y < h; ++y) folder.add(y, weights.data() + y * w, workspace.data());
    folder.finish(workspace.data(), folded + t * cells);
  });
}

}  // namespace mmseg_plugins::cpu
