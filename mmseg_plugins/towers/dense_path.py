"""Runs a stack of transformer blocks with changed attention, as :class:`DenseOptions` says.

The stack is anything that offers :class:`DenseBlock`: CLIP's own blocks and timm's through their adapter.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from mmseg_plugins.ops._precision import is_autocast_on, without_autocast
from mmseg_plugins.towers.attention import (
    gaussian_neighbourhood,
    join_heads,
    merge_heads,
    norm_temperature,
    resize_heads,
    rule_output,
    rule_weights,
)
from mmseg_plugins.towers.dense import DenseOptions, RuleContext, Steering
from mmseg_plugins.towers.position import Grid

# B batch, h heads, P tokens with class token, N patches, d head width, W trunk width

_BLOCK_TAPS = ("block", "middle", "ln_2", "attention")
_CHANGED_TAPS = ("q", "k", "v", "attention", "temperature", "stream", "tokens", "tokens_ordinary")


class DenseBlock(Protocol):
    """What the dense path needs of a pre-norm block."""

    scale: float

    def __call__(self, x: Tensor) -> Tensor:
        """Run the unchanged block."""

    def norm_attention(self, x: Tensor) -> Tensor:
        """Norm in front of the attention."""

    def project(self, normed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return q, k, v, (B, heads, P, d) each."""

    def project_value(self, normed: Tensor) -> Tensor:
        """Return v alone."""

    def attention_output(self, context: Tensor) -> Tensor:
        """(B, heads, P, d) -> (B, P, W), per-channel factors included."""

    def norm_mlp(self, x: Tensor) -> Tensor:
        """Norm in front of the MLP."""

    def mlp_output(self, normed: Tensor) -> Tensor:
        """MLP with its per-channel factors."""


@dataclass
class DenseResult:
    """What comes out of the stack.

    Attributes:
        stream: (B, P, W) of the changed stream in front of the last norm; without class token where an affinity was
            given.
        ordinary: (B, P, W) of the unchanged stream, None where it was not run.
        grid: (h, w) of the patches of ``stream``.
        ordinary_grid: (h, w) of the patches of ``ordinary``.
        handed_over: query, key, value (B, N, W) where asked for.
        taps: results under their names.
    """

    stream: Tensor
    ordinary: Tensor | None
    grid: Grid
    ordinary_grid: Grid
    handed_over: tuple[Tensor, Tensor, Tensor] | None = None
    taps: dict[str, Tensor] = field(default_factory=dict)


def run_blocks(
    blocks: Sequence[DenseBlock],
    x_BPW: Tensor,
    grid: Grid,
    options: DenseOptions,
    steering: Steering | None = None,
    *,
    prefix: int = 1,
) -> DenseResult:
    """Run the blocks, the last ones changed.

    Args:
        blocks: the stack.
        x_BPW: (B, prefix + N, W) input of the first block.
        grid: (h, w) with h * w = N.
        options: the switches.
        steering: what is known only at call time.
        prefix: tokens in front of the patches.

    Raises:
        ValueError: if an index lies outside the stack, a tap does not exist, or an affinity meets a residual on
            another grid.
    """
    return _DensePath(blocks, grid, options, steering or Steering(), prefix).run(x_BPW)


class _DensePath:
    """One run through the stack; holds what its steps share."""

    def __init__(
        self, blocks: Sequence[DenseBlock], grid: Grid, options: DenseOptions, steering: Steering, prefix: int
    ) -> None:
        self.blocks, self.grid, self.options, self.steering, self.prefix = blocks, grid, options, steering, prefix
        self.first = self._position(options.first_block, "first_block")
        self.mean_blocks = {self._position(index, "mean_blocks") for index in options.mean_blocks}
        self.taps: dict[str, Tensor] = {}
        self.wanted = self._wanted_taps()
        self._check_affinity()
        self.mean_attention: Tensor | None = None
        self.mean_count = 0
        self.handed_over: tuple[Tensor, Tensor, Tensor] | None = None

    def _position(self, index: int, what: str) -> int:
        depth = len(self.blocks)
        if not -depth <= index < depth:
            raise ValueError(f"{what} {index} lies outside this tower of {depth} blocks.")
        return index % depth

    def _check_affinity(self) -> None:
        is_last_only = self.options.stream == "replace" and self.first == len(self.blocks) - 1
        if self.steering.affinity is not None and not is_last_only:
            raise ValueError(
                "An affinity replaces the attention of the last block: set stream='replace', first_block=-1."
            )

    def _wanted_taps(self) -> dict[tuple[str, int], list[str]]:
        wanted: dict[tuple[str, int], list[str]] = {}
        for tap in self.options.taps:
            kind, _, index = tap.partition("/")
            is_block = bool(index) and kind in _BLOCK_TAPS and index.lstrip("-").isdigit()
            if not is_block and tap not in _CHANGED_TAPS:
                raise ValueError(
                    f"Unknown tap {tap!r}. Expected one of {', '.join(_CHANGED_TAPS)}, or one of "
                    f"{', '.join(_BLOCK_TAPS)} followed by '/' and a block, such as 'ln_2/-3'."
                )
            key = (kind, self._position(int(index), f"tap {tap!r}:")) if is_block else (tap, -1)
            wanted.setdefault(key, []).append(tap)
        return wanted

    def run(self, x: Tensor) -> DenseResult:
        for index in range(self.first):
            x = self._ordinary(index, x)
        stream, ordinary = (self._parallel if self.options.stream == "parallel" else self._replace)(x)
        grid = self.steering.affinity_grid or self.grid
        return DenseResult(stream, ordinary, grid, self.grid, self.handed_over, self.taps)

    def _parallel(self, x: Tensor) -> tuple[Tensor, Tensor]:
        stream, ordinary = x, x
        for index in range(self.first, len(self.blocks)):
            stream = stream + self._changed_attention(index, ordinary)
            ordinary = self._ordinary(index, ordinary)
        if self.options.keep_class_token and self.prefix:
            stream = torch.cat([ordinary[:, : self.prefix], stream[:, self.prefix :]], dim=1)
        return stream, ordinary

    def _replace(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        stream, ordinary = x, x
        needs_ordinary = self.options.ordinary or any(
            index >= self.first or kind == "tokens_ordinary" for kind, index in self.wanted
        )
        for index in range(self.first, len(self.blocks)):
            block, attended = self.blocks[index], self._changed_attention(index, stream)
            stream = self._add_residual(stream, attended) if self.options.residual else attended
            if self.options.mlp:
                stream = stream + block.mlp_output(block.norm_mlp(stream))
            if needs_ordinary:
                ordinary = self._ordinary(index, ordinary)
        return stream, ordinary if needs_ordinary else None

    def _add_residual(self, x: Tensor, attended: Tensor) -> Tensor:
        if self.steering.affinity is None:
            return x + attended
        if self.steering.affinity_grid != self.grid:
            raise ValueError(
                f"An affinity on grid {self.steering.affinity_grid} has no residual on the tower's grid {self.grid}: "
                f"set residual=False, or give the affinity on that grid."
            )
        return x[:, self.prefix :] + attended

    def _ordinary(self, index: int, x: Tensor) -> Tensor:
        block = self.blocks[index]
        mean_wanted = index in self.mean_blocks
        if not mean_wanted and not any(at == index for _, at in self.wanted):
            return block(x)
        normed = block.norm_attention(x)
        q, k, v = block.project(normed)
        if mean_wanted:
            self._add_to_mean(rule_weights(self.options.mean_rule, q, k, v, temperature=block.scale))
        if ("attention", index) in self.wanted:
            self._tap("attention", index, rule_weights("qk", q, k, v, temperature=block.scale))
        middle = x + block.attention_output(rule_output("qk", q, k, v, temperature=block.scale))
        self._tap("middle", index, middle)
        normed = block.norm_mlp(middle)
        self._tap("ln_2", index, normed)
        output = middle + block.mlp_output(normed)
        self._tap("block", index, output)
        return output

    def _add_to_mean(self, weights: Tensor) -> None:
        share = weights / len(self.mean_blocks)
        self.mean_attention = share if self.mean_attention is None else self.mean_attention + share
        self.mean_count += 1

    def _changed_attention(self, index: int, x: Tensor) -> Tensor:
        """Attention of a changed block; the last one's at full precision under autocast.

        Where a method drops the residual, nothing else hides the rounding. It is a 36th of a ViT-B.
        """
        if index != len(self.blocks) - 1 or not is_autocast_on(x):
            return self._attention(index, x)
        with without_autocast(x):
            return self._attention(index, x.float())

    def _attention(self, index: int, x: Tensor) -> Tensor:
        block, is_last = self.blocks[index], index == len(self.blocks) - 1
        normed = block.norm_attention(x)
        needs_qk = is_last and (self.options.qkv or any((name, -1) in self.wanted for name in "qk"))
        if self.options.rule == "value" and not needs_qk and not self._needs_weights(is_last):
            q = k = v = block.project_value(normed)
        else:
            q, k, v = block.project(normed)
        temperature = self._temperature(block, normed)
        if is_last:
            self._record_last(block, q, k, v, temperature)
        if self.steering.affinity is not None:
            return block.attention_output(self._by_affinity(v, is_last))
        return block.attention_output(self._attend(index, q, k, v, temperature, is_last))

    def _temperature(self, block: DenseBlock, normed: Tensor) -> float | Tensor:
        setting = self.options.temperature
        if isinstance(setting, str):
            return block.scale if setting == "head" else norm_temperature(normed, block.scale)
        return float(setting)

    def _record_last(self, block: DenseBlock, q: Tensor, k: Tensor, v: Tensor, temperature: float | Tensor) -> None:
        for name, value in zip("qkv", (q, k, v), strict=True):
            self._tap(name, -1, value)
        if ("temperature", -1) in self.wanted:
            self._tap("temperature", -1, torch.as_tensor(temperature, device=q.device).expand(q.shape[0]))
        if self.options.qkv:
            self.handed_over = tuple(block.attention_output(part)[:, self.prefix :] for part in (q, k, v))

    def _by_affinity(self, v: Tensor, is_last: bool) -> Tensor:
        resized = resize_heads(v[:, :, self.prefix :], self.grid, self.steering.affinity_grid or self.grid)
        if is_last and ("v", -1) in self.wanted:
            self.taps["v_resized"] = resized
        return self.steering.affinity[:, None].to(resized.dtype) @ resized

    def _needs_weights(self, is_last: bool) -> bool:
        steered = self.steering.modify_scores is not None or self.steering.modify_weights is not None
        return steered or self.options.heads != "separate" or (is_last and ("attention", -1) in self.wanted)

    def _attend(
        self, index: int, q: Tensor, k: Tensor, v: Tensor, temperature: float | Tensor, is_last: bool
    ) -> Tensor:
        options, closeness = self.options, None
        if options.gaussian_std is not None:
            closeness = gaussian_neighbourhood(self.grid, options.gaussian_std, prefix=self.prefix, like=v)
        rule = partial(
            rule_weights if self._needs_weights(is_last) else rule_output,
            options.rule,
            q,
            k,
            v,
            temperature=temperature,
            combine=options.combine,
            unit_rows=options.unit_rows,
            iterations=options.iterations,
            closeness=closeness,
        )
        if not self._needs_weights(is_last):
            return rule()
        context = RuleContext(block=index, grid=self.grid, mean_attention=self._checked_mean(index))
        change = self.steering.modify_scores
        weights = rule(modify_scores=None if change is None else lambda scores: change(scores, context))
        if self.steering.modify_weights is not None:
            weights = self.steering.modify_weights(weights, context)
        weights = join_heads(weights, options.heads)
        if is_last:
            self._tap("attention", -1, weights)
        return weights @ v

    def _checked_mean(self, index: int) -> Tensor | None:
        if self.mean_count < len(self.mean_blocks):
            raise ValueError(
                f"mean_blocks {self.options.mean_blocks} must all lie before the first changed block, "
                f"but block {index} is reached first."
            )
        return self.mean_attention

    def _tap(self, kind: str, index: int, value: Tensor) -> None:
        for name in self.wanted.get((kind, index), ()):
            self.taps[name] = value


class ClipBlock:
    """CLIP's own block as the dense path sees it."""

    def __init__(self, block: torch.nn.Module) -> None:
        self.block = block
        self.scale = block.attn.scale

    def __call__(self, x: Tensor) -> Tensor:
        """Run the unchanged block."""
        return self.block(x)

    def norm_attention(self, x: Tensor) -> Tensor:
        """Norm in front of the attention."""
        return self.block.ln_1(x)

    def project(self, normed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return q, k, v, (B, heads, P, d) each."""
        return self.block.attn.project(normed)

    def project_value(self, normed: Tensor) -> Tensor:
        """Return v alone."""
        return self.block.attn.project_value(normed)

    def attention_output(self, context: Tensor) -> Tensor:
        """(B, heads, P, d) -> (B, P, W), per-channel factors included."""
        return self.block.ls_1(self.block.attn.out_proj(merge_heads(context)))

    def norm_mlp(self, x: Tensor) -> Tensor:
        """Norm in front of the MLP."""
        return self.block.ln_2(x)

    def mlp_output(self, normed: Tensor) -> Tensor:
        """MLP or experts."""
        return self.block.mlp_residual(normed)
