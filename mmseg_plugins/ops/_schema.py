"""Schemas of the custom operators, and what every tier agrees on (eager, Triton, compiled CPU, compiled CUDA).

The schemas are defined in Python, with the eager functions of ``_eager.py`` under ``CompositeExplicitAutograd``. A
compiled library only adds kernels for ``CPU`` or ``CUDA``, so loading it replaces the eager version and a missing
library costs speed, never an import. Autograd, fake kernels and vmap rules are registered in Python as well.

Letters: B images, Q masks, K maps per mask, C channels, ``H W`` feature grid, N = H*W, ``h w`` mask grid, S segments,
T = B*Q. All tensors of one call are on one device. Inputs may have any strides unless a line below says otherwise;
outputs are contiguous. Sizes are 64-bit: B*Q*h*w may exceed 2**31.

**Types.** ``features`` float32, bfloat16 or float16; ``masks`` any of these independently, or bool or uint8 (taken as
the numbers 0/1 and 0..255). The eager and the compiled CPU tier take float64 too. *acc* is float64 if ``features`` or
``masks`` is float64, else float32: resizing, weights, areas, statistics and products are in *acc*, and a float32
product may use TF32 only when ``allow_tf32``. ``pooled`` has ``out_dtype``, or the dtype of ``features`` when that is
None. ``area`` has *acc*. Gradients have the dtype of what they are the gradient of. One rounding, at the end.

**Weights.** ``r`` is ``masks`` brought to the feature grid (``resize_features`` False), or as they are
(``resize_features`` True, then the feature grid is brought to ``h w`` by the adjoint, never materialised). Resizing
is bilinear with half-pixel centres and no antialiasing: for output i of an axis n_in -> n_out, with the integer ``u =
max(0, (2i+1) n_in - n_out)``, ``i0 = u // (2 n_out)``, ``i1 = min(i0 + 1, n_in - 1)`` and the exact fraction ``lam =
(u % (2 n_out)) / (2 n_out)`` rounded once to *acc*; columns first, then rows, ``(1 - lam) x[i0] + lam x[i1]``.
``phi`` per ``mode``:

====  =========  =================  ==============  ================================================
code  name       phi(r)             denominator D   gradient to the masks
====  =========  =================  ==============  ================================================
0     hard       r > threshold      area + eps      none
1     sigmoid    sigmoid(r)         area + eps      sigmoid(r) * sigmoid(-r) * (d - s) / D
2     prob       r                  area + eps      (d - s) / D
3     gated      r if r > t else 0  area + eps      none
4     kmap       sigmoid(r)         area, stably    v * sigmoid(-r) * (d - s), see below
====  =========  =================  ==============  ================================================

A NaN is not greater than any threshold. ``area[b, q]`` is the plain sum of phi over the grid on which the weights
live (N for ``resize_features`` False, ``h*w`` for True); hard areas are counted with integers. ``d[b, q, n] = sum_c G
F``.

**kmap.** ``masks`` is (B, Q*K, h, w), map k of mask q at row q*K + k. ``v = exp(ls - m) / z`` with ``ls =
logsigmoid(r)``, ``m = max ls``, ``z = sum exp(ls - m)`` over the grid; eps is not used. ``reduce`` 0: the K rows are
averaged, pooled is (B, Q, C), and ``G' = G / K`` in every gradient; 1: pooled is (B, Q*K, C). ``area`` is (B, Q*K),
the plain sum of sigmoid. ``s = sum_n v d``. For every other mode K is 1 and ``s[b, q] = sum_c G P``.

**saved**, the third result of ``mask_pool_fwd``. Shape and dtype depend on the attributes only:

* ``save`` False: (0,) of the dtype named below.
* ``hard`` and not ``resize_features``: int32 (B, Q, ceil(N / 32)). Pixel n = y*W + x is bit ``n % 32`` (least
  significant first) of word ``n // 32``; the bits past N are zero.
* ``kmap`` and not ``resize_features``: *acc* (B, Q*K, 2), ``[..., 0] = m`` and ``[..., 1] = z``.
* ``resize_features``, any mode: *acc* (B, Q*K, N), the folded weights ``U^T phi`` (for kmap ``U^T v``), so that
  ``pooled = saved @ F / D`` (for kmap ``saved @ F``).
* otherwise (sigmoid, prob, gated on the feature grid): *acc* (0,); the backward computes the weights from ``masks``
  again.

A backward that gets a ``saved`` without elements although the attributes promise some (Q = 0, or ``save`` was False)
works from ``masks``. ``masks`` is None in ``mask_pool_bwd_features`` only when ``saved`` holds all it needs (hard, or
``resize_features``).

**Bit masks** of the public functions are another layout: uint8 (B, Q, h, ceil(w / 8)), packed along w, least
significant bit first, every row padded to a byte with zeros (padding bits must be ignored on reading). **Run
lengths**: ``counts`` int64, column-major (y fastest), starting with a run of zeros; mask i = b*Q + q has
``counts[offsets[i]:offsets[i + 1]]``, ``offsets`` int64 (T + 1,). Runs past h*w are cut; pixels after the last run
are zero.

**Label maps**: int32 or int64 (B, h, w); a label outside [0, S) or equal to ``ignore_index`` belongs to no segment.
Label, bit and run-length pooling always bring the features to the mask grid (identity when the sizes are equal) and
divide by ``area + eps``. ``area`` is (B, S) or (B, Q).

**Label map from logits.** ``upsample_argmax`` enlarges ``logits`` (B, N, h, w) and takes the best class per pixel.
The labels must be those of ``F.interpolate(...).argmax(1)``, so its source index is torch's own float32 arithmetic:
``scale = float(n_in) / n_out``, ``src = max(0, scale * (i + 0.5f) - 0.5f)``, ``i0 = int(src)``, ``lam = src - i0``.
``size`` is (H, W) of the result. ``row_class`` int64 (N,), **non-decreasing**, gives the class of each row: a class
scores the maximum of its rows, a class without rows never wins; None means row = class. Ties go to the lower class.
With a NaN the label is any of the classes. ``band`` is empty for a whole map, else ``[full_h, first_h, full_H,
first_H]``: ``logits`` holds rows ``first_h .. first_h + h - 1`` of a map with ``full_h`` rows, and the result rows
``first_H .. first_H + H - 1`` of a map with ``full_H`` rows; the caller passes every row the taps need. Results:
``labels`` int64 (B, H, W); ``score``, the best class score in the units of ``logits``; ``margin``, best minus second
best class score (inf if there is but one class with rows); ``probability``, of the best row of the winner:
``exp(scale * best) / sum exp(scale * x)``, the sum over all rows if ``softmax_rows``, else over the class scores. The
last three are float32 (B, H, W) (float64 for float64 logits) when wanted, else (0,).

``mask_argmax`` does the same for class scores ``s_k(x) = sum_q weights[b, q, k] * sigmoid(R(mask_logits)[b, q, x])``
(resize, then sigmoid, then sum; accumulation in float32), K classes without groups; no K x H x W and no Q x H x W
tensor is made.

None of the last two has a gradient: ``labels`` is integer and the other results are for inspection.
"""

import torch

NAMESPACE = "mmseg_plugins"

MODES = {"hard": 0, "sigmoid": 1, "prob": 2, "gated": 3, "kmap": 4}
HARD, SIGMOID, PROB, GATED, KMAP = MODES.values()

REDUCTIONS = {"mean": 0, "none": 1}
REDUCE_MEAN, REDUCE_NONE = REDUCTIONS.values()

# Modes whose masks receive no gradient (None, not zeros).
DETACHED_MODES = frozenset({HARD, GATED})

# Attributes that the three mask_pool operators share, in this order.
_ATTRIBUTES = (
    "int mode, float threshold, float eps, int maps_per_mask, int reduce, bool resize_features, bool allow_tf32"
)

SCHEMAS = (
    # masks (B, Q*K, h, w), features (B, C, H, W)
    f"mask_pool_fwd(Tensor features, Tensor masks, {_ATTRIBUTES}, bool save, ScalarType? out_dtype)"
    " -> (Tensor pooled, Tensor area, Tensor saved)",
    # grad (B, Q, C) or (B, Q*K, C), feature_size (H, W) -> (B, C, H, W) of dtype
    f"mask_pool_bwd_features(Tensor grad, Tensor? masks, Tensor saved, Tensor area, {_ATTRIBUTES},"
    " SymInt[] feature_size, ScalarType dtype) -> Tensor",
    # -> (B, Q*K, h, w); pooled is not read for kmap
    f"mask_pool_bwd_masks(Tensor grad, Tensor features, Tensor masks, Tensor pooled, Tensor saved, Tensor area,"
    f" {_ATTRIBUTES}) -> Tensor",
    "label_pool_fwd(Tensor features, Tensor labels, SymInt num_segments, int ignore_index, float eps,"
    " bool allow_tf32, ScalarType? out_dtype) -> (Tensor pooled, Tensor area)",
    "label_pool_bwd(Tensor grad, Tensor labels, Tensor area, int ignore_index, float eps, bool allow_tf32,"
    " SymInt[] feature_size, ScalarType dtype) -> Tensor",
    # size (h, w) of the masks
    "bits_pool_fwd(Tensor features, Tensor bits, SymInt[] size, float eps, bool allow_tf32, ScalarType? out_dtype)"
    " -> (Tensor pooled, Tensor area)",
    "bits_pool_bwd(Tensor grad, Tensor bits, Tensor area, SymInt[] size, float eps, bool allow_tf32,"
    " SymInt[] feature_size, ScalarType dtype) -> Tensor",
    # saved (B, Q, N), folded weights; the backward is mask_pool_bwd_features (hard, resize_features)
    "rle_pool_fwd(Tensor features, Tensor counts, Tensor offsets, SymInt[] size, float eps, bool allow_tf32,"
    " ScalarType? out_dtype) -> (Tensor pooled, Tensor area, Tensor saved)",
    # (T, h, ceil(w / 8)) uint8
    "rle_to_bits(Tensor counts, Tensor offsets, SymInt[] size) -> Tensor",
    # (..., h, w) -> (..., h, ceil(w / 8)) uint8, set where masks > threshold
    "pack_bits(Tensor masks, float threshold) -> Tensor",
    "upsample_argmax(Tensor logits, SymInt[] size, SymInt[] band, Tensor? row_class, float logit_scale,"
    " bool softmax_rows, bool want_score, bool want_margin, bool want_probability)"
    " -> (Tensor labels, Tensor score, Tensor margin, Tensor probability)",
    "mask_argmax(Tensor weights, Tensor mask_logits, SymInt[] size, SymInt[] band, float logit_scale, bool want_score,"
    " bool want_margin, bool want_probability)"
    " -> (Tensor labels, Tensor score, Tensor margin, Tensor probability)",
)

OP_NAMES = tuple(schema.partition("(")[0] for schema in SCHEMAS)

# Kept for the life of the process: the registrations end with the object.
LIBRARY = torch.library.Library(NAMESPACE, "DEF")


# Each operator exists a second time under this suffix, in plain PyTorch on every device: compiled kernels hand over to
# it what they have no loop for (float64, rare combinations).
EAGER_SUFFIX = "_eager"


def define_ops() -> None:
    """Define every operator of the namespace; called once, by ``_load.py``."""
    for name, schema in zip(OP_NAMES, SCHEMAS, strict=True):
        LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
        LIBRARY.define(schema.replace(name, name + EAGER_SUFFIX, 1))
