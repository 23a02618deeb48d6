// Where mask values come from: tensors of any strides and number type, or packed bits; and their value at a resized pixel.
#pragma once

#include "index.h"
#include "numbers.h"

namespace mmseg_plugins::cuda {

// Masks (B, Q, h, w) as a tensor. Mask m = b * rows + q.
template <typename T>
struct MaskSource {
  const T* data;
  int64_t rows, batch_stride, row_stride, y_stride, x_stride;
  int height, width;

  MP_HD int64_t plane(int64_t m) const { return m / rows * batch_stride + m % rows * row_stride; }
  MP_HD float at(int64_t plane, int y, int x) const {
    return static_cast<float>(data[plane + y * y_stride + x * x_stride]);
  }
};

// Contiguous bit masks (M, h, ceil(w / 8)), least significant bit first. Padding bits are never asked for.
struct BitSource {
  const uint8_t* data;
  int64_t row_bytes;
  int height, width;

  MP_HD int64_t plane(int64_t m) const { return m * height * row_bytes; }
  MP_HD float at(int64_t plane, int y, int x) const {
    return (data[plane + y * row_bytes + (x >> 3)] >> (x & 7)) & 1 ? 1.0f : 0.0f;
  }
};

// A tap of weight 0 is left out: an infinite neighbour must not turn the value into NaN when nothing is resized.
MP_HD float blend(float low, float high, float lambda) {
  return lambda == 0.0f ? low : (1.0f - lambda) * low + lambda * high;
}

// Columns first, then rows, as the schema fixes it.
template <typename Source>
MP_HD float resized(const Source& source, int64_t plane, Tap y, Tap x) {
  const float top = blend(source.at(plane, y.low, x.low), source.at(plane, y.low, x.high), x.lambda);
  if (y.lambda == 0.0f) return top;
  const float bottom = blend(source.at(plane, y.high, x.low), source.at(plane, y.high, x.high), x.lambda);
  return blend(top, bottom, y.lambda);
}

// A feature grid of height x width pixels that masks are resized to.
struct Grid {
  int height, width;

  MP_HD int pixels() const { return height * width; }
};

template <typename Source>
MP_HD float resized_pixel(const Source& source, int64_t plane, Grid grid, int pixel) {
  const Tap y = bilinear_tap(pixel / grid.width, source.height, grid.height);
  const Tap x = bilinear_tap(pixel % grid.width, source.width, grid.width);
  return resized(source, plane, y, x);
}

// What becomes of a mask value; the numbers are those of the schema.
enum class Mode : int { hard, sigmoid, prob, gated, kmap };

MP_D float weight_of(Mode mode, float r, float threshold) {
  switch (mode) {
    case Mode::hard: return r > threshold ? 1.0f : 0.0f;  // false for NaN
    case Mode::gated: return r > threshold ? r : 0.0f;
    case Mode::prob: return r;
    default: return sigmoid(r);
  }
}

}  // namespace mmseg_plugins::cuda
