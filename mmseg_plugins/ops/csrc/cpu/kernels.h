// The vectorised inner loops, chosen once per process for the best instruction set of the machine.
//
// Everything here is float32 on plain arrays: no tensors, no threads. The loops are written once (kernels_impl.h) and
// compiled for AVX-512, AVX2 and the baseline of the platform.

#pragma once

#include <cstdint>

namespace mmseg_plugins::cpu {

// The bit product works on tiles of this many items (bits of a word) by this many channels.
constexpr int kTile = 32;
// A word has eight groups of four bits; each group has a table of its 16 possible sums, kTile channels wide.
constexpr int kGroups = 8;
constexpr int kTableFloats = kGroups * 16 * kTile;
constexpr int kLabelChannels = 16;

// Rows of class scores that are enlarged and reduced to the best class, for one image.
struct UpsampleJob {
  const float* logits;      // (N, h, w), columns contiguous
  int64_t row_stride;       // between the N rows
  int64_t line_stride;      // between image lines
  int64_t rows;             // N
  int64_t width_in, width;  // w, W
  const int32_t* x0;        // column taps, W each
  const int32_t* x1;
  const float* lam_x;
  const int32_t* class_start;  // (classes + 1) first row of each class; null when row = class
  const int64_t* class_label;  // label of each class; null when row = class
  int64_t classes;
  float logit_scale;
  bool softmax_rows;
  int64_t* labels;     // (H, W) each; the last three may be null
  float* score;
  float* margin;
  float* probability;
};

// Class scores that already have full size, (K, P) with P pixels.
struct ScoresJob {
  const float* scores;
  int64_t stride;  // between classes
  int64_t classes;
  float logit_scale;
  int64_t* labels;  // (P) each; the last three may be null
  float* score;
  float* margin;
  float* probability;
};

struct Kernels {
  const char* name;
  bool fused;  // whether fma() rounds once, as torch's own kernels do on such a machine

  // ---- phi: n values of r -> weights; each returns the sum of the weights
  int64_t (*pack_greater)(const float* r, int64_t n, float threshold, uint32_t* words);  // bits, the last word padded
  int64_t (*hard)(const float* r, int64_t n, float threshold, float* weights);
  double (*gate)(const float* r, int64_t n, float threshold, float* weights);
  double (*sigmoid)(const float* r, int64_t n, float* weights);
  double (*sum)(const float* values, int64_t n);
  // weights = exp(ls - max ls); stats = {max ls, sum of weights}
  double (*kmap)(const float* r, int64_t n, float* weights, double* stats);
  void (*add_scaled)(float factor, const float* x, int64_t n, float* y);  // y += factor * x

  // ---- resizing: taps a, b of the upper line and c, d of the lower one -> one line of n values
  void (*mix)(const float* a, const float* b, const float* c, const float* d, const float* lam_x, float lam_y,
              int64_t n, float* out);
  // adjoint over lines: upper += w_upper * row, lower += w_lower * row
  void (*spread)(const float* row, int64_t n, float w_upper, float w_lower, float* upper, float* lower);
  // the same for bytes of 0 and 1; returns their number
  int64_t (*spread_bytes)(const uint8_t* row, int64_t n, float w_upper, float w_lower, float* upper, float* lower);

  // ---- bit product: acc[i] += sum over the set bits j of words[i] of tile[j], kTile channels wide
  void (*load_tile)(const float* source, int64_t channel_stride, int64_t item_stride, int channels, int items,
                    float* tile);
  void (*build_tables)(const float* tile, float* tables);
  void (*lookup)(const float* tables, const uint32_t* words, int64_t rows, float* acc);
  // (items, kTile) -> channels x items of the destination
  void (*store_tile)(const float* tile, int channels, int items, float* target, int64_t channel_stride);

  // ---- label sums: acc[index[p]] += values of pixel p, kLabelChannels wide
  void (*scatter)(const float* source, int64_t channel_stride, int64_t pixel_stride, int channels,
                  const int32_t* index, int64_t pixels, float* acc);

  // ---- gradients to masks: out = slope(r) * (dots - centre) * factor
  void (*sigmoid_gradient)(const float* r, const float* dots, float centre, float factor, int64_t n, float* out);
  double (*dot)(const float* x, const float* y, int64_t n);
  // weights * sigmoid(-r) * (dots * factor - centre), weights scaled by norm
  void (*kmap_gradient)(const float* r, const float* weights, const float* dots, float factor, float norm,
                        float centre, int64_t n, float* out);

  // ---- label maps: output rows [begin, end) that lie between the same two lines, mixed with upper[y], lower[y]
  void (*upsample_argmax)(const UpsampleJob& job, int64_t line0, int64_t line1, int64_t begin, int64_t end,
                          const float* upper, const float* lower, float* workspace);
  int64_t (*upsample_workspace)(int64_t rows);  // floats
  void (*argmax_scores)(const ScoresJob& job, int64_t begin, int64_t end);
};

const Kernels& kernels();

}  // namespace mmseg_plugins::cpu
