"""The pre-norm transformer block of CLIP's image and text towers, under OpenAI's parameter names."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmseg_plugins.towers.attention import merge_heads, split_heads
from mmseg_plugins.towers.config import Activation

# B batch, P tokens, W width, h heads, d head width, E experts

BlockInput = Callable[[int, Tensor], Tensor]
"""Changes what goes into a block: its index and (B, P, W) to (B, P, W)."""

_QUICK_GELU_SLOPE = 1.702  # OpenAI's approximation of GELU


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x), the activation OpenAI's CLIP was trained with."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply the activation element by element."""
        return x * torch.sigmoid(_QUICK_GELU_SLOPE * x)


def build_activation(name: Activation) -> nn.Module:
    """Return the activation of this name.

    Raises:
        ValueError: if there is none.
    """
    choices: dict[str, Callable[[], nn.Module]] = {
        "gelu": nn.GELU,
        "gelu_tanh": lambda: nn.GELU(approximate="tanh"),
        "quick_gelu": QuickGELU,
    }
    if name not in choices:
        raise ValueError(f"Expected argument `act` to be one of {tuple(choices)}, but got {name!r}.")
    return choices[name]()


class LayerScale(nn.Module):
    """A learned factor for each channel."""

    def __init__(self, width: int, initial: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), initial))

    def forward(self, x: Tensor) -> Tensor:
        """Scale the last axis."""
        return x * self.gamma


class Attention(nn.Module):
    """Multi-head self-attention with one input projection for q, k and v.

    Args:
        width: token width.
        heads: number of heads.

    Raises:
        ValueError: if the heads do not divide the width.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"Attention width {width} cannot be divided into {heads} heads.")
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.normal_(self.in_proj_weight, std=width**-0.5)
        nn.init.zeros_(self.out_proj.bias)

    @property
    def scale(self) -> float:
        """Head width^-0.5, the factor of the ordinary scores."""
        return (self.in_proj_weight.shape[1] // self.heads) ** -0.5

    def project(self, normed_BPW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return q, k and v, each (B, heads, P, d), biases included and unscaled."""
        stacked = F.linear(normed_BPW, self.in_proj_weight, self.in_proj_bias)
        q, k, v = (split_heads(part, self.heads) for part in stacked.chunk(3, dim=-1))
        return q, k, v

    def project_value(self, normed_BPW: Tensor) -> Tensor:
        """Return v alone, (B, heads, P, d)."""
        width = self.in_proj_weight.shape[1]
        return split_heads(
            F.linear(normed_BPW, self.in_proj_weight[2 * width :], self.in_proj_bias[2 * width :]), self.heads
        )

    def output(self, context_BhPd: Tensor) -> Tensor:
        """Join the heads and apply the output projection: (B, P, W)."""
        return self.out_proj(merge_heads(context_BhPd))

    def forward(self, normed_BPW: Tensor, mask: Tensor | None = None, *, is_causal: bool = False) -> Tensor:
        """Attend in the ordinary way.

        Args:
            normed_BPW: (B, P, W).
            mask: added to the scores, or boolean with True where attention is allowed; broadcast to (B, heads, P, P).
            is_causal: whether a token sees only itself and what stands before it.
        """
        q, k, v = self.project(normed_BPW)
        return self.output(F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=is_causal))


class Mlp(nn.Module):
    """Two linear layers with an activation between them."""

    def __init__(self, width: int, hidden: int, act: Activation) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, hidden)
        self.gelu = build_activation(act)
        self.c_proj = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to the last axis."""
        return self.c_proj(self.gelu(self.c_fc(x)))


class Block(nn.Module):
    """Pre-norm residual block: attention, then MLP (or experts, as in CLIP-MoE).

    Args:
        width: token width.
        heads: attention heads.
        mlp_ratio: hidden width of the MLP over ``width``.
        act: activation.
        norm_eps: epsilon of the layer norms.
        layer_scale: initial per-channel factors behind attention and MLP; None: none.
        experts: experts in the place of the MLP; 0: an MLP.
        experts_per_token: how many experts a token is sent to.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        mlp_ratio: float = 4.0,
        act: Activation = "gelu",
        norm_eps: float = 1e-5,
        layer_scale: float | None = None,
        experts: int = 0,
        experts_per_token: int = 2,
    ) -> None:
        super().__init__()
        hidden = int(width * mlp_ratio)
        self.ln_1 = nn.LayerNorm(width, eps=norm_eps)
        self.attn = Attention(width, heads)
        self.ls_1 = nn.Identity() if layer_scale is None else LayerScale(width, layer_scale)
        self.ln_2 = nn.LayerNorm(width, eps=norm_eps)
        self.experts_per_token = experts_per_token
        if experts:
            self.experts = nn.ModuleList(Mlp(width, hidden, act) for _ in range(experts))
            self.gate = nn.Linear(width, experts, bias=False)
        else:
            self.mlp = Mlp(width, hidden, act)
        self.ls_2 = nn.Identity() if layer_scale is None else LayerScale(width, layer_scale)

    def forward(self, x: Tensor, mask: Tensor | None = None, *, is_causal: bool = False) -> Tensor:
        """Run the unchanged block: (B, P, W) -> (B, P, W)."""
        return self.mlp_step(x + self.ls_1(self.attn(self.ln_1(x), mask, is_causal=is_causal)))

    def mlp_step(self, x: Tensor) -> Tensor:
        """Second half of the block: x + mlp(ln_2(x))."""
        return x + self.mlp_residual(self.ln_2(x))

    def mlp_residual(self, normed: Tensor) -> Tensor:
        """MLP or experts of what the second layer norm gives."""
        if hasattr(self, "gate"):
            return self.ls_2(mix_experts(normed, self.router_logits(normed), self.experts, self.experts_per_token))
        return self.ls_2(self.mlp(normed))

    def router_logits(self, normed: Tensor) -> Tensor:
        """Scores of the experts for each token, (B, P, E), in float32."""
        return self.gate(normed).float()


def mix_experts(tokens: Tensor, router_logits: Tensor, experts: nn.ModuleList, per_token: int) -> Tensor:
    """Send each token to its best experts and add their answers, weighted by the renormalised gates (CLIP-MoE).

    Args:
        tokens: (..., W).
        router_logits: (..., E).
        experts: E modules that act on the last axis.
        per_token: how many experts a token is sent to.

    Returns:
        (..., W).
    """
    gates, chosen = router_logits.softmax(-1).topk(per_token, dim=-1)
    gates = (gates / gates.sum(-1, keepdim=True)).to(tokens.dtype)
    flat, result = tokens.flatten(0, -2), torch.zeros_like(tokens).flatten(0, -2)
    gates, chosen = gates.flatten(0, -2), chosen.flatten(0, -2)
    for index, expert in enumerate(experts):
        rows, slots = torch.where(chosen == index)
        result = result.index_add(0, rows, gates[rows, slots, None] * expert(flat[rows]))
    return result.view_as(tokens)


class Transformer(nn.Module):
    """A stack of blocks; ``resblocks`` as in the published names."""

    def __init__(self, blocks: list[Block]) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(blocks)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        *,
        is_causal: bool = False,
        before_block: BlockInput | None = None,
    ) -> Tensor:
        """Run all blocks: (B, P, W) -> (B, P, W); ``before_block`` may change each one's input (deep prompts)."""
        for index, block in enumerate(self.resblocks):
            x = x if before_block is None else before_block(index, x)
            x = block(x, mask, is_causal=is_causal)
        return x


def build_transformer(
    width: int,
    layers: int,
    heads: int,
    *,
    mlp_ratio: float,
    act: Activation,
    norm_eps: float,
    layer_scale: float | None = None,
    experts: int = 0,
    experts_per_token: int = 2,
    expert_layers: int = 0,
) -> Transformer:
    """Build a stack whose last ``expert_layers`` blocks have experts where ``experts`` is above 0."""
    first_expert = layers - min(expert_layers, layers) if experts else layers
    return Transformer(
        [
            Block(
                width,
                heads,
                mlp_ratio=mlp_ratio,
                act=act,
                norm_eps=norm_eps,
                layer_scale=layer_scale,
                experts=experts if index >= first_expert else 0,
                experts_per_token=experts_per_token,
            )
            for index in range(layers)
        ]
    )
