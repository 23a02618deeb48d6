"""What a mask segmentor's config says about scores and outputs, checked."""

from dataclasses import dataclass
from typing import Any, Literal

from mmseg_plugins.classify.ensemble import RULES
from mmseg_plugins.prediction.segments import ResizeOrder, check_order

ScoringRule = Literal["ensemble", "void", "clip"]


@dataclass(frozen=True, kw_only=True)
class MaskScoring:
    """How masks get their class scores.

    Attributes:
        rule: ``ensemble`` joins decoder and CLIP (FC-CLIP, Mask-Adapter); ``void``: CLIP names and the decoder only
            gives void (MAFT+); ``clip``: CLIP alone, nothing is void (masks without a decoder).
        alpha: CLIP's share on seen classes (``ensemble``).
        beta: CLIP's share on unseen classes (``ensemble``).
        valid_only: masks that are empty on the feature grid are scored by the decoder alone (``ensemble``).
        in_temperature: what the decoder's class logits, void among them, are divided by; above 1 for a decoder that is
            surer than it is right (temperature scaling, arXiv 1706.04599). 1 as published.

    Raises:
        ValueError: if a value does not exist or is out of range.
    """

    rule: ScoringRule = "ensemble"
    alpha: float = 0.4
    beta: float = 0.8
    valid_only: bool = False
    in_temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ValueError(f"Expected scoring.rule to be one of {RULES}, but got {self.rule!r}.")
        for name in ("alpha", "beta"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"Expected scoring.{name} between 0 and 1, but got {getattr(self, name)}.")
        if not self.in_temperature > 0:
            raise ValueError(
                f"Expected scoring.in_temperature above 0 (1 as published), but got {self.in_temperature}."
            )


@dataclass(frozen=True, kw_only=True)
class MaskOutputs:
    """What a prediction holds.

    Attributes:
        semantic: ``pred_sem_seg``.
        panoptic: ``pred_panoptic_seg``.
        instance: ``pred_instances``.
        object_mask_threshold: class probability that a mask must exceed to take part in the panoptic map.
        overlap_threshold: share of itself that a mask must keep there.
        top_k: instances per image.
        resize_order: ``masks`` or ``scores``, see :mod:`mmseg_plugins.prediction.segments`; None as published:
            ``masks`` where panoptic or instance output is on.
        things: whether classes of a vocabulary that does not say so are things (each mask its own segment).
        keep_logits: also store ``seg_logits``, the (K, H, W) semantic scores.

    Raises:
        ValueError: if nothing is asked for, or a value is out of range.
    """

    semantic: bool = True
    panoptic: bool = False
    instance: bool = False
    object_mask_threshold: float = 0.0
    overlap_threshold: float = 0.8
    top_k: int = 100
    resize_order: ResizeOrder | None = None
    things: bool = True
    keep_logits: bool = False

    def __post_init__(self) -> None:
        if not (self.semantic or self.panoptic or self.instance):
            raise ValueError("outputs asks for nothing: set semantic, panoptic or instance.")
        if self.resize_order is not None:
            check_order(self.resize_order)
        for name in ("object_mask_threshold", "overlap_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"Expected outputs.{name} between 0 and 1, but got {getattr(self, name)}.")
        if self.top_k < 1:
            raise ValueError(f"Expected outputs.top_k to be at least 1, but got {self.top_k}.")

    @property
    def order(self) -> ResizeOrder:
        """The order of resizing in effect."""
        return self.resize_order or ("masks" if self.panoptic or self.instance else "scores")


def read_options(kind: type, config: Any, name: str) -> Any:
    """Build options from a config dict, naming unknown keys.

    Args:
        kind: :class:`MaskScoring` or :class:`MaskOutputs`.
        config: a mapping, None for the defaults, or ready options.
        name: the config key, for messages.

    Raises:
        ValueError: if a key is unknown or a value does not fit.
    """
    if isinstance(config, kind):
        return config
    values = dict(config or {})
    unknown = sorted(set(values) - set(kind.__dataclass_fields__))
    if unknown:
        raise ValueError(f"unknown {name} keys {unknown}. Known: {', '.join(kind.__dataclass_fields__)}.")
    return kind(**values)
