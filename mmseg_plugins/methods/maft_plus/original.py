"""CLIP as it was before fine-tuning: its features beside the tuned ones, and scores mixed from both."""

from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor, nn

from mmseg_plugins.classify.features import ClipMaskFeatures

# B batch, Q masks, K classes

Mixing = Literal["logits", "probabilities"]
MIXINGS: tuple[str, ...] = get_args(Mixing)

# What stands behind the trunk in each tower and so stays frozen: the head that leads into the joint space.
_HEADS = ("trunk.head.", "head.", "attnpool.", "ln_post.", "proj", "trunk.norm.")


@dataclass(kw_only=True)
class PairedFeatures(ClipMaskFeatures):
    """Features of the tuned trunk, with those of the original one.

    Attributes:
        original: what the frozen copy of CLIP gives for the same images.
    """

    original: ClipMaskFeatures

    def image(self, index: int) -> "PairedFeatures":
        """Return the features of one image, as a batch of one."""
        return pair(super().image(index), self.original.image(index))

    def detach(self) -> "PairedFeatures":
        """Return the same features without gradient."""
        return pair(super().detach(), self.original.detach())


def pair(tuned: ClipMaskFeatures, original: ClipMaskFeatures) -> PairedFeatures:
    """Put the original features beside the tuned ones."""
    return PairedFeatures(
        dense=tuned.dense,
        project=tuned.project,
        attention_pool=tuned.attention_pool,
        cls=tuned.cls,
        original=original,
    )


def mix_scores(tuned_BQK: Tensor, original_BQK: Tensor, share: float, mixing: Mixing) -> Tensor:
    """Mix class scores of the tuned and the original CLIP.

    Args:
        tuned_BQK: logits of the classes, without void.
        original_BQK: the same of the original CLIP and the untouched text.
        share: of the original, 0 to 1.
        mixing: ``logits``: weighted mean of the logits, a geometric mean of the probabilities, in which the longer rows
            of the semantic variant weigh more; ``probabilities``: weighted mean of the probabilities.

    Returns:
        (B, Q, K) logits.
    """
    if mixing == "logits":
        return (1 - share) * tuned_BQK.float() + share * original_BQK.float()
    tuned, original = tuned_BQK.float().softmax(-1), original_BQK.float().softmax(-1)
    return ((1 - share) * tuned + share * original).clamp(min=1e-12).log()


def trunk_parameters(tower: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters of an image tower that MAFT+ fine-tunes: all but the head into the joint space."""
    return {name: value for name, value in tower.named_parameters() if not name.startswith(_HEADS)}
