"""Checks of a DenseCLIP config: widths and channels that must agree, with the numbers that would."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from mmseg_plugins.methods.denseclip.model import DenseCLIP


def check_widths(model: "DenseCLIP", token_embed_dim: int, text_dim: int) -> None:
    """Raise unless all parts have the same joint width and the contexts fit the text encoder.

    Raises:
        ValueError: naming the part and both numbers.
    """
    found = {
        "text_dim": text_dim,
        "text_encoder.embed_dim": model.text_encoder.embed_dim,
        "context_decoder.visual_dim": model.context_decoder.visual_dim,
        "the backbone's output_dim": getattr(model.backbone, "embed_dim", text_dim),
    }
    if len(set(found.values())) > 1:
        shown = ", ".join(f"{name} {value}" for name, value in found.items())
        raise ValueError(f"all parts must have one joint width, but got {shown}.")
    if token_embed_dim != model.text_encoder.width:
        raise ValueError(
            f"token_embed_dim is {token_embed_dim}, but text_encoder.transformer_width is {model.text_encoder.width}."
        )


def check_channels(model: "DenseCLIP") -> None:
    """Raise unless class names, heads and pyramid agree on the number of classes.

    Raises:
        ValueError: naming what should stand in the config.
    """
    classes = model.num_classes
    if len(model.vocabulary.rows) != classes:
        raise ValueError("class_names must give one name for each class: synonyms are for predictions alone.")
    heads = {"decode_head": model.decode_head}
    if model.with_identity_head:
        heads["identity_head"] = model.identity_head
    for name, head in heads.items():
        if head.num_classes != classes:
            raise ValueError(
                f"{name}.num_classes is {head.num_classes}, but class_names has {classes} classes. Set it to {classes}."
            )
    known = getattr(model.backbone, "level_channels", None)
    if known is None:
        return
    wanted = list(known)
    if model.score_concat_index is not None:
        _add_scores(wanted, model.score_concat_index, classes)
    taker, name = (model.neck, "neck") if model.with_neck else (model.decode_head, "decode_head")
    given = getattr(taker, "in_channels", None)
    # A head without a neck may take a part of the levels, or the text embeddings besides.
    if isinstance(given, Sequence) and len(given) == len(wanted) and _differs(given, wanted):
        raise _other_channels(model, name, given, wanted)


def check_pyramid(model: "DenseCLIP", pyramid: Sequence[Tensor]) -> None:
    """Raise unless the neck takes these levels: what a backbone of mmseg or timm gives, only its output tells.

    Raises:
        ValueError: naming what should stand in the config.
    """
    found = [level.shape[1] for level in pyramid]
    given = getattr(model.neck, "in_channels", None)
    if isinstance(given, Sequence) and list(given) != found:
        raise _other_channels(model, "neck", given, found)


def _other_channels(model: "DenseCLIP", name: str, given: Sequence[int], wanted: Sequence[int | None]) -> ValueError:
    shown = [value if value is not None else "?" for value in wanted]
    return ValueError(
        f"{name}.in_channels is {list(given)}, but the pyramid has {shown} channels: the score map of "
        f"{model.num_classes} classes joins level {model.score_concat_index}."
    )


def _add_scores(channels: list[int | None], index: int, classes: int) -> None:
    if not 0 <= index < len(channels):
        raise ValueError(f"score_concat_index must be a level from 0 to {len(channels) - 1}, but got {index}.")
    if channels[index] is not None:
        channels[index] += classes


def _differs(given: Sequence[int], wanted: Sequence[int | None]) -> bool:
    return any(right is not None and left != right for left, right in zip(given, wanted, strict=True))
