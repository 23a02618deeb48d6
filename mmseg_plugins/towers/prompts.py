"""Learned prompts: CoOp's context vectors around a class name, and MaPLe's deeper ones in both towers.

CoOp: Zhou et al., "Learning to Prompt for Vision-Language Models", IJCV 2022. MaPLe: Khattak et al., "MaPLe:
Multi-modal Prompt Learning", CVPR 2023. DenseCLIP's text side is CoOp with a shorter context.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from mmseg_plugins.towers.layouts import compare_keys
from mmseg_plugins.towers.position import Grid, PositionResize
from mmseg_plugins.towers.text import TextTower
from mmseg_plugins.towers.transformer import BlockInput
from mmseg_plugins.towers.vit import DenseViT

# N prompts, L tokens of a prompt without its contexts, n contexts, W text width, V image width, P image tokens

NamePosition = Literal["end", "middle", "front"]

_INITIAL_STD = 0.02  # of CoOp's and MaPLe's vectors
_SAVED_PREFIX = "prompt_learner."
# What the published files keep of the training classes' tokens: another vocabulary has others.
_SAVED_TOKENS = ("token_prefix", "token_suffix")


@dataclass(frozen=True, kw_only=True)
class PromptOptions:
    """How the learned prompts of a model are built.

    Attributes:
        init: words whose token vectors the contexts start from (``a photo of a``); None: random.
        per_class: whether every class has contexts of its own; then the classes cannot be swapped.
        position: where the name stands among the contexts.
        depth: blocks whose contexts are learned anew, 1: only the input (CoOp). MaPLe: 9, or 3 across data sets.
        image: whether the image transformer gets prompts too, made from the text side's (MaPLe).
    """

    init: str | None = None
    per_class: bool = False
    position: NamePosition = "end"
    depth: int = 1
    image: bool = False

    def __post_init__(self) -> None:
        if self.position not in get_args(NamePosition):
            raise ValueError(f"expected position to be one of {get_args(NamePosition)}, but got {self.position!r}.")
        if self.depth < 1:
            raise ValueError(f"expected depth to be at least 1, but got {self.depth}.")
        if self.depth > 1 and self.position != "end":
            raise ValueError("deep prompts stand in front of the name: use position='end', or depth=1.")

    @property
    def is_deep(self) -> bool:
        """Whether there are prompts besides the contexts."""
        return self.depth > 1 or self.image


def insert_contexts(
    embedded_NLW: Tensor,
    tokens_NL: Tensor,
    contexts_NnW: Tensor,
    *,
    position: NamePosition = "end",
    name_lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Put context vectors into prompts of the form start, name, rest.

    Args:
        embedded_NLW: (N, L, W) token vectors without positions.
        tokens_NL: (N, L) ids.
        contexts_NnW: (N, n, W), or (1, n, W) for all prompts.
        position: ``end``: start, contexts, name, rest; ``middle``: the first half of the contexts (rounded down)
            before the name; ``front``: all behind it.
        name_lengths: (N,) tokens of each name; not needed for ``end``.

    Returns:
        (N, L + n, W) vectors and (N, L + n) ids, in which a context has id 0.

    Raises:
        ValueError: if name lengths are needed and missing.
    """
    if name_lengths is None and position != "end":
        raise ValueError(f"position {position!r} needs the names' lengths in tokens: pass name_lengths.")
    prompts, length = tokens_NL.shape
    count = contexts_NnW.shape[1]
    before = {"end": count, "middle": count // 2, "front": 0}[position]
    device = tokens_NL.device
    names_N1 = torch.zeros(prompts, 1, dtype=torch.long, device=device)
    if name_lengths is not None:
        names_N1 = name_lengths.to(device).long()[:, None]
    source, context = torch.arange(length, device=device), torch.arange(count, device=device)
    # Where each token and each context goes: names behind `before` contexts, what follows them behind all.
    tokens_to_NL = source + torch.where(source > names_N1, count, before) * (source > 0)
    contexts_to_Nn = context + 1 + torch.where(context >= before, names_N1, 0)
    order = torch.cat([tokens_to_NL, contexts_to_Nn], dim=1).argsort(dim=1)
    ids = torch.cat([tokens_NL, tokens_NL.new_zeros(prompts, count)], dim=1).gather(1, order)
    contexts = contexts_NnW.to(embedded_NLW.dtype).expand(prompts, -1, -1)
    vectors = torch.cat([embedded_NLW, contexts], dim=1)
    return vectors.gather(1, order[..., None].expand_as(vectors)), ids


def word_vectors(tower: TextTower, words: str, count: int | None = None) -> Tensor:
    """Return the token vectors of words, (n, W), detached; what contexts may start from.

    Args:
        tower: text tower with its weights loaded.
        words: such as ``a photo of a``.
        count: how many of them, from the first; None: all.

    Raises:
        ValueError: if there are fewer than ``count``.
    """
    ids = tower.tokenizer.word_ids(words)
    if count is not None and len(ids) < count:
        raise ValueError(f"{words!r} has {len(ids)} tokens, fewer than the {count} contexts. Use other words.")
    weight = tower.token_embedding.weight.detach()
    return weight[torch.tensor(ids[:count], device=weight.device)].clone()


class DeepPrompts(nn.Module):
    """What MaPLe learns besides the contexts, under its parameter names.

    Args:
        count: context vectors of a prompt (n).
        text_width: width of the text transformer.
        depth: blocks with prompts of their own, the first one included.
        image_width: width of the image transformer; None: prompts for the text tower alone.
    """

    def __init__(self, count: int, text_width: int, *, depth: int, image_width: int | None = None) -> None:
        super().__init__()
        self.count, self.depth = count, depth
        deeper = range(depth - 1)
        self.compound_prompts_text = nn.ParameterList(
            [nn.Parameter(_INITIAL_STD * torch.randn(count, text_width)) for _ in deeper]
        )
        if image_width is not None:
            self.proj = nn.Linear(text_width, image_width)
            self.compound_prompt_projections = nn.ModuleList([nn.Linear(text_width, image_width) for _ in deeper])

    def text_input(self) -> BlockInput | None:
        """Return what overwrites the contexts in front of the text blocks 1 to ``depth`` - 1."""
        if self.depth == 1:
            return None

        def overwrite(index: int, x_NLW: Tensor) -> Tensor:
            if not 0 < index < self.depth:
                return x_NLW
            prompts = self.compound_prompts_text[index - 1].to(x_NLW.dtype).expand(len(x_NLW), -1, -1)
            return torch.cat([x_NLW[:, :1], prompts, x_NLW[:, 1 + self.count :]], dim=1)

        return overwrite

    def image_prompts(self, contexts_nW: Tensor) -> list[Tensor]:
        """Make the image transformer's prompts from the contexts and the deeper text prompts: ``depth`` of (n, V)."""
        deeper = zip(self.compound_prompt_projections, self.compound_prompts_text, strict=True)
        return [self.proj(contexts_nW), *(project(prompt) for project, prompt in deeper)]


def image_input(prompts: Sequence[Tensor]) -> BlockInput:
    """Return what overwrites the last tokens in front of the image blocks 1, 2, ... with (n, V) prompts.

    Args:
        prompts: one for each block, the first block's (which stands in the input already) included.
    """

    def overwrite(index: int, x_BPV: Tensor) -> Tensor:
        if not 0 < index < len(prompts):
            return x_BPV
        prompt = prompts[index].to(x_BPV.dtype)
        return torch.cat([x_BPV[:, : -len(prompt)], prompt.expand(len(x_BPV), -1, -1)], dim=1)

    return overwrite


def append_prompt(tokens_BPV: Tensor, prompt_nV: Tensor, ln_pre: nn.Module) -> Tensor:
    """Put the first block's prompt behind the normed tokens; it has no positions: (B, P + n, V)."""
    prompt = ln_pre(prompt_nV).to(tokens_BPV.dtype)
    return torch.cat([tokens_BPV, prompt.expand(len(tokens_BPV), -1, -1)], dim=1)


def prompted_tokens(
    tower: DenseViT, image_B3HW: Tensor, prompts: Sequence[Tensor], *, position_resize: PositionResize = "size"
) -> tuple[Tensor, Grid]:
    """Run CLIP's image transformer with learned prompts behind the patches (MaPLe).

    Args:
        tower: the image tower.
        image_B3HW: normalised.
        prompts: (n, V) for each of the first blocks, see :meth:`DeepPrompts.image_prompts`.
        position_resize: how the position table meets another grid.

    Returns:
        (B, 1 + h * w, V) of the last block without the prompts (``tower.finish`` brings them to the joint space), and
        (h, w).
    """
    patches, grid = tower.embed_patches(image_B3HW)
    tokens = tower.add_class_token(patches, tower.positions(grid, position_resize))
    tokens = append_prompt(tokens, prompts[0], tower.ln_pre)
    return tower.transformer(tokens, before_block=image_input(prompts))[:, : -len(prompts[0])], grid


class PromptLearner(DeepPrompts):
    """CoOp's and MaPLe's prompts for a frozen CLIP, under their parameter names.

    Args:
        count: context vectors (CoOp: 16 or 4, MaPLe: 2).
        text_width: width of the text transformer.
        num_classes: K for contexts of their own per class; None: shared.
        position: where the name stands.
        depth: 1: CoOp; MaPLe: 9.
        image_width: width of the image transformer for MaPLe, None for CoOp.
    """

    def __init__(
        self,
        count: int,
        text_width: int,
        *,
        num_classes: int | None = None,
        position: NamePosition = "end",
        depth: int = 1,
        image_width: int | None = None,
    ) -> None:
        super().__init__(count, text_width, depth=depth, image_width=image_width)
        self.position = PromptOptions(position=position, depth=depth).position
        shape = (count, text_width) if num_classes is None else (num_classes, count, text_width)
        self.ctx = nn.Parameter(_INITIAL_STD * torch.randn(shape))

    def start_from(self, tower: TextTower, words: str) -> None:
        """Start the contexts from the first words of a phrase.

        Raises:
            ValueError: if the phrase is too short.
        """
        self.ctx.data.copy_(word_vectors(tower, words, self.count))

    def encode(self, tower: TextTower, names: Sequence[str]) -> Tensor:
        """Embed class names, (K, D), not normalised; gradients reach the prompts.

        Args:
            tower: text tower; a name and the contexts must fit its context length.
            names: K names; a full stop is put behind each, as both methods do.

        Raises:
            ValueError: if a prompt is too long, or contexts per class are for another number of classes.
        """
        contexts = self.ctx if self.ctx.dim() == 3 else self.ctx[None]
        if len(contexts) not in (1, len(names)):
            raise ValueError(f"the contexts belong to {len(contexts)} classes, but {len(names)} names were given.")
        prompts = [f"{name}." for name in names]
        tokens = tower.tokenize(prompts)
        longest = int(tokens.argmax(1).max()) + 1 + self.count
        if longest > tower.context_length:
            raise ValueError(
                f"a name with {self.count} contexts takes {longest} tokens, but this text tower reads "
                f"{tower.context_length}. Shorten the name."
            )
        tokens = tokens[:, : tower.context_length - self.count].to(self.ctx.device)
        lengths = torch.tensor([len(tower.tokenizer.word_ids(name)) for name in names])
        vectors, ids = insert_contexts(
            tower.token_embedding(tokens), tokens, contexts, position=self.position, name_lengths=lengths
        )
        return tower.encode_embedded(vectors, ids, before_block=self.text_input())

    def load_published(self, state: Mapping[str, Tensor]) -> None:
        """Fill the prompts from a published file's tensors, the tokens of its training classes left out.

        Args:
            state: tensors, with or without ``prompt_learner.`` in front.

        Raises:
            ValueError: if keys are missing, unexpected or of another shape.
        """
        own = self.state_dict()
        given = {key.removeprefix(_SAVED_PREFIX): value for key, value in state.items()}
        given = {key: value for key, value in given.items() if key not in _SAVED_TOKENS}
        compare_keys(own, given, what="these learned prompts")
        self.load_state_dict(given)
