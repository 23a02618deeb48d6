#include "host.h"

#include <algorithm>

namespace mmseg_plugins::cpu {

Tensor as_dtype(const Tensor& tensor, ScalarType dtype) {
  return tensor.scalar_type() == dtype ? tensor : torch::stable::to(tensor, dtype);
}

Tensor as_float(const Tensor& tensor) { return as_dtype(tensor, ScalarType::Float); }

Tensor empty_floats(const Tensor& like, std::vector<int64_t> sizes) {
  return torch::stable::new_empty(like, sizes, ScalarType::Float);
}

Tensor zero_floats(const Tensor& like, std::vector<int64_t> sizes) {
  return torch::stable::new_zeros(like, sizes, ScalarType::Float);
}

// ---- features -------------------------------------------------------------------------------------------------------

static bool has_pixel_stride(const Tensor& t) {
  // One stride walks over all pixels: lines follow each other without a gap.
  return t.size(2) == 1 || t.size(3) == 1 || t.stride(2) == t.size(3) * t.stride(3);
}

Features::Features(const Tensor& features) : tensor(as_float(features)) {
  const bool rows_of_pixels = tensor.stride(3) == 1 || tensor.size(3) == 1;
  const bool rows_of_channels = tensor.stride(1) == 1 || tensor.size(1) == 1;
  if (!has_pixel_stride(tensor) || !(rows_of_pixels || rows_of_channels)) tensor = torch::stable::contiguous(tensor);
  batch = tensor.size(0);
  channels = tensor.size(1);
  height = tensor.size(2);
  width = tensor.size(3);
  pixels = height * width;
  batch_stride = tensor.stride(0);
  channel_stride = tensor.stride(1);
  pixel_stride = width == 1 ? tensor.stride(2) : tensor.stride(3);
  data = tensor.const_data_ptr<float>();
}

// (B, C, N) without a copy: the constructor has made sure that pixels have one stride.
static Tensor flat_pixels(const Features& f) { return torch::stable::reshape(f.tensor, {f.batch, f.channels, f.pixels}); }

// ---- products -------------------------------------------------------------------------------------------------------

Tensor weights_by_features(const Tensor& weights, const Features& features) {
  return torch::stable::contiguous(torch::stable::matmul(weights, torch::stable::transpose(flat_pixels(features), 1, 2)));
}

Tensor grad_by_weights(const Tensor& grad, const Tensor& weights) {
  return torch::stable::contiguous(torch::stable::matmul(torch::stable::transpose(grad, 1, 2), weights));
}

Tensor grad_by_features(const Tensor& grad, const Features& features) {
  return torch::stable::contiguous(torch::stable::matmul(grad, flat_pixels(features)));
}

void divide_rows(Tensor& rows, const Tensor& area, double eps) {
  const int64_t count = area.numel(), channels = rows.size(2);
  float* data = rows.mutable_data_ptr<float>();
  const float* areas = area.const_data_ptr<float>();
  parallel_items(count, channels, [&](int64_t i) {
    const float divisor = areas[i] + static_cast<float>(eps);
    for (int64_t c = 0; c < channels; ++c) data[i * channels + c] /= divisor;
  });
}

// ---- bit product ----------------------------------------------------------------------------------------------------

// Words are summed over this many pixels in one accumulator before they go to the result: long sums keep their digits.
constexpr int64_t kWordsPerBlock = 64;

// Turns (rows, words) into (words, rows), so that one word of all rows lies together.
static std::vector<uint32_t> transpose_words(const uint32_t* source, int64_t rows, int64_t words) {
  std::vector<uint32_t> result(rows * words);
  for (int64_t block = 0; block < words; block += 16) {
    const int64_t end = std::min(block + 16, words);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t w = block; w < end; ++w) result[w * rows + r] = source[r * words + w];
    }
  }
  return result;
}

Tensor bits_by_features(const uint32_t* words, int64_t rows, const Features& f, const Tensor& area, double eps) {
  const Kernels& k = kernels();
  const int64_t word_count = ceil_div(f.pixels, kTile), blocks = ceil_div(f.channels, kTile);
  Tensor pooled = empty_floats(f.tensor, {f.batch, rows, f.channels});
  float* out = pooled.mutable_data_ptr<float>();
  const float* areas = area.const_data_ptr<float>();
  std::vector<std::vector<uint32_t>> by_word(f.batch);
  parallel_items(f.batch, rows * word_count, [&](int64_t b) {
    by_word[b] = transpose_words(words + b * rows * word_count, rows, word_count);
  });
  // One task per image and block of channels: no task writes what another one does, and the order of the sums does not
  // depend on the number of threads.
  parallel_items(f.batch * blocks, rows * f.pixels, [&](int64_t task) {
    const int64_t b = task / blocks, channel = task % blocks * kTile;
    const int channels = static_cast<int>(std::min<int64_t>(kTile, f.channels - channel));
    Floats total(rows * kTile), part(rows * kTile), tile(kTile * kTile), tables(kTableFloats);
    const float* source = f.image(b) + channel * f.channel_stride;
    for (int64_t start = 0; start < word_count; start += kWordsPerBlock) {
      part.fill(0.0f);
      const int64_t end = std::min(start + kWordsPerBlock, word_count);
      for (int64_t w = start; w < end; ++w) {
        const int items = static_cast<int>(std::min<int64_t>(kTile, f.pixels - w * kTile));
        k.load_tile(source + w * kTile * f.pixel_stride, f.channel_stride, f.pixel_stride, channels, items, tile.data());
        k.build_tables(tile.data(), tables.data());
        k.lookup(tables.data(), by_word[b].data() + w * rows, rows, part.data());
      }
      for (int64_t i = 0; i < rows * kTile; ++i) total[i] += part[i];
    }
    for (int64_t r = 0; r < rows; ++r) {
      const float divisor = areas[b * rows + r] + static_cast<float>(eps);
      float* target = out + (b * rows + r) * f.channels + channel;
      for (int c = 0; c < channels; ++c) target[c] = total[r * kTile + c] / divisor;
    }
  });
  return pooled;
}

// Transposes a 32 x 32 matrix of bits: bit j of word i becomes bit i of word j.
static void transpose_bits(uint32_t* a) {
  uint32_t mask = 0x0000FFFFu;
  for (int j = 16; j != 0; j >>= 1, mask ^= mask << j) {
    for (int k = 0; k < 32; k = (k + j + 1) & ~j) {
      const uint32_t t = ((a[k] >> j) ^ a[k + j]) & mask;
      a[k] ^= t << j;
      a[k + j] ^= t;
    }
  }
}

// words (rows, words of pixels) -> (words of rows, pixels padded to whole words): the bits of 32 rows for every pixel.
static std::vector<uint32_t> words_by_row_group(const uint32_t* words, int64_t rows, int64_t word_count) {
  const int64_t groups = ceil_div(rows, kTile);
  std::vector<uint32_t> result(groups * word_count * kTile);
  for (int64_t g = 0; g < groups; ++g) {
    for (int64_t w = 0; w < word_count; ++w) {
      uint32_t* block = result.data() + (g * word_count + w) * kTile;
      for (int64_t i = 0; i < kTile; ++i) {
        const int64_t row = g * kTile + i;
        block[i] = row < rows ? words[row * word_count + w] : 0;
      }
      transpose_bits(block);
    }
  }
  return result;
}

Tensor grad_by_bits(const Tensor& grad, const uint32_t* words, int64_t pixels, const Tensor& area, double eps) {
  const Kernels& k = kernels();
  const int64_t batch = grad.size(0), rows = grad.size(1), channels = grad.size(2);
  const int64_t word_count = ceil_div(pixels, kTile), groups = ceil_div(rows, kTile), blocks = ceil_div(channels, kTile);
  const Tensor scaled_tensor = torch::stable::clone(grad);
  Tensor scaled = scaled_tensor;
  divide_rows(scaled, area, eps);
  const float* g = scaled.const_data_ptr<float>();
  Tensor result = empty_floats(grad, {batch, channels, pixels});
  float* out = result.mutable_data_ptr<float>();
  std::vector<std::vector<uint32_t>> by_group(batch);
  parallel_items(batch, rows * word_count, [&](int64_t b) {
    by_group[b] = words_by_row_group(words + b * rows * word_count, rows, word_count);
  });
  // The same tables as forwards, over rows instead of pixels: a pixel sums the gradients of the masks that hold it.
  constexpr int64_t kPixelsPerPass = 8 * kTile;
  parallel_items(batch * blocks, rows * pixels, [&](int64_t task) {
    const int64_t b = task / blocks, channel = task % blocks * kTile;
    const int width = static_cast<int>(std::min<int64_t>(kTile, channels - channel));
    Floats tables(groups * kTableFloats), tile(kTile * kTile), acc(kPixelsPerPass * kTile);
    for (int64_t group = 0; group < groups; ++group) {
      const int items = static_cast<int>(std::min<int64_t>(kTile, rows - group * kTile));
      k.load_tile(g + (b * rows + group * kTile) * channels + channel, 1, channels, width, items, tile.data());
      k.build_tables(tile.data(), tables.data() + group * kTableFloats);
    }
    for (int64_t start = 0; start < pixels; start += kPixelsPerPass) {
      const int64_t count = std::min(kPixelsPerPass, pixels - start);
      acc.fill(0.0f);
      for (int64_t group = 0; group < groups; ++group) {
        const uint32_t* row = by_group[b].data() + group * word_count * kTile + start;
        k.lookup(tables.data() + group * kTableFloats, row, count, acc.data());
      }
      for (int64_t p = 0; p < count; p += kTile) {
        const int items = static_cast<int>(std::min<int64_t>(kTile, count - p));
        k.store_tile(acc.data() + p * kTile, width, items, out + (b * channels + channel) * pixels + start + p, pixels);
      }
    }
  });
  return result;
}

}  // namespace mmseg_plugins::cpu
