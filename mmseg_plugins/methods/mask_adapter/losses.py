"""The two losses of Mask-Adapter."""

import torch
import torch.nn.functional as F
from torch import Tensor

# B images, N masks, P pairs, C classes, D joint width


def classification_loss(logits_BNC: Tensor, labels_BN: Tensor) -> Tensor:
    """Cross-entropy over all classes and void, mean over the masks that are not padding (label -1).

    Args:
        logits_BNC: void last.
        labels_BN: int64.

    Returns:
        A scalar; 0 with a gradient of 0 where every mask is padding (torch's own would be NaN).
    """
    logits, labels = logits_BNC.float().flatten(0, 1), labels_BN.flatten()
    total = F.cross_entropy(logits, labels, ignore_index=-1, reduction="sum")
    return total / (labels != -1).sum().clamp(min=1)


def consistency_loss(
    embeddings_BND: Tensor,
    pairs_P2: Tensor,
    is_real_BN: Tensor,
    *,
    detach_target: bool = True,
    count_padding: bool = True,
) -> Tensor:
    """One minus the mean cosine between a prediction's embedding and that of the annotated mask it matches.

    Args:
        embeddings_BND: of all masks.
        pairs_P2: places of prediction and annotated mask.
        is_real_BN: which masks are not padding.
        detach_target: no gradient through the annotated side (published for FC-CLIP; not for MAFT+).
        count_padding: padded pairs, two empty masks of cosine 1, count in the mean (published: up to as many times
            smaller as there are pairs); False: mean over real pairs, 0 where there are none.

    Returns:
        A scalar.
    """
    predicted, target = embeddings_BND[:, pairs_P2[:, 0]].float(), embeddings_BND[:, pairs_P2[:, 1]].float()
    cosine_BP = F.cosine_similarity(predicted, target.detach() if detach_target else target, dim=-1)
    if count_padding:
        return 1 - cosine_BP.mean()
    is_real_BP = is_real_BN[:, pairs_P2[:, 0]]
    return torch.where(is_real_BP, 1 - cosine_BP, 0.0).sum() / is_real_BP.sum().clamp(min=1)
