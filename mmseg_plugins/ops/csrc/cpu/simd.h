// One vector type for three instruction sets. Included once per set, inside its own namespace and compiled for it
// (kernels_avx512.cpp, kernels_avx2.cpp, kernels_base.cpp); nothing here may be used from ordinary sources.
//
// GCC and Clang vector extensions carry the arithmetic; intrinsics appear only where the language has no word:
// fused multiply-add, comparison to bits, permutation. Contraction is off in the build, so fma() is the only place
// where a product and a sum round once. That matters: label maps must carry torch's own rounding.

#if defined(MP_AVX512)
#define MP_LANES 16
#elif defined(MP_AVX2)
#define MP_LANES 8
#else
#define MP_LANES 4
#endif

typedef float vf __attribute__((vector_size(MP_LANES * 4)));
typedef int32_t vi __attribute__((vector_size(MP_LANES * 4)));

constexpr int LANES = MP_LANES;

static inline vf load(const float* p) {
  vf v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}
static inline void store(float* p, vf v) { __builtin_memcpy(p, &v, sizeof(v)); }
static inline vi load_int(const int32_t* p) {
  vi v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}
static inline void store_int(int32_t* p, vi v) { __builtin_memcpy(p, &v, sizeof(v)); }
static inline vf splat(float x) { return x - vf{}; }
static inline vi splat_int(int32_t x) { return x - vi{}; }
static inline vf select(vi condition, vf yes, vf no) { return condition ? yes : no; }
static inline vi select_int(vi condition, vi yes, vi no) { return condition ? yes : no; }

// Loads the first n < LANES values and fills the rest.
static inline vf load_some(const float* p, int n, float fill) {
  float buffer[LANES];
  for (int i = 0; i < LANES; ++i) buffer[i] = i < n ? p[i] : fill;
  return load(buffer);
}
static inline void store_some(float* p, vf v, int n) {
  float buffer[LANES];
  store(buffer, v);
  for (int i = 0; i < n; ++i) p[i] = buffer[i];
}

#if defined(MP_AVX512)
static inline vf fma(vf a, vf b, vf c) { return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
static inline uint32_t greater_bits(vf a, vf b) { return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_GT_OQ); }
static inline vf permute(vf table, vi index) { return (vf)_mm512_maskz_permutexvar_ps(0xFFFF, (__m512i)index, (__m512)table); }
#elif defined(MP_AVX2)
static inline vf fma(vf a, vf b, vf c) { return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
static inline uint32_t greater_bits(vf a, vf b) {
  return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps((__m256)a, (__m256)b, _CMP_GT_OQ)));
}
static inline vf permute(vf table, vi index) { return (vf)_mm256_permutevar8x32_ps((__m256)table, (__m256i)index); }
#else
static inline vf fma(vf a, vf b, vf c) { return a * b + c; }
static inline uint32_t greater_bits(vf a, vf b) {
  uint32_t bits = 0;
  for (int i = 0; i < LANES; ++i) bits |= static_cast<uint32_t>(a[i] > b[i]) << i;
  return bits;
}
static inline vf permute(vf table, vi index) {
  vf v;
  for (int i = 0; i < LANES; ++i) v[i] = table[index[i]];
  return v;
}
#endif

static inline float sum_lanes(vf v) {
  // Halves, then halves again: the same order on every run.
  float buffer[LANES];
  store(buffer, v);
  for (int width = LANES / 2; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) buffer[i] += buffer[i + width];
  }
  return buffer[0];
}

// exp to within 2 ulp, gradual underflow below -87, 0 below -104, NaN stays NaN. Cody-Waite reduction, degree-6 polynomial.
static inline vf exp_of(vf x) {
  const vf lowest = splat(-104.0f), highest = splat(88.7f);
  x = select(x < lowest, lowest, x);
  x = select(x > highest, highest, x);
  const vf magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const vf n = fma(x, splat(1.44269504f), magic) - magic;
  vf r = fma(n, splat(-0.693359375f), x);
  r = fma(n, splat(2.12194440e-4f), r);
  vf p = splat(1.9875691500e-4f);
  p = fma(p, r, splat(1.3981999507e-3f));
  p = fma(p, r, splat(8.3334519073e-3f));
  p = fma(p, r, splat(4.1665795894e-2f));
  p = fma(p, r, splat(1.6666665459e-1f));
  p = fma(p, r, splat(5.0000001201e-1f));
  p = fma(p * r, r, r) + splat(1.0f);
  // 2^n in two factors, because 2^-150 is no float.
  const vi k = __builtin_convertvector(select(n == n, n, vf{}), vi);
  const vi half = k >> 1;
  const vf scale = (vf)((half + 127) << 23), rest = (vf)((k - half + 127) << 23);
  return p * scale * rest;
}

// 1 / (1 + exp(-r)) without overflow on either side.
static inline vf sigmoid_of(vf r) {
  const vf e = exp_of(select(r < vf{}, r, -r));
  const vf denominator = splat(1.0f) + e;
  return select(r < vf{}, e, select(r == r, splat(1.0f), r)) / denominator;
}
