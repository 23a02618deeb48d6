"""Content-Dependent Transfer of MAFT+ (Jiao et al., ECCV 2024): text rows that look at the image first."""

import math
from typing import Literal, get_args

import torch
from mmseg.registry import MODELS
from torch import Tensor, nn

from mmseg_plugins.classify.tokens import TOKEN_ORDERS, TokenOrder, check_token_order

# B batch, T text rows (void included), D joint width, h w grid, N = h*w tokens

TransferVariant = Literal["semantic", "panoptic"]
TRANSFER_VARIANTS: tuple[str, ...] = get_args(TransferVariant)
_CHOICES = (TRANSFER_VARIANTS, TOKEN_ORDERS)

_TEMPERATURE = 10000.0  # of the sine code, as in DETR
_EPS = 1e-6


def sine_code(width: int, grid: tuple[int, int], *, device: torch.device | None = None) -> Tensor:
    """Return DETR's normalised sine code of every position.

    Coordinates count from 1 and are scaled to 2 pi; the first half of the channels is y, the second x, and within a
    half sine and cosine alternate.

    Args:
        width: number of channels D, even.
        grid: (h, w).
        device: where to make it.

    Returns:
        (D, h, w) float32.

    Raises:
        ValueError: if the width is odd.
    """
    if width % 2:
        raise ValueError(f"Expected argument `width` to be even, one half per axis, but got {width}.")
    half = width // 2
    steps = torch.arange(half, dtype=torch.float32, device=device)
    frequency = _TEMPERATURE ** (2 * torch.div(steps, 2, rounding_mode="floor") / half)

    def axis(length: int) -> Tensor:
        place = torch.arange(1, length + 1, dtype=torch.float32, device=device) / (length + _EPS) * 2 * math.pi
        angle = place[:, None] / frequency
        return torch.where(steps % 2 == 0, angle.sin(), angle.cos())

    height, columns = grid
    y_DHW = axis(height).T[:, :, None].expand(half, height, columns)
    x_DHW = axis(columns).T[:, None, :].expand(half, height, columns)
    return torch.cat([y_DHW, x_DHW])


class CrossAttention(nn.Module):
    """The one layer of the transfer, under its published parameter names.

    Args:
        embed_dim: D.
        heads: attention heads.
    """

    def __init__(self, embed_dim: int, heads: int) -> None:
        super().__init__()
        self.multihead_attn = nn.MultiheadAttention(embed_dim, heads, batch_first=True)
        self.norm = nn.LayerNorm(embed_dim)
        self.MLP = nn.Linear(embed_dim, embed_dim)
        for parameter in self.multihead_attn.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def attend(self, rows_BTD: Tensor, tokens_BND: Tensor, code_ND: Tensor, *, weights: bool = False) -> tuple:
        """Let the rows attend to the tokens; the position code goes to the keys only.

        Returns:
            (B, T, D), and the (B, T, N) weights averaged over heads, None without ``weights``.
        """
        keys = tokens_BND + code_ND.to(tokens_BND.dtype)
        return self.multihead_attn(rows_BTD, keys, tokens_BND, need_weights=weights)


@MODELS.register_module()
class ContentDependentTransfer(nn.Module):
    """Move text rows towards an image by one cross-attention layer.

    With A the attention's output and M = MLP(A), the ``semantic`` variant gives LayerNorm(rows + M) and the
    ``panoptic`` one rows + LayerNorm(M). Both come under the same parameter names and differ in the numbers, so a model
    says which it is; None leaves it open until a checkpoint settles it (:meth:`settle`). The result is not of unit
    length: that of the semantic variant is about sqrt(D) long, as in the release.

    Args:
        embed_dim: D, width of text rows and tokens.
        heads: attention heads.
        variant: see above.
        token_order: how the map is read as tokens, see :func:`~mmseg_plugins.classify.tokens.reorder_channels`; None
            leaves it open, and then is ``legacy`` for a file that does not say (a published one).

    Raises:
        ValueError: if a choice does not exist, or the width is no multiple of the heads.
    """

    def __init__(
        self,
        *,
        embed_dim: int,
        heads: int = 8,
        variant: TransferVariant | None = None,
        token_order: TokenOrder | None = None,
    ) -> None:
        super().__init__()
        if token_order is not None:
            check_token_order(token_order)
        if variant is not None:
            check_variant(variant)
        if embed_dim % heads:
            raise ValueError(
                f"the text transfer is {embed_dim} wide, which {heads} heads do not divide. Set heads "
                "(transfer_heads of MAFTPlus) to a divisor."
            )
        self.embed_dim, self.heads = embed_dim, heads
        self._variant, self._token_order = variant, token_order
        self.cross_atten = CrossAttention(embed_dim, heads)
        if variant == "panoptic":  # rows + LayerNorm(0): the transfer starts as the identity
            nn.init.zeros_(self.cross_atten.MLP.weight)
            nn.init.zeros_(self.cross_atten.MLP.bias)

    @property
    def variant(self) -> TransferVariant:
        """Which arithmetic this model has.

        Raises:
            ValueError: if neither the configuration nor a checkpoint has said.
        """
        if self._variant is None:
            raise ValueError(
                "MAFT+'s text transfer has no variant yet, and its weights do not tell it. Set variant='semantic' or "
                "variant='panoptic' (released: maftp_b.pth and maftp_l.pth are semantic, maftp_l_pano.pth panoptic)."
            )
        return self._variant

    @property
    def token_order(self) -> TokenOrder:
        """How the map is read as tokens; ``legacy`` where nobody has said."""
        return self._token_order or "legacy"

    @property
    def is_settled(self) -> bool:
        """Whether the variant is known."""
        return self._variant is not None

    @property
    def has_token_order(self) -> bool:
        """Whether the configuration or a checkpoint has said how the map is read."""
        return self._token_order is not None

    def check_choices(
        self, *, variant: TransferVariant | None = None, token_order: TokenOrder | None = None, source: str
    ) -> None:
        """Raise where a checkpoint says something else of itself than the configuration.

        Args:
            variant: what it says; None: nothing.
            token_order: the same.
            source: what says so, for the message.

        Raises:
            ValueError: naming the option.
        """
        for name, said, own in (("variant", variant, self._variant), ("token_order", token_order, self._token_order)):
            if None not in (said, own) and said != own:
                raise ValueError(
                    f"{source} is of {name} {said!r}, but this model was built with {name}={own!r}: the numbers would "
                    f"be wrong without an error. Set {name}={said!r}, or load another file."
                )

    def settle(
        self, *, variant: TransferVariant | None = None, token_order: TokenOrder | None = None, source: str
    ) -> None:
        """Take over what a checkpoint says, where the configuration left it open; see :meth:`check_choices`."""
        self.check_choices(variant=variant, token_order=token_order, source=source)
        if variant is not None:
            check_variant(variant)
        if token_order is not None:
            check_token_order(token_order)
        self._variant, self._token_order = variant or self._variant, token_order or self._token_order

    def get_extra_state(self) -> Tensor:
        """Return variant and token order for the checkpoint, (2,) int64: places in the lists of choices, -1 unknown."""
        chosen = (self._variant, self.token_order)
        return torch.tensor([-1 if name is None else _CHOICES[i].index(name) for i, name in enumerate(chosen)])

    def set_extra_state(self, state: Tensor) -> None:
        """Take over what :meth:`get_extra_state` gave; see :meth:`settle`."""
        variant, token_order = recorded_choices(state)
        self.settle(variant=variant, token_order=token_order, source="the checkpoint")

    def position_code(self, tokens_BDhw: Tensor) -> Tensor:
        """Return the (D, h, w) code that the keys get."""
        return sine_code(self.embed_dim, tuple(tokens_BDhw.shape[2:]), device=tokens_BDhw.device)

    def attend(self, rows: Tensor, tokens_BDhw: Tensor, *, weights: bool = False) -> tuple[Tensor, Tensor | None]:
        """Return the attention's (B, T, D) output in front of the MLP, and with ``weights`` its (B, T, N) weights."""
        rows_BTD = rows.expand(len(tokens_BDhw), -1, -1)
        code_ND = self.position_code(tokens_BDhw).flatten(1).T
        tokens_BND = tokens_BDhw.flatten(2).transpose(1, 2)
        return self.cross_atten.attend(rows_BTD.to(tokens_BND.dtype), tokens_BND, code_ND, weights=weights)

    def finish(self, rows: Tensor, attended_BTD: Tensor) -> Tensor:
        """Turn the attention's output into the transferred rows, (B, T, D)."""
        norm, moved = self.cross_atten.norm, self.cross_atten.MLP(attended_BTD)
        if self.variant == "semantic":
            return norm((rows + moved).to(norm.weight.dtype))
        return rows + norm(moved.to(norm.weight.dtype))

    def forward(self, rows: Tensor, tokens_BDhw: Tensor) -> Tensor:
        """Move the rows.

        Args:
            rows: (T, D) or (B, T, D) unit text rows, void included.
            tokens_BDhw: the image's tokens, :func:`~mmseg_plugins.classify.tokens.image_tokens`.

        Returns:
            (B, T, D), not of unit length.

        Raises:
            ValueError: if widths do not fit, or the variant is not known.
        """
        for name, width in (("rows", rows.shape[-1]), ("tokens", tokens_BDhw.shape[1])):
            if width != self.embed_dim:
                raise ValueError(f"Expected {name} of width {self.embed_dim}, but got {width}.")
        attended, _ = self.attend(rows, tokens_BDhw)
        return self.finish(rows, attended)


def recorded_choices(state: Tensor) -> tuple[TransferVariant | None, TokenOrder | None]:
    """Read the variant and the token order that a checkpoint trained here carries (its ``_extra_state``).

    Raises:
        ValueError: if the record is of another form.
    """
    numbers = state.flatten().tolist()
    if len(numbers) != 2 or not all(-1 <= number < len(names) for number, names in zip(numbers, _CHOICES, strict=True)):
        raise ValueError(f"the record of MAFT+'s text transfer should be two choices, but is {numbers}.")
    return tuple(None if number < 0 else names[number] for number, names in zip(numbers, _CHOICES, strict=True))


def check_variant(variant: str) -> None:
    """Raise unless there is such a variant.

    Raises:
        ValueError: naming the choices.
    """
    if variant not in TRANSFER_VARIANTS:
        raise ValueError(f"Expected argument `variant` to be one of {TRANSFER_VARIANTS}, but got {variant!r}.")
