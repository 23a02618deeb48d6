// Pooling under bit masks and run lengths: both are folded to the feature grid, then one product.

#include <algorithm>
#include <cstring>

#include "ops.h"

namespace mmseg_plugins::cpu {

// ---- bits -----------------------------------------------------------------------------------------------------------

// Spreads the bits of a line to bytes of 0 and 1.
static void unpack_line(const uint8_t* bits, int64_t w, uint8_t* bytes) {
  for (int64_t x = 0; x + 8 <= w; x += 8) {
    // Copies the byte to all eight, keeps bit i in byte i, and brings it down to 0 or 1.
    uint64_t eight = bits[x / 8] * 0x0101010101010101ull & 0x8040201008040201ull;
    eight = ((eight + 0x7F7F7F7F7F7F7F7Full) | eight) >> 7 & 0x0101010101010101ull;
    std::memcpy(bytes + x, &eight, 8);
  }
  for (int64_t x = w / 8 * 8; x < w; ++x) bytes[x] = bits[x / 8] >> (x % 8) & 1;
}

static Tensor folded_bits(const Tensor& bits, const Sizes& size, int64_t height, int64_t width, float* area) {
  const Tensor source = torch::stable::contiguous(bits);
  const int64_t h = size[0], w = size[1], bytes = ceil_div(w, 8), cells = height * width;
  STD_TORCH_CHECK(bits.dim() == 4 && bits.size(2) == h && bits.size(3) == bytes, "bits must be (B, Q, h, ceil(w / 8))");
  const Folder folder(height, width, h, w);
  Tensor folded = empty_floats(bits, {bits.size(0), bits.size(1), cells});
  const uint8_t* data = source.const_data_ptr<uint8_t>();
  float* out = folded.mutable_data_ptr<float>();
  parallel_items(bits.size(0) * bits.size(1), h * w, [&](int64_t t) {
    std::vector<float> workspace(folder.workspace());
    std::vector<uint8_t> line(w);
    folder.start(workspace.data());
    int64_t count = 0;
    for (int64_t y = 0; y < h; ++y) {
      const uint8_t* packed = data + (t * h + y) * bytes;
      if (std::all_of(packed, packed + bytes, [](uint8_t byte) { return byte == 0; })) continue;
      unpack_line(packed, w, line.data());
      count += folder.add_bytes(y, line.data(), workspace.data());
    }
    folder.finish(workspace.data(), out + t * cells);
    area[t] = static_cast<float>(count);
  });
  return folded;
}

std::tuple<Tensor, Tensor> bits_pool_fwd(Tensor features, Tensor bits, Sizes size, double eps, bool allow_tf32,
                                         OptionalDtype out_dtype) {
  if (is_double(features)) {
    auto r = call_eager("bits_pool_fwd", 2, features, bits, size, eps, allow_tf32, out_dtype);
    return {r[0], r[1]};
  }
  const Features f(features);
  Tensor area = empty_floats(features, {bits.size(0), bits.size(1)});
  const Tensor folded = folded_bits(bits, size, f.height, f.width, area.mutable_data_ptr<float>());
  Tensor pooled = weights_by_features(folded, f);
  divide_rows(pooled, area, eps);
  return {as_dtype(pooled, out_dtype.value_or(features.scalar_type())), area};
}

Tensor bits_pool_bwd(Tensor grad, Tensor bits, Tensor area, Sizes size, double eps, bool allow_tf32,
                     Sizes feature_size, ScalarType dtype) {
  if (is_double(area)) {
    return call_eager("bits_pool_bwd", 1, grad, bits, area, size, eps, allow_tf32, feature_size, dtype)[0];
  }
  const int64_t height = feature_size[0], width = feature_size[1];
  Tensor counted = empty_floats(area, {area.size(0), area.size(1)});
  const Tensor folded = folded_bits(bits, size, height, width, counted.mutable_data_ptr<float>());
  Tensor scaled = torch::stable::clone(torch::stable::contiguous(as_float(grad)));
  divide_rows(scaled, torch::stable::contiguous(area), eps);
  const Tensor result = grad_by_weights(scaled, folded);
  return as_dtype(torch::stable::reshape(result, {grad.size(0), grad.size(2), height, width}), dtype);
}

// ---- run lengths ----------------------------------------------------------------------------------------------------

// Prefix sums of the tap weights of every cell along one axis, over the pixels that touch it.
class TapSums {
 public:
  TapSums(const Taps& taps, int64_t cells) : start_(cells, 0), offset_(cells + 1, 0) {
    const int64_t n = static_cast<int64_t>(taps.i0.size());
    std::vector<int64_t> end(cells, 0);
    int64_t cell = -1;
    for (int64_t i = 0; i < n; ++i) {
      for (; cell < taps.i1[i]; ++cell) start_[cell + 1] = i;  // the first pixel whose second tap reaches the cell
      end[taps.i0[i]] = i + 1;
      end[taps.i1[i]] = i + 1;
    }
    for (int64_t c = 0; c < cells; ++c) offset_[c + 1] = offset_[c] + std::max<int64_t>(0, end[c] - start_[c]) + 1;
    sums_.assign(offset_[cells], 0.0);
    for (int64_t c = 0; c < cells; ++c) {
      double sum = 0;
      for (int64_t i = start_[c]; i < end[c]; ++i) {
        if (taps.i0[i] == c) sum += 1.0 - static_cast<double>(taps.lam[i]);
        if (taps.i1[i] == c) sum += static_cast<double>(taps.lam[i]);
        sums_[offset_[c] + i - start_[c] + 1] = sum;
      }
    }
  }
  // Weight of pixels [begin, end) in a cell.
  double between(int64_t cell, int64_t begin, int64_t end) const { return up_to(cell, end) - up_to(cell, begin); }

 private:
  double up_to(int64_t cell, int64_t pixel) const {
    const int64_t size = offset_[cell + 1] - offset_[cell];
    return sums_[offset_[cell] + std::clamp<int64_t>(pixel - start_[cell], 0, size - 1)];
  }
  std::vector<int64_t> start_, offset_;
  std::vector<double> sums_;
};

// Folds rectangles of pixels of one mask: a run is at most three of them, and none is ever drawn.
class RunFolder {
 public:
  RunFolder(int64_t height, int64_t width, int64_t h, int64_t w)
      : folder_(height, width, h, w), rows_(folder_.rows(), height), columns_(folder_.columns(), width), h_(h), w_(w) {}

  // Adds pixels [begin, end) in column-major order.
  void add_run(int64_t begin, int64_t end, double* map) const {
    const int64_t x0 = begin / h_, x1 = (end - 1) / h_;
    const int64_t y0 = begin % h_, y1 = (end - 1) % h_ + 1;
    if (x0 == x1) return add(x0, x0 + 1, y0, y1, map);
    add(x0, x0 + 1, y0, h_, map);
    if (x1 > x0 + 1) add(x0 + 1, x1, 0, h_, map);
    add(x1, x1 + 1, 0, y1, map);
  }

 private:
  void add(int64_t x0, int64_t x1, int64_t y0, int64_t y1, double* map) const {
    const Taps &rows = folder_.rows(), &columns = folder_.columns();
    const int64_t width = folder_.width();
    for (int64_t y = rows.i0[y0]; y <= rows.i1[y1 - 1]; ++y) {
      const double row = rows_.between(y, y0, y1);
      for (int64_t x = columns.i0[x0]; x <= columns.i1[x1 - 1]; ++x) map[y * width + x] += row * columns_.between(x, x0, x1);
    }
  }
  Folder folder_;
  TapSums rows_, columns_;
  int64_t h_, w_;
};

std::tuple<Tensor, Tensor, Tensor> rle_pool_fwd(Tensor features, Tensor counts, Tensor offsets, Sizes size, double eps,
                                                bool allow_tf32, OptionalDtype out_dtype) {
  if (is_double(features)) {
    auto r = call_eager("rle_pool_fwd", 3, features, counts, offsets, size, eps, allow_tf32, out_dtype);
    return {r[0], r[1], r[2]};
  }
  const Features f(features);
  const int64_t masks = offsets.numel() - 1, queries = f.batch ? masks / f.batch : 0;
  const int64_t pixels = size[0] * size[1];
  const Tensor runs = torch::stable::contiguous(counts), starts = torch::stable::contiguous(offsets);
  const int64_t *run = runs.const_data_ptr<int64_t>(), *start = starts.const_data_ptr<int64_t>();
  Tensor area = empty_floats(features, {f.batch, queries}), folded = empty_floats(features, {f.batch, queries, f.pixels});
  float *areas = area.mutable_data_ptr<float>(), *out = folded.mutable_data_ptr<float>();
  const RunFolder folder(f.height, f.width, size[0], size[1]);
  const int64_t longest = masks ? counts.numel() / masks + 1 : 1;
  parallel_items(masks, 64 * longest + f.pixels, [&](int64_t t) {
    std::vector<double> map(f.pixels, 0.0);
    int64_t position = 0, set = 0;
    for (int64_t i = start[t]; i < start[t + 1] && position < pixels; ++i) {
      const int64_t end = std::min(position + run[i], pixels);
      const bool inside = (i - start[t]) % 2 == 1;
      if (inside && end > position) {
        folder.add_run(position, end, map.data());
        set += end - position;
      }
      position = end;
    }
    for (int64_t i = 0; i < f.pixels; ++i) out[t * f.pixels + i] = static_cast<float>(map[i]);
    areas[t] = static_cast<float>(set);
  });
  Tensor pooled = weights_by_features(folded, f);
  divide_rows(pooled, area, eps);
  return {as_dtype(pooled, out_dtype.value_or(features.scalar_type())), area, folded};
}

Tensor rle_to_bits(Tensor counts, Tensor offsets, Sizes size) {
  const Tensor runs = torch::stable::contiguous(counts), starts = torch::stable::contiguous(offsets);
  const int64_t *run = runs.const_data_ptr<int64_t>(), *start = starts.const_data_ptr<int64_t>();
  const int64_t masks = offsets.numel() - 1, h = size[0], w = size[1], bytes = ceil_div(w, 8);
  Tensor bits = torch::stable::new_zeros(counts, {masks, h, bytes}, ScalarType::Byte);
  uint8_t* out = bits.mutable_data_ptr<uint8_t>();
  parallel_items(masks, h * w / 8, [&](int64_t t) {
    int64_t position = 0;
    for (int64_t i = start[t]; i < start[t + 1] && position < h * w; ++i) {
      const int64_t end = std::min(position + run[i], h * w);
      if ((i - start[t]) % 2 == 1) {
        for (int64_t p = position; p < end; ++p) {
          const int64_t x = p / h, y = p % h;
          out[(t * h + y) * bytes + x / 8] |= static_cast<uint8_t>(1 << (x % 8));
        }
      }
      position = end;
    }
  });
  return bits;
}

}  // namespace mmseg_plugins::cpu
