"""What a tower hands over for each place of an image, and the switches that say how it is computed.

Every published way to get dense features from CLIP's transformer is a setting of :class:`DenseOptions`; the table in
``DenseOptions`` names them. What a method knows only at call time (an affinity from another network, a change of the
scores) goes into :class:`Steering`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from mmseg_plugins.towers.position import POSITION_RESIZES, Grid, Padding, PositionMatch, PositionResize

# B batch, N = h*w patches, P = N + 1 with the class token in front, W trunk width, D joint width, h w grid

PAIRS = ("qk", "qq", "kk", "vv")
_WHOLE_RULES = ("value", "neighbourhood")


@dataclass(kw_only=True)
class DenseFeatures:
    """Features of an image, place by place.

    Attributes:
        pixels: (B, D, h, w) in the joint space, not normalised.
        cls: (B, D) image embedding of the unchanged tower (class token, attention pool or mean, as the tower was
            trained), None where it was not computed (``DenseOptions.ordinary``).
        trunk: (B, W, h, w) what ``pixels`` is projected from; of a transformer behind its last layer norm.
        query, key, value: (B, N, W) of the last changed attention behind the output projection, without class token,
            residual and last layer norm; None unless asked for (``DenseOptions.qkv``).
        patch_tokens: (B, W, h, w) of the unchanged last block behind the last layer norm; None unless computed.
        grid: (h, w).
        extras: what ``DenseOptions.taps`` asked for, under the names given there.
    """

    pixels: Tensor
    trunk: Tensor
    grid: Grid
    cls: Tensor | None = None
    query: Tensor | None = None
    key: Tensor | None = None
    value: Tensor | None = None
    patch_tokens: Tensor | None = None
    extras: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class DenseOptions:
    """How a transformer's blocks are changed to give dense features.

    The default is MaskCLIP. Settings of the published methods (``None`` and defaults left out):

    ==============  =====================================================================================
    MaskCLIP        ``rule='value'``
    SCLIP           ``rule='qq+kk', position_resize='scale_factor', padding='floor'``
    ClearCLIP       ``rule='qq', residual=False, mlp=False``, position and padding as SCLIP
    NACLIP          ``rule='kk', gaussian_std=5, residual=False, mlp=False``, position and padding as SCLIP
    ResCLIP         as one of the three above, ``mean_blocks=(5, 6, 7, 8)`` and :class:`Steering`
    ITACLIP         ``rule='qq+kk', mlp=False, mean_blocks=(6, 7, 9), mean_rule='qq+kk'`` and :class:`Steering`
    GEM             ``rule='vv+kk+qq', combine='mean', stream='parallel', first_block=-6, unit_rows=True,
                    temperature='norm', iterations=1, keep_class_token=False, position_resize='antialias'``
    CLIP Surgery    ``rule='vv', stream='parallel', first_block=-6, position_resize='bilinear'``
    ExCEL           ``rule='qq+kk+vv', combine='mean', heads='sum', stream='parallel', first_block=7,
                    position_resize='bilinear'``
    AnoVL           ``rule='vv', stream='parallel', first_block=0``
    ProxyCLIP       ``rule='value', residual=False, mlp=False`` and ``Steering(affinity=...)``
    ==============  =====================================================================================

    Attributes:
        rule: what takes the place of softmax(q kᵀ): ``value`` (identity), ``neighbourhood`` (distance only, NACLIP's
            ablation), or pairs joined by ``+`` out of qk, qq, kk, vv.
        combine: whether the weights of several pairs are added (``sum``) or averaged (``mean``).
        first_block: first changed block; negative counts from the end.
        stream: ``replace`` puts the changed attention into the blocks; ``parallel`` runs a second stream beside the
            unchanged one, which gets the changed attention of the unchanged stream's tokens and no MLP.
        residual, mlp: whether a changed block keeps its residual and its MLP (``replace`` only).
        keep_class_token: parallel stream: the class token of the result is that of the unchanged stream.
        heads: ``separate``; ``sum`` or ``mean`` of the weights over heads, used by every head.
        gaussian_std: width, in patches, of the distance term added to the scores (NACLIP); None: no such term.
        unit_rows: whether q, k and v are scaled to unit length for the scores.
        temperature: factor of the scores: ``head`` head width^-0.5; ``norm`` that times the mean length of the
            normed tokens, one number per image and block (GEM); or a number.
        iterations: how often each of q, k, v is first averaged by its own similarity (GEM).
        mean_blocks: blocks (counted from 0) whose attention is averaged and handed to ``Steering.modify_weights``.
        mean_rule: rule of that attention.
        position_resize, position_match: see :func:`~mmseg_plugins.towers.position.resize_positions`.
        padding: see :func:`~mmseg_plugins.towers.position.pad_image`; None: transformers pad the corner, convolutional
            towers drop the remainder (as the published code does).
        qkv: also hand over ``query``, ``key`` and ``value``.
        ordinary: also run the unchanged blocks where ``stream='replace'`` would not: ``cls`` and ``patch_tokens``.
        attention_pooling: ResNet: the full attention pool at every place instead of its value path (MaskCLIP's
            baseline).
        taps: further results for ``extras``. Of the last changed attention: ``q``, ``k``, ``v`` (B, heads, P, d),
            ``attention`` (B, heads, P, P) as it multiplies v, ``temperature`` (B,), ``stream`` (B, P, W) in front of
            the last layer norm, ``tokens`` and ``tokens_ordinary`` (B, P, D) behind the projection. Of an unchanged
            block i (negative counts from the end): ``block/i`` its output, ``middle/i`` what its second layer norm
            reads, ``ln_2/i`` what that gives, ``attention/i`` (B, heads, P, P). Convolutional towers: ``stage/1`` to
            ``stage/4``.

    Raises:
        ValueError: if a switch has a value that does not exist, or two contradict each other.
    """

    rule: str = "value"
    combine: Literal["sum", "mean"] = "sum"
    first_block: int = -1
    stream: Literal["replace", "parallel"] = "replace"
    residual: bool = True
    mlp: bool = True
    keep_class_token: bool = True
    heads: Literal["separate", "sum", "mean"] = "separate"
    gaussian_std: float | None = None
    unit_rows: bool = False
    temperature: Literal["head", "norm"] | float = "head"
    iterations: int = 0
    mean_blocks: tuple[int, ...] = ()
    mean_rule: str = "qk"
    position_resize: PositionResize = "size"
    position_match: PositionMatch = "grid"
    padding: Padding | None = None
    qkv: bool = False
    ordinary: bool = False
    attention_pooling: bool = False
    taps: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in (self.rule, self.mean_rule):
            parse_rule(name)
        _check_choice("combine", self.combine, ("sum", "mean"))
        _check_choice("stream", self.stream, ("replace", "parallel"))
        _check_choice("heads", self.heads, ("separate", "sum", "mean"))
        _check_choice("position_resize", self.position_resize, POSITION_RESIZES)
        _check_choice("position_match", self.position_match, ("grid", "count"))
        _check_choice("padding", self.padding, (None, "corner", "floor"))
        if isinstance(self.temperature, str):
            _check_choice("temperature", self.temperature, ("head", "norm", "a number"))
        if self.gaussian_std is not None and self.gaussian_std <= 0:
            raise ValueError(f"Expected argument `gaussian_std` to be positive, but got {self.gaussian_std}.")
        if self.iterations < 0:
            raise ValueError(f"Expected argument `iterations` to be 0 or more, but got {self.iterations}.")
        # Configuration files hand over lists.
        object.__setattr__(self, "taps", tuple(self.taps))
        object.__setattr__(self, "mean_blocks", tuple(self.mean_blocks))


@dataclass(frozen=True, kw_only=True)
class RuleContext:
    """What a function in :class:`Steering` may want to know.

    Attributes:
        block: index of the changed block.
        grid: (h, w) of the patches.
        mean_attention: (B, heads, P, P) of ``DenseOptions.mean_blocks``; None without them.
    """

    block: int
    grid: Grid
    mean_attention: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Steering:
    """What is known only when an image is seen.

    Attributes:
        affinity: (B, M, M) weights that replace the rule's, the same for every head and without class token; v is
            resized to their grid, and the result lives on it (ProxyCLIP, CorrCLIP).
        affinity_grid: (h', w') with h' * w' = M.
        modify_scores: changes the scores (B, heads, P, P) behind the temperature, before distance term and softmax;
            called for each pair of the rule.
        modify_weights: changes the weights (B, heads, P, P) behind the rule, before heads are merged.
    """

    affinity: Tensor | None = None
    affinity_grid: Grid | None = None
    modify_scores: Callable[[Tensor, RuleContext], Tensor] | None = None
    modify_weights: Callable[[Tensor, RuleContext], Tensor] | None = None

    def __post_init__(self) -> None:
        if self.affinity is None:
            return
        shape = tuple(self.affinity.shape)
        cells = None if self.affinity_grid is None else self.affinity_grid[0] * self.affinity_grid[1]
        if len(shape) != 3 or shape[1:] != (cells, cells):
            raise ValueError(
                f"Expected argument `affinity` to be (B, M, M) with M = h' * w' of affinity_grid {self.affinity_grid}, "
                f"but got {shape}."
            )


def parse_rule(rule: str) -> tuple[str, ...]:
    """Return the pairs of a rule, empty for ``value`` and ``neighbourhood``.

    Raises:
        ValueError: if the rule does not exist.
    """
    if rule in _WHOLE_RULES:
        return ()
    pairs = tuple(rule.split("+"))
    if not all(pair in PAIRS for pair in pairs):
        raise ValueError(
            f"Unknown attention rule {rule!r}. Expected 'value', 'neighbourhood', or pairs out of {', '.join(PAIRS)} "
            f"joined by '+', such as 'qq+kk'."
        )
    return pairs


def _check_choice(name: str, value: object, choices: tuple) -> None:
    if value not in choices:
        raise ValueError(f"Expected argument `{name}` to be one of {choices}, but got {value!r}.")
