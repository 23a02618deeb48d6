// Best class per pixel, the loops behind kernels.h. Included like kernels_impl.h.
//
// A few vectors of pixels keep their best score and label in registers while the classes go by. Where the scores come
// from (interpolated on the fly, or read) is a template argument.

constexpr int PIXEL_VECTORS = 4;
constexpr int TILE_PIXELS = PIXEL_VECTORS * LANES;

// Scores between two lines whose columns are already interpolated: both lines of row n are at lines + 2 n TILE_PIXELS.
struct BetweenLines {
  const float* lines;
  vf upper, lower;
  vf operator()(int64_t row, int v) const {
    const float* p = lines + row * 2 * TILE_PIXELS + v * LANES;
    return fma(load(p), upper, load(p + TILE_PIXELS) * lower);
  }
};

// Scores that are stored; pixels behind the last one are never written back.
struct Stored {
  const float* scores;
  int64_t stride;
  int pixels;
  vf operator()(int64_t row, int v) const {
    const float* p = scores + row * stride + v * LANES;
    const int left = pixels - v * LANES;
    return left >= LANES ? load(p) : load_some(p, left < 0 ? 0 : left, 0.0f);
  }
};

struct Best {
  vf score[PIXEL_VECTORS];
  vi index[PIXEL_VECTORS];
  vf second[PIXEL_VECTORS];
};

static inline __attribute__((always_inline)) void compete(Best& best, int v, vf x, int32_t index, bool want_second) {
  const vi better = x > best.score[v];
  if (want_second) {
    const vf loser = select(better, best.score[v], x);
    best.second[v] = select(loser > best.second[v], loser, best.second[v]);
  }
  best.score[v] = select(better, x, best.score[v]);
  best.index[v] = select_int(better, splat_int(index), best.index[v]);
}

// The score of one class: that of its row, or the largest of its rows.
template <bool Grouped, typename Scores>
static inline __attribute__((always_inline)) vf class_score(const Scores& scores, const int32_t* start, int64_t k,
                                                           int v) {
  if (!Grouped) return scores(k, v);
  vf x = scores(start[k], v);
  for (int32_t row = start[k] + 1; row < start[k + 1]; ++row) {
    const vf y = scores(row, v);
    x = select(y > x, y, x);
  }
  return x;
}

template <bool Grouped, bool Second, typename Scores>
static inline __attribute__((always_inline)) void find_best(const Scores& scores, const int32_t* start,
                                                           int64_t classes, Best& best) {
#pragma GCC unroll 4
  for (int v = 0; v < PIXEL_VECTORS; ++v) {
    best.score[v] = class_score<Grouped>(scores, start, 0, v);
    best.index[v] = vi{};
    best.second[v] = splat(-__builtin_inff());
  }
  for (int64_t k = 1; k < classes; ++k) {
#pragma GCC unroll 4
    for (int v = 0; v < PIXEL_VECTORS; ++v) {
      compete(best, v, class_score<Grouped>(scores, start, k, v), static_cast<int32_t>(k), Second);
    }
  }
}

// Softmax probability of the best score, over `count` scores that `term(k, v)` gives.
template <typename Term>
static inline __attribute__((always_inline)) vf probability_of(int64_t count, vf best, float scale, int v,
                                                              const Term& term) {
  vf total = vf{};
  for (int64_t k = 0; k < count; ++k) total += exp_of((term(k, v) - best) * splat(scale));
  return splat(1.0f) / total;
}

struct Outputs {
  int64_t* labels;
  float* score;
  float* margin;
  float* probability;
};

template <bool Grouped, typename Scores>
static inline __attribute__((always_inline)) void reduce_pixels(const Scores& scores, const int32_t* start,
                                                               const int64_t* class_label, int64_t classes,
                                                               int64_t rows, bool softmax_rows, float scale,
                                                               const Outputs& out, int64_t offset, int pixels) {
  Best best;
  if (out.margin) {
    find_best<Grouped, true>(scores, start, classes, best);
  } else {
    find_best<Grouped, false>(scores, start, classes, best);
  }
  for (int v = 0; v < PIXEL_VECTORS; ++v) {
    const int left = pixels - v * LANES;
    if (left <= 0) return;
    const int count = left < LANES ? left : LANES;
    int32_t index[LANES];
    store_int(index, best.index[v]);
    const int64_t at = offset + v * LANES;
    for (int i = 0; i < count; ++i) out.labels[at + i] = class_label ? class_label[index[i]] : index[i];
    if (out.score) store_up_to(out.score + at, best.score[v], count);
    if (out.margin) store_up_to(out.margin + at, best.score[v] - best.second[v], count);
    if (!out.probability) continue;
    const vf p = Grouped && !softmax_rows
                     ? probability_of(classes, best.score[v], scale, v,
                                      [&](int64_t k, int u) { return class_score<Grouped>(scores, start, k, u); })
                     : probability_of(rows, best.score[v], scale, v, [&](int64_t n, int u) { return scores(n, u); });
    store_up_to(out.probability + at, p, count);
  }
}

// ---- columns of a tile ----------------------------------------------------------------------------------------------

// How the LANES pixels from x on read a line: one load and two permutations if their sources lie close together.
struct Columns {
  int64_t base;  // -1: read one by one
  vi first, second;
  vf low, high;
  int64_t x;
  int count;
};

static Columns plan_columns(const UpsampleJob& job, int64_t x) {
  Columns plan;
  plan.x = x;
  plan.count = job.width - x < LANES ? static_cast<int>(job.width - x) : LANES;
  int64_t base = job.x0[x];
  if (base > job.width_in - LANES) base = job.width_in - LANES;
  for (int i = 0; i < LANES; ++i) {
    const int64_t at = x + (i < plan.count ? i : plan.count - 1);
    plan.first[i] = static_cast<int32_t>(job.x0[at] - base);
    plan.second[i] = static_cast<int32_t>(job.x1[at] - base);
    plan.high[i] = job.lam_x[at];
    if (plan.second[i] >= LANES) base = -1;
  }
  plan.low = splat(1.0f) - plan.high;
  plan.base = base < 0 ? -1 : base;
  return plan;
}

static inline __attribute__((always_inline)) vf read_columns(const Columns& plan, const UpsampleJob& job,
                                                            const float* line) {
  vf a, b;
  if (plan.base >= 0) {
    const vf source = load(line + plan.base);
    a = permute(source, plan.first);
    b = permute(source, plan.second);
  } else {
    float first[LANES] = {}, second[LANES] = {};
    for (int i = 0; i < plan.count; ++i) {
      first[i] = line[job.x0[plan.x + i]];
      second[i] = line[job.x1[plan.x + i]];
    }
    a = load(first);
    b = load(second);
  }
  // The order and the rounding of torch's kernel: the second product rounds, the first is fused.
  return fma(a, plan.low, b * plan.high);
}

static int64_t upsample_workspace(int64_t rows) { return rows * 2 * TILE_PIXELS; }

static void upsample_argmax(const UpsampleJob& job, int64_t line0, int64_t line1, int64_t begin, int64_t end,
                            const float* upper, const float* lower, float* workspace) {
  const Outputs out{job.labels, job.score, job.margin, job.probability};
  for (int64_t x = 0; x < job.width; x += TILE_PIXELS) {
    const int pixels = job.width - x < TILE_PIXELS ? static_cast<int>(job.width - x) : TILE_PIXELS;
    for (int v = 0; v < PIXEL_VECTORS && v * LANES < pixels; ++v) {
      const Columns plan = plan_columns(job, x + v * LANES);
      for (int64_t n = 0; n < job.rows; ++n) {
        const float* row = job.logits + n * job.row_stride;
        float* target = workspace + n * 2 * TILE_PIXELS + v * LANES;
        store(target, read_columns(plan, job, row + line0 * job.line_stride));
        store(target + TILE_PIXELS, read_columns(plan, job, row + line1 * job.line_stride));
      }
    }
    for (int64_t y = begin; y < end; ++y) {
      const BetweenLines scores{workspace, splat(upper[y]), splat(lower[y])};
      const int64_t offset = y * job.width + x;
      if (job.class_start) {
        reduce_pixels<true>(scores, job.class_start, job.class_label, job.classes, job.rows, job.softmax_rows,
                            job.logit_scale, out, offset, pixels);
      } else {
        reduce_pixels<false>(scores, nullptr, nullptr, job.classes, job.rows, true, job.logit_scale, out, offset,
                             pixels);
      }
    }
  }
}

static void argmax_scores(const ScoresJob& job, int64_t begin, int64_t end) {
  const Outputs out{job.labels, job.score, job.margin, job.probability};
  for (int64_t p = begin; p < end; p += TILE_PIXELS) {
    const int pixels = end - p < TILE_PIXELS ? static_cast<int>(end - p) : TILE_PIXELS;
    const Stored scores{job.scores + p, job.stride, pixels};
    reduce_pixels<false>(scores, nullptr, nullptr, job.classes, job.classes, true, job.logit_scale, out, p, pixels);
  }
}
