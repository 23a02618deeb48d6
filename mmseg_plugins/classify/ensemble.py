"""How the scores of a trained decoder and those of CLIP become one score per mask and class.

B batch, Q masks, K classes; void stands behind the classes at index K.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

EPS = 1e-8  # added to probabilities in front of the final logarithm, as published

RULES = ("ensemble", "void", "clip")


def ensemble_scores(
    in_logits: Tensor,
    out_logits: Tensor,
    seen: Tensor,
    alpha: float,
    beta: float,
    valid: Tensor | None = None,
) -> Tensor:
    """Geometric mean of in- and out-of-vocabulary probabilities (FC-CLIP, Mask-Adapter).

    ``log r = (1 - g) log p_in + g log p_out`` with g = alpha for seen classes and beta for others, both p without void;
    r is brought to sum 1 and shares what void, of the in-vocabulary logits, leaves. Mixed in log space by selection, so
    that nothing becomes NaN: g = 0 never reads p_out, nor g = 1 p_in, and a mask whose out-of-vocabulary logits are
    NaN counts as not valid.

    Args:
        in_logits: (B, Q, K + 1) of the decoder, void last.
        out_logits: (B, Q, K) or (B, Q, K + 1) of CLIP; a void column is not read.
        seen: (K,) bool, classes that the decoder was trained on.
        alpha: weight of CLIP on seen classes, 0 to 1.
        beta: weight of CLIP on unseen ones.
        valid: (B, Q) bool; masks that are not use the in-vocabulary logits alone. None: all are valid.

    Returns:
        (B, Q, K + 1) float32 log scores, ``log(probability + 1e-8)``, void last.

    Raises:
        ValueError: if shapes do not fit or a weight is outside [0, 1].
    """
    num_classes = in_logits.shape[-1] - 1
    _check(out_logits, seen, num_classes, alpha, beta)
    in_logits, out_logits = _finite_top(in_logits), _finite_top(out_logits[..., :num_classes])
    usable_BQ = ~out_logits.isnan().any(-1)
    if valid is not None:
        usable_BQ &= valid
    weights_K = torch.where(seen.to(in_logits.device), in_logits.new_tensor(alpha), in_logits.new_tensor(beta))
    weights_BQK = torch.where(usable_BQ[..., None], weights_K, weights_K.new_zeros(()))
    in_log, out_log = in_logits[..., :-1].log_softmax(-1), out_logits.log_softmax(-1)
    mixed_BQK = _weighted(in_log, 1 - weights_BQK) + _weighted(out_log, weights_BQK)
    return _with_void(mixed_BQK.log_softmax(-1), in_logits)


def void_scores(in_logits: Tensor, out_logits: Tensor) -> Tensor:
    """CLIP names, the decoder only says how likely a mask is void (MAFT+).

    Args:
        in_logits: (B, Q, K + 1) of the decoder, void last.
        out_logits: (B, Q, K) or (B, Q, K + 1) of CLIP; a void column is not read.

    Returns:
        (B, Q, K + 1) float32 log scores, void last.
    """
    num_classes = in_logits.shape[-1] - 1
    return _with_void(_finite_top(out_logits[..., :num_classes]).log_softmax(-1), _finite_top(in_logits))


def clip_scores(out_logits: Tensor, num_classes: int | None = None) -> Tensor:
    """CLIP alone names, nothing is void (masks without a trained decoder, such as SAM's).

    Args:
        out_logits: (B, Q, K) of CLIP, or more columns, which are not read.
        num_classes: K; None: all columns.

    Returns:
        (B, Q, K + 1) float32 log scores, void last and never the best.
    """
    log_BQK = _finite_top(out_logits[..., :num_classes]).log_softmax(-1)
    return F.pad((log_BQK.exp() + EPS).log(), (0, 1), value=float(torch.tensor(EPS).log()))


def _with_void(log_BQK: Tensor, in_logits: Tensor) -> Tensor:
    void_BQ1 = in_logits.softmax(-1)[..., -1:]
    return (torch.cat([log_BQK.exp() * (1 - void_BQ1), void_BQ1], dim=-1) + EPS).log()


def _weighted(log_probability: Tensor, weight: Tensor) -> Tensor:
    """``weight * log_probability``, 0 where the weight is 0, whatever stands there."""
    return torch.where(weight == 0, 0.0, weight * log_probability)


def _finite_top(logits: Tensor) -> Tensor:
    """Float32 logits without +inf, whose softmax would be NaN."""
    return logits.float().clamp(max=torch.finfo(torch.float32).max / 2)


def _check(out_logits: Tensor, seen: Tensor, num_classes: int, alpha: float, beta: float) -> None:
    if seen.shape != (num_classes,):
        raise ValueError(f"seen must have one flag for each of {num_classes} classes, but is {tuple(seen.shape)}.")
    if out_logits.shape[-1] not in (num_classes, num_classes + 1):
        raise ValueError(
            f"CLIP's logits have {out_logits.shape[-1]} columns for {num_classes} classes (with or without void)."
        )
    for name, value in (("alpha", alpha), ("beta", beta)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} is CLIP's share of the geometric mean, 0 to 1, but got {value}.")
