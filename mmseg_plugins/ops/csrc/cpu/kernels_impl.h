// The loops behind kernels.h. Included by kernels_<set>.cpp inside a namespace of its own; see simd.h.

// Sums run in float over this many values at most, and go on in double: keeps long sums within a few ulp.
constexpr int64_t SUM_BLOCK = 1024;

// ---- phi ------------------------------------------------------------------------------------------------------------

static uint32_t word_of(const float* r, int n, float threshold) {
  uint32_t word = 0;
  int i = 0;
  for (; i + LANES <= n; i += LANES) word |= greater_bits(load(r + i), splat(threshold)) << i;
  for (; i < n; ++i) word |= static_cast<uint32_t>(r[i] > threshold) << i;
  return word;
}

static int64_t pack_greater(const float* r, int64_t n, float threshold, uint32_t* words) {
  int64_t count = 0;
  for (int64_t i = 0; i < n; i += kTile) {
    const int64_t left = n - i;
    const uint32_t word = word_of(r + i, left < kTile ? static_cast<int>(left) : kTile, threshold);
    words[i / kTile] = word;
    count += __builtin_popcount(word);
  }
  return count;
}

static int64_t hard(const float* r, int64_t n, float threshold, float* weights) {
  int64_t count = 0;
  for (int64_t i = 0; i < n; ++i) {
    const bool inside = r[i] > threshold;
    weights[i] = inside ? 1.0f : 0.0f;
    count += inside;
  }
  return count;
}

// Runs `body(offset, count)` over vectors; the last one may be partial.
template <typename Body>
static inline __attribute__((always_inline)) void for_vectors(int64_t n, const Body& body) {
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES) body(i, LANES);
  if (i < n) body(i, static_cast<int>(n - i));
}

static inline vf load_up_to(const float* p, int n, float fill) { return n == LANES ? load(p) : load_some(p, n, fill); }
static inline void store_up_to(float* p, vf v, int n) {
  if (n == LANES) {
    store(p, v);
  } else {
    store_some(p, v, n);
  }
}

// Sums what `value(offset, count)` gives; it must give 0 in the lanes behind `count`.
template <typename Value>
static inline __attribute__((always_inline)) double sum_of(int64_t n, const Value& value) {
  double total = 0;
  for (int64_t start = 0; start < n; start += SUM_BLOCK) {
    const int64_t length = n - start < SUM_BLOCK ? n - start : SUM_BLOCK;
    vf part = vf{};
    for_vectors(length, [&](int64_t i, int count) { part += value(start + i, count); });
    total += sum_lanes(part);
  }
  return total;
}

static inline vf zero_behind(vf v, int count) {
  if (count == LANES) return v;
  vi index;
  for (int i = 0; i < LANES; ++i) index[i] = i;
  return select(index < splat_int(count), v, vf{});
}

static double gate(const float* r, int64_t n, float threshold, float* weights) {
  return sum_of(n, [&](int64_t i, int count) {
    const vf x = load_up_to(r + i, count, 0.0f);
    const vf w = zero_behind(select(x > splat(threshold), x, vf{}), count);
    store_up_to(weights + i, w, count);
    return w;
  });
}

static double sigmoid(const float* r, int64_t n, float* weights) {
  return sum_of(n, [&](int64_t i, int count) {
    const vf w = zero_behind(sigmoid_of(load_up_to(r + i, count, 0.0f)), count);
    store_up_to(weights + i, w, count);
    return w;
  });
}

static double sum(const float* values, int64_t n) {
  return sum_of(n, [&](int64_t i, int count) { return load_up_to(values + i, count, 0.0f); });
}

static double dot(const float* x, const float* y, int64_t n) {
  return sum_of(n, [&](int64_t i, int count) { return load_up_to(x + i, count, 0.0f) * load_up_to(y + i, count, 0.0f); });
}

static float maximum(const float* r, int64_t n) {
  // NaN is passed over here; it comes out again with the weights.
  vf best = splat(r[0] == r[0] ? r[0] : -3.4e38f);
  for_vectors(n, [&](int64_t i, int count) {
    const vf x = load_up_to(r + i, count, r[0]);
    best = select(x > best, x, best);
  });
  float buffer[LANES];
  store(buffer, best);
  float result = buffer[0];
  for (int i = 1; i < LANES; ++i) result = buffer[i] > result ? buffer[i] : result;
  return result;
}

static double kmap(const float* r, int64_t n, float* weights, double* stats) {
  const float peak = maximum(r, n);
  const double x = peak;
  stats[0] = (x < 0 ? x : 0.0) - __builtin_log1p(__builtin_exp(x < 0 ? x : -x));
  double area;
  if (peak < -60.0f) {
    // sigmoid(r) is exp(r) here to far below rounding, and exp(r - peak) cannot underflow for what matters.
    stats[1] = sum_of(n, [&](int64_t i, int count) {
      const vf w = zero_behind(exp_of(load_up_to(r + i, count, 0.0f) - splat(peak)), count);
      store_up_to(weights + i, w, count);
      return w;
    });
    area = stats[1] * __builtin_exp(stats[0]);
  } else {
    const double at_peak = __builtin_exp(stats[0]);
    area = sigmoid(r, n, weights);
    const float inverse = static_cast<float>(1.0 / at_peak);
    for_vectors(n, [&](int64_t i, int count) {
      store_up_to(weights + i, load_up_to(weights + i, count, 0.0f) * splat(inverse), count);
    });
    stats[1] = area / at_peak;
  }
  return area;
}

static void add_scaled(float factor, const float* x, int64_t n, float* y) {
  for_vectors(n, [&](int64_t i, int count) {
    store_up_to(y + i, fma(splat(factor), load_up_to(x + i, count, 0.0f), load_up_to(y + i, count, 0.0f)), count);
  });
}

// ---- resizing -------------------------------------------------------------------------------------------------------

static void mix(const float* a, const float* b, const float* c, const float* d, const float* lam_x, float lam_y,
                int64_t n, float* out) {
  const vf one = splat(1.0f), low_y = splat(1.0f - lam_y), high_y = splat(lam_y);
  for_vectors(n, [&](int64_t i, int count) {
    const vf high_x = load_up_to(lam_x + i, count, 0.0f), low_x = one - high_x;
    const vf upper = fma(load_up_to(a + i, count, 0.0f), low_x, load_up_to(b + i, count, 0.0f) * high_x);
    const vf lower = fma(load_up_to(c + i, count, 0.0f), low_x, load_up_to(d + i, count, 0.0f) * high_x);
    store_up_to(out + i, fma(upper, low_y, lower * high_y), count);
  });
}

static void spread(const float* row, int64_t n, float w_upper, float w_lower, float* upper, float* lower) {
  for_vectors(n, [&](int64_t i, int count) {
    const vf x = load_up_to(row + i, count, 0.0f);
    store_up_to(upper + i, fma(splat(w_upper), x, load_up_to(upper + i, count, 0.0f)), count);
    store_up_to(lower + i, fma(splat(w_lower), x, load_up_to(lower + i, count, 0.0f)), count);
  });
}

static int64_t spread_bytes(const uint8_t* row, int64_t n, float w_upper, float w_lower, float* upper, float* lower) {
  int64_t set = 0;
  int64_t i = 0;
  for (; i + 64 <= n; i += 64) {
    uint64_t eight[8], any = 0;
    __builtin_memcpy(eight, row + i, 64);
    for (int k = 0; k < 8; ++k) any |= eight[k];
    if (any == 0) continue;  // most of a mask is empty
    int count = 0;
    for (int k = 0; k < 64; ++k) {
      const float x = row[i + k];
      count += row[i + k];
      upper[i + k] += w_upper * x;
      lower[i + k] += w_lower * x;
    }
    set += count;
  }
  for (; i < n; ++i) {
    set += row[i];
    upper[i] += w_upper * row[i];
    lower[i] += w_lower * row[i];
  }
  return set;
}

// ---- bit product ----------------------------------------------------------------------------------------------------
//
// acc[i] += sum of the tile rows whose bit is set in words[i]. Four bits have 16 possible sums, so these are made once
// per tile and then looked up: a quarter of the additions of a product, and no multiplication.

constexpr int VECTORS = kTile / LANES;

#if defined(__GNUC__) && !defined(__clang__)
#define MP_HAS_SHUFFLE 1
// Transposes LANES x LANES values in registers: swaps blocks of 1, 2, 4, ... lanes between rows that far apart.
static inline __attribute__((always_inline)) void transpose(vf* v) {
#pragma GCC unroll 4
  for (int d = 1; d < LANES; d *= 2) {
    vi low, high;
    for (int j = 0; j < LANES; ++j) {
      low[j] = (j & d) ? j - d + LANES : j;
      high[j] = (j & d) ? j + LANES : j + d;
    }
#pragma GCC unroll 16
    for (int i = 0; i < LANES; ++i) {
      if (i & d) continue;
      const vf a = v[i], b = v[i + d];
      v[i] = __builtin_shuffle(a, b, low);
      v[i + d] = __builtin_shuffle(a, b, high);
    }
  }
}
#endif

static void load_tile(const float* source, int64_t channel_stride, int64_t item_stride, int channels, int items,
                      float* tile) {
  if (channels == kTile && items == kTile) {
    if (channel_stride == 1) {  // channels-last: every row of the tile is already there
      for (int j = 0; j < kTile; ++j) __builtin_memcpy(tile + j * kTile, source + j * item_stride, kTile * sizeof(float));
      return;
    }
#if defined(MP_HAS_SHUFFLE)
    if (item_stride == 1) {
      for (int c = 0; c < kTile; c += LANES) {
        for (int j = 0; j < kTile; j += LANES) {
          vf block[LANES];
#pragma GCC unroll 16
          for (int k = 0; k < LANES; ++k) block[k] = load(source + (c + k) * channel_stride + j);
          transpose(block);
#pragma GCC unroll 16
          for (int k = 0; k < LANES; ++k) store(tile + (j + k) * kTile + c, block[k]);
        }
      }
      return;
    }
#endif
  }
  for (int j = 0; j < kTile; ++j) {
    for (int c = 0; c < kTile; ++c) {
      tile[j * kTile + c] = c < channels && j < items ? source[c * channel_stride + j * item_stride] : 0.0f;
    }
  }
}

static void store_tile(const float* tile, int channels, int items, float* target, int64_t channel_stride) {
#if defined(MP_HAS_SHUFFLE)
  if (channels == kTile && items == kTile) {
    for (int j = 0; j < kTile; j += LANES) {
      for (int c = 0; c < kTile; c += LANES) {
        vf block[LANES];
#pragma GCC unroll 16
        for (int k = 0; k < LANES; ++k) block[k] = load(tile + (j + k) * kTile + c);
        transpose(block);
#pragma GCC unroll 16
        for (int k = 0; k < LANES; ++k) store(target + (c + k) * channel_stride + j, block[k]);
      }
    }
    return;
  }
#endif
  for (int c = 0; c < channels; ++c) {
    for (int j = 0; j < items; ++j) target[c * channel_stride + j] = tile[j * kTile + c];
  }
}

static void build_tables(const float* tile, float* tables) {
  for (int group = 0; group < kGroups; ++group) {
    const float* rows = tile + group * 4 * kTile;
    float* table = tables + group * 16 * kTile;
    for (int v = 0; v < VECTORS; ++v) {
      vf sums[16];
      sums[0] = vf{};
#pragma GCC unroll 4
      for (int bit = 0; bit < 4; ++bit) {
        const vf x = load(rows + bit * kTile + v * LANES);
#pragma GCC unroll 8
        for (int k = 0; k < (1 << bit); ++k) sums[(1 << bit) + k] = sums[k] + x;
      }
#pragma GCC unroll 16
      for (int k = 0; k < 16; ++k) store(table + k * kTile + v * LANES, sums[k]);
    }
  }
}

static void lookup(const float* tables, const uint32_t* words, int64_t rows, float* acc) {
  for (int64_t i = 0; i < rows; ++i, acc += kTile) {
    const uint32_t word = words[i];
    if (word == 0) continue;
    vf even[VECTORS], odd[VECTORS];
#pragma GCC unroll 8
    for (int v = 0; v < VECTORS; ++v) {
      even[v] = load(tables + (word & 15) * kTile + v * LANES);
      odd[v] = load(tables + (16 + ((word >> 4) & 15)) * kTile + v * LANES);
    }
#pragma GCC unroll 4
    for (int group = 2; group < kGroups; group += 2) {
      const float* first = tables + (group * 16 + ((word >> (4 * group)) & 15)) * kTile;
      const float* second = tables + (group * 16 + 16 + ((word >> (4 * group + 4)) & 15)) * kTile;
#pragma GCC unroll 8
      for (int v = 0; v < VECTORS; ++v) {
        even[v] += load(first + v * LANES);
        odd[v] += load(second + v * LANES);
      }
    }
#pragma GCC unroll 8
    for (int v = 0; v < VECTORS; ++v) store(acc + v * LANES, load(acc + v * LANES) + (even[v] + odd[v]));
  }
}

// ---- label sums -----------------------------------------------------------------------------------------------------

static void add_pixel(const float* values, float* sums) {
  for (int v = 0; v < kLabelChannels; v += LANES) store(sums + v, load(sums + v) + load(values + v));
}

static void scatter(const float* source, int64_t channel_stride, int64_t pixel_stride, int channels,
                    const int32_t* index, int64_t pixels, float* acc) {
  int64_t p = 0;
  alignas(64) float values[kLabelChannels * kLabelChannels];
#if defined(MP_HAS_SHUFFLE)
  if (channels == kLabelChannels && pixel_stride == 1) {
    for (; p + kLabelChannels <= pixels; p += kLabelChannels) {
      for (int j = 0; j < kLabelChannels; j += LANES) {
        for (int c = 0; c < kLabelChannels; c += LANES) {
          vf block[LANES];
#pragma GCC unroll 16
          for (int k = 0; k < LANES; ++k) block[k] = load(source + (c + k) * channel_stride + p + j);
          transpose(block);
#pragma GCC unroll 16
          for (int k = 0; k < LANES; ++k) store(values + (j + k) * kLabelChannels + c, block[k]);
        }
      }
      for (int j = 0; j < kLabelChannels; ++j) {
        add_pixel(values + j * kLabelChannels, acc + int64_t(index[p + j]) * kLabelChannels);
      }
    }
  }
#endif
  for (; p < pixels; ++p) {
    for (int c = 0; c < kLabelChannels; ++c) {
      values[c] = c < channels ? source[c * channel_stride + p * pixel_stride] : 0.0f;
    }
    add_pixel(values, acc + int64_t(index[p]) * kLabelChannels);
  }
}

// ---- gradients to masks ---------------------------------------------------------------------------------------------

static void sigmoid_gradient(const float* r, const float* dots, float centre, float factor, int64_t n, float* out) {
  for_vectors(n, [&](int64_t i, int count) {
    const vf x = load_up_to(r + i, count, 0.0f);
    const vf slope = sigmoid_of(x) * sigmoid_of(-x);
    store_up_to(out + i, slope * (load_up_to(dots + i, count, 0.0f) - splat(centre)) * splat(factor), count);
  });
}

static void kmap_gradient(const float* r, const float* weights, const float* dots, float factor, float norm,
                          float centre, int64_t n, float* out) {
  for_vectors(n, [&](int64_t i, int count) {
    const vf v = load_up_to(weights + i, count, 0.0f) * splat(norm);
    const vf slope = sigmoid_of(-load_up_to(r + i, count, 0.0f));
    store_up_to(out + i, v * slope * (load_up_to(dots + i, count, 0.0f) * splat(factor) - splat(centre)), count);
  });
}
