"""Filling a CLIP model from a file in any published layout, part by part, whole or not at all."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mmseg_plugins.towers.files import read_tensors, unwrap_state_dict
from mmseg_plugins.towers.layouts import compare_keys, part_of, to_openai_layout
from mmseg_plugins.towers.model import Clip

WeightsSource = str | Path | Mapping[str, Tensor]

_SPARSE_ROWS, _SPARSE_IDS = "token_embedding.rows", "token_embedding.ids"
# What the names of a Clip's state start with, part by part.
_LEADING = {"image": "visual.", "text": "text.", "logits": "logit_"}
_NOT_IN_FILES = ("num_batches_tracked",)  # counters that files may leave out


@dataclass(frozen=True)
class ClipState:
    """A published file's tensors under the names of a :class:`~mmseg_plugins.towers.model.Clip`.

    Attributes:
        tensors: name -> tensor; names that belong to no part of a CLIP model keep theirs.
        parts: leading texts of the names that the file declares to hold: ``visual.``, ``text.``, ``logit_``.
        known_ids: token ids that have a row, where the file stores only some.
        layout: name of the layout that was found.
    """

    tensors: dict[str, Tensor]
    parts: tuple[str, ...]
    known_ids: list[int] | None = None
    layout: str = ""


def clip_state(clip: Clip, content: Mapping[str, Tensor]) -> ClipState:
    """Bring a file in any published layout to the names of a model's state; towers that the model lacks are left out.

    Args:
        clip: the model.
        content: flat tensors, wrappers removed.

    Raises:
        ValueError: if the layout is not known, or a token table is incomplete.
    """
    tensors, layout = to_openai_layout(content)
    wanted = {"image": clip.visual is not None, "text": clip.text is not None, "logits": True, "unknown": True}
    groups: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if wanted[part_of(key)]:
            groups.setdefault(part_of(key), {})[key] = value
    if "logits" in groups:  # some files keep them as vectors of one, and SigLIP's have a bias that others lack
        logits = {key: value.reshape(()) for key, value in groups["logits"].items()}
        groups["logits"] = {key: value for key, value in logits.items() if getattr(clip, key, None) is not None}
    known = None
    if "text" in groups:
        groups["text"], known = with_full_token_table(groups["text"], clip.text.config.vocab_size)
    named = {
        (f"text.{key}" if part == "text" else key): value for part in groups for key, value in groups[part].items()
    }
    return ClipState(named, tuple(_LEADING[part] for part in groups if part in _LEADING), known, layout)


def load_clip_weights(clip: Clip, source: WeightsSource, *, partial: bool = False) -> tuple[str, ...]:
    """Fill a model from a file in any published layout.

    A part of the model (image tower, text tower) is filled whole or not at all; parts that only the file has are left
    alone. Tensors of lower precision are widened.

    Args:
        clip: the model.
        source: a file, or its content.
        partial: whether a tower that the file does not have may keep its weights; otherwise that is an error.

    Returns:
        Names of the parts that were filled: ``image``, ``text``, ``logits``.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if keys are missing, unexpected or of another shape, or a tower has no weights in the file.
    """
    shown = "the given weights" if isinstance(source, Mapping) else str(source)
    content = source if isinstance(source, Mapping) else read_tensors(source)
    try:
        state = clip_state(clip, unwrap_state_dict(content))
    except ValueError as error:
        raise ValueError(f"{shown}: {error}") from error
    _check_parts(clip, state, f"{shown} ({state.layout})", partial)
    own = clip.state_dict()
    for part, leading in _LEADING.items():
        if leading in state.parts and part != "logits":
            what = f"the {part} tower of {clip.config.name!r} ({shown})"
            compare_keys(_starting(own, leading), _starting(state.tensors, leading), what=what, optional=_NOT_IN_FILES)
    # strict=False: parts that the file does not have stay; what it has was compared key by key.
    clip.load_state_dict(state.tensors, strict=False)
    if clip.text is not None and _LEADING["text"] in state.parts:
        clip.text.set_known_ids(state.known_ids)
    return tuple(part for part, leading in _LEADING.items() if leading in state.parts)


def _starting(tensors: Mapping[str, Tensor], leading: str) -> dict[str, Tensor]:
    return {key: value for key, value in tensors.items() if key.startswith(leading)}


def _check_parts(clip: Clip, state: ClipState, shown: str, partial: bool) -> None:
    unknown = sorted(key for key in state.tensors if not key.startswith(tuple(_LEADING.values())))
    if unknown:
        raise ValueError(f"{shown} has {len(unknown)} keys of no part of a CLIP model: {unknown[0]}, ...")
    towers = {"image": clip.visual, "text": clip.text}
    wanted = [name for name, tower in towers.items() if tower is not None]
    absent = [name for name in wanted if _LEADING[name] not in state.parts]
    if (absent and not partial) or len(absent) == len(wanted):
        remedy = f"Build the model with {absent[0]}=False, or give" if len(wanted) > 1 else "Give"
        raise ValueError(f"{shown} has no weights of the {' and the '.join(absent)} tower. {remedy} a file that has.")


def with_full_token_table(tensors: dict[str, Tensor], vocab_size: int) -> tuple[dict[str, Tensor], list[int] | None]:
    """Scatter a token table that stores only the rows of its known ids.

    Args:
        tensors: a text tower's tensors under OpenAI's names.
        vocab_size: rows of the whole table.

    Returns:
        The tensors with ``token_embedding.weight``, and the known ids; None where the file has all rows.

    Raises:
        ValueError: if rows and ids do not match.
    """
    if _SPARSE_ROWS not in tensors:
        return tensors, None
    rows, ids = tensors[_SPARSE_ROWS], tensors.get(_SPARSE_IDS)
    if ids is None or len(ids) != len(rows):
        raise ValueError(f"{_SPARSE_ROWS} has {len(rows)} rows, but {_SPARSE_IDS} does not give as many ids.")
    table = torch.zeros(vocab_size, rows.shape[1], dtype=rows.dtype).index_copy(0, ids.long(), rows)
    rest = {key: value for key, value in tensors.items() if key not in (_SPARSE_ROWS, _SPARSE_IDS)}
    return {**rest, "token_embedding.weight": table}, ids.tolist()
