// Pooling over label maps, and packing masks to bits.

#include <algorithm>
#include <cstring>

#include "ops.h"

namespace mmseg_plugins::cpu {

// Float sums go to the total after this many pixels: long sums keep their digits.
constexpr int64_t kPixelsPerBlock = 4096;

// Segment of every pixel as int32, with `segments` for pixels of no segment; and the number of pixels per segment.
static std::vector<int32_t> segment_index(const Tensor& labels, int64_t segments, int64_t ignore_index, float* area) {
  const Tensor wide = torch::stable::contiguous(as_dtype(labels, ScalarType::Long));
  const int64_t batch = labels.size(0), pixels = labels.size(1) * labels.size(2);
  const int64_t* data = wide.const_data_ptr<int64_t>();
  std::vector<int32_t> index(batch * pixels);
  parallel_items(batch, 2 * pixels, [&](int64_t b) {
    std::vector<int64_t> count(segments + 1, 0);
    for (int64_t i = b * pixels; i < (b + 1) * pixels; ++i) {
      const int64_t label = data[i];
      const bool inside = label >= 0 && label < segments && label != ignore_index;
      index[i] = static_cast<int32_t>(inside ? label : segments);
      ++count[index[i]];
    }
    if (area) {
      for (int64_t s = 0; s < segments; ++s) area[b * segments + s] = static_cast<float>(count[s]);
    }
  });
  return index;
}

// ---- labels on a finer grid -----------------------------------------------------------------------------------------

// A segment's weight on one cell of the feature grid, where it is not zero. Most cells touch few segments.
struct Entry {
  int32_t segment, cell;
  float weight;
};

// Folds the one-hot maps of one image, one line of cells at a time: only S x W weights exist together.
static std::vector<Entry> folded_entries(const int32_t* index, int64_t segments, const Folder& folder, int64_t h,
                                         int64_t w) {
  const int64_t height = folder.height(), width = folder.width();
  const Taps &rows = folder.rows(), &columns = folder.columns();
  std::vector<float> line((segments + 1) * width, 0.0f);
  std::vector<uint8_t> is_touched(segments + 1, 0);
  std::vector<int32_t> touched;
  std::vector<Entry> entries;
  int64_t first = 0;  // the first label line that may still matter
  for (int64_t cell_y = 0; cell_y < height; ++cell_y) {
    while (first < h && rows.i1[first] < cell_y) ++first;
    for (int64_t y = first; y < h && rows.i0[y] <= cell_y; ++y) {
      const float factor = (rows.i0[y] == cell_y ? 1.0f - rows.lam[y] : 0.0f) + (rows.i1[y] == cell_y ? rows.lam[y] : 0.0f);
      if (factor == 0.0f) continue;
      for (int64_t x = 0; x < w; ++x) {
        const int32_t s = index[y * w + x];
        if (s == segments) continue;
        if (!is_touched[s]) {
          is_touched[s] = 1;
          touched.push_back(s);
        }
        line[s * width + columns.i0[x]] += factor * (1.0f - columns.lam[x]);
        line[s * width + columns.i1[x]] += factor * columns.lam[x];
      }
    }
    for (const int32_t s : touched) {
      for (int64_t x = 0; x < width; ++x) {
        float& weight = line[s * width + x];
        if (weight != 0.0f) entries.push_back({s, static_cast<int32_t>(cell_y * width + x), weight});
        weight = 0.0f;
      }
      is_touched[s] = 0;
    }
    touched.clear();
  }
  return entries;
}

// Copies kLabelChannels channels of some cells, one after the other.
static void gather_channels(const Features& f, const float* source, int channels, Floats& cells) {
  for (int64_t p = 0; p < f.pixels; ++p) {
    for (int c = 0; c < kLabelChannels; ++c) {
      cells[p * kLabelChannels + c] = c < channels ? source[c * f.channel_stride + p * f.pixel_stride] : 0.0f;
    }
  }
}

// Sums of one image and block of channels: total (S, kLabelChannels), by pixels or by folded entries.
static void sum_pixels(const Features& f, const float* source, int channels, const int32_t* index, int64_t segments,
                       float* total) {
  const int64_t size = (segments + 1) * kLabelChannels, block = std::max(kPixelsPerBlock, 2 * segments);
  Floats part(size);
  for (int64_t start = 0; start < f.pixels; start += block) {
    part.fill(0.0f);
    kernels().scatter(source + start * f.pixel_stride, f.channel_stride, f.pixel_stride, channels, index + start,
                      std::min(block, f.pixels - start), part.data());
    for (int64_t i = 0; i < segments * kLabelChannels; ++i) total[i] += part[i];
  }
}

static void sum_entries(const Features& f, const float* source, int channels, const std::vector<Entry>& entries,
                        float* total) {
  Floats cells(f.pixels * kLabelChannels);
  gather_channels(f, source, channels, cells);
  for (const Entry& entry : entries) {
    kernels().add_scaled(entry.weight, cells.data() + int64_t(entry.cell) * kLabelChannels, kLabelChannels,
                         total + int64_t(entry.segment) * kLabelChannels);
  }
}

static std::vector<std::vector<Entry>> entries_of(const std::vector<int32_t>& index, const Tensor& labels,
                                                  int64_t segments, int64_t height, int64_t width) {
  const int64_t batch = labels.size(0), h = labels.size(1), w = labels.size(2);
  const Folder folder(height, width, h, w);
  std::vector<std::vector<Entry>> entries(batch);
  parallel_items(batch, 8 * h * w,
                 [&](int64_t b) { entries[b] = folded_entries(index.data() + b * h * w, segments, folder, h, w); });
  return entries;
}

std::tuple<Tensor, Tensor> label_pool_fwd(Tensor features, Tensor labels, int64_t num_segments, int64_t ignore_index,
                                          double eps, bool allow_tf32, OptionalDtype out_dtype) {
  if (is_double(features)) {
    auto r = call_eager("label_pool_fwd", 2, features, labels, num_segments, ignore_index, eps, allow_tf32, out_dtype);
    return {r[0], r[1]};
  }
  const Features f(features);
  const int64_t h = labels.size(1), w = labels.size(2), blocks = ceil_div(f.channels, kLabelChannels);
  Tensor area = empty_floats(features, {f.batch, num_segments});
  const std::vector<int32_t> index = segment_index(labels, num_segments, ignore_index, area.mutable_data_ptr<float>());
  const bool same = h == f.height && w == f.width;
  const auto entries = same ? std::vector<std::vector<Entry>>(f.batch)
                            : entries_of(index, labels, num_segments, f.height, f.width);
  Tensor pooled = empty_floats(features, {f.batch, num_segments, f.channels});
  float* out = pooled.mutable_data_ptr<float>();
  const float* areas = area.const_data_ptr<float>();
  parallel_items(f.batch * blocks, kLabelChannels * f.pixels, [&](int64_t task) {
    const int64_t b = task / blocks, channel = task % blocks * kLabelChannels;
    const int channels = static_cast<int>(std::min<int64_t>(kLabelChannels, f.channels - channel));
    const float* source = f.image(b) + channel * f.channel_stride;
    Floats total((num_segments + 1) * kLabelChannels);
    if (same) {
      sum_pixels(f, source, channels, index.data() + b * h * w, num_segments, total.data());
    } else {
      sum_entries(f, source, channels, entries[b], total.data());
    }
    for (int64_t s = 0; s < num_segments; ++s) {
      const float divisor = areas[b * num_segments + s] + static_cast<float>(eps);
      float* target = out + (b * num_segments + s) * f.channels + channel;
      for (int c = 0; c < channels; ++c) target[c] = total[s * kLabelChannels + c] / divisor;
    }
  });
  return {as_dtype(pooled, out_dtype.value_or(features.scalar_type())), area};
}

Tensor label_pool_bwd(Tensor grad, Tensor labels, Tensor area, int64_t ignore_index, double eps, bool allow_tf32,
                      Sizes feature_size, ScalarType dtype) {
  if (is_double(area)) {
    return call_eager("label_pool_bwd", 1, grad, labels, area, ignore_index, eps, allow_tf32, feature_size, dtype)[0];
  }
  const int64_t batch = grad.size(0), segments = grad.size(1), channels = grad.size(2);
  const int64_t height = feature_size[0], width = feature_size[1], cells = height * width;
  const int64_t h = labels.size(1), w = labels.size(2);
  Tensor scaled = torch::stable::clone(torch::stable::contiguous(as_float(grad)));
  divide_rows(scaled, torch::stable::contiguous(area), eps);
  const std::vector<int32_t> index = segment_index(labels, segments, ignore_index, nullptr);
  const bool same = h == height && w == width;
  const auto entries = same ? std::vector<std::vector<Entry>>(batch) : entries_of(index, labels, segments, height, width);
  Tensor result = zero_floats(grad, {batch, channels, height, width});
  const float* g = scaled.const_data_ptr<float>();
  float* out = result.mutable_data_ptr<float>();
  parallel_items(batch * channels, cells, [&](int64_t plane) {
    const int64_t b = plane / channels, c = plane % channels;
    // One column of the gradient, with a zero for pixels of no segment.
    std::vector<float> column(segments + 1, 0.0f);
    for (int64_t s = 0; s < segments; ++s) column[s] = g[(b * segments + s) * channels + c];
    float* target = out + plane * cells;
    if (same) {
      for (int64_t p = 0; p < cells; ++p) target[p] = column[index[b * cells + p]];
    } else {
      for (const Entry& entry : entries[b]) target[entry.cell] += entry.weight * column[entry.segment];
    }
  });
  return as_dtype(result, dtype);
}

// ---- packing --------------------------------------------------------------------------------------------------------

Tensor pack_bits(Tensor masks, double threshold) {
  if (is_double(masks)) return call_eager("pack_bits", 1, masks, threshold)[0];
  const Tensor source = torch::stable::contiguous(masks);
  std::vector<int64_t> sizes(source.sizes().begin(), source.sizes().end());
  const int64_t w = sizes.back(), bytes = ceil_div(w, 8), lines = w ? source.numel() / w : 0;
  sizes.back() = bytes;
  Tensor bits = torch::stable::new_empty(source, sizes, ScalarType::Byte);
  if (lines == 0) return bits;
  uint8_t* out = bits.mutable_data_ptr<uint8_t>();
  const MaskReader reader(torch::stable::reshape(source, {lines, 1, w}), 1, w);
  parallel_items(lines, w, [&](int64_t i) {
    std::vector<float> buffer(w);
    std::vector<uint32_t> words(ceil_div(w, kTile));
    kernels().pack_greater(reader.plane(i, buffer.data()), w, static_cast<float>(threshold), words.data());
    std::memcpy(out + i * bytes, words.data(), bytes);  // little endian: byte j of a word holds its pixels 8j..8j+7
  });
  return bits;
}

}  // namespace mmseg_plugins::cpu
