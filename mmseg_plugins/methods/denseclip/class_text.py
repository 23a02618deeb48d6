"""The text side of a DenseCLIP model: its classes as a vocabulary, the learned contexts, and their embeddings.

N prompt rows, n contexts, W text width, C joint width.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from mmseg.utils import dataset_aliases, get_classes, get_palette
from torch import Tensor, nn

from mmseg_plugins.methods.denseclip.checkpoint import published_class_names
from mmseg_plugins.methods.denseclip.text_encoder import CLIPTextContextEncoder
from mmseg_plugins.towers.prompts import DeepPrompts, PromptOptions
from mmseg_plugins.vocabulary.background import Background
from mmseg_plugins.vocabulary.config import VocabularyConfig
from mmseg_plugins.vocabulary.vocabulary import Vocabulary

logger = logging.getLogger(__name__)

PredictFrom = Literal["head", "score_map"]

_CONTEXT_STD = 1.0  # the release's, fifty times CoOp's
_CONTEXT_CUT = 2.0


def class_vocabulary(class_names: Any) -> Vocabulary:
    """Return the classes that ``class_names`` of a config means.

    Args:
        class_names: K names; one of mmseg's data-set names (``ade20k``, ``cityscapes``, ``coco-stuff164k``); or
            anything else that :meth:`Vocabulary.parse` takes (a benchmark, a file, ``"cat; dog"``).

    Raises:
        ValueError: if a name occurs twice, or is no text with a letter or digit.
    """
    if isinstance(class_names, str) and any(class_names in aliases for aliases in dataset_aliases.values()):
        return _plain(get_classes(class_names), class_names, get_palette(class_names))
    if isinstance(class_names, Sequence) and not isinstance(class_names, str):
        return _plain(class_names, "class_names of the config")
    return Vocabulary.parse(class_names)


def _plain(names: Sequence[str], source: str, palette: Sequence[Sequence[int]] = ()) -> Vocabulary:
    """One class per name, whatever marks a name contains."""
    for index, name in enumerate(names):
        if not isinstance(name, str) or not any(map(str.isalnum, name)):
            raise ValueError(
                f"{source}: class {index} must be a name with at least one letter or digit, but got {name!r}."
            )
    labels = tuple(" ".join(name.split()) for name in names)
    colours = tuple(tuple(colour) for colour in palette)
    return Vocabulary(class_names=labels, prompts=tuple((label,) for label in labels), palette=colours, source=source)


def new_contexts(sets: int, count: int, width: int) -> nn.Parameter:
    """Return random contexts (sets, count, width) as the release draws them.

    Raises:
        ValueError: if there is no room for contexts.
    """
    if count < 1:
        raise ValueError(
            f"text_encoder.context_length must be larger than context_length, which leaves {count} learned contexts."
        )
    contexts: Tensor = torch.empty(sets, count, width)
    nn.init.trunc_normal_(contexts, std=_CONTEXT_STD, a=-_CONTEXT_CUT, b=_CONTEXT_CUT)
    return nn.Parameter(contexts)


@dataclass(frozen=True)
class KeptText:
    """Text embeddings and what they were computed from.

    Attributes:
        embeddings: (1, N, C).
        learned: copies of the contexts and the deeper prompts.
        is_autocast: whether the precision was mixed.
    """

    embeddings: Tensor
    learned: tuple[Tensor, ...]
    is_autocast: bool

    def is_current(self, learned: Sequence[Tensor]) -> bool:
        """Tell whether the embeddings still belong to these contexts and deeper prompts."""
        # Compared by value: averaging hooks swap weights in and out behind torch's back.
        return self.is_autocast == is_autocast(learned[0]) and all(map(torch.equal, self.learned, learned))


def is_autocast(tensor: Tensor) -> bool:
    """Tell whether precision is mixed where this tensor is."""
    device = tensor.device.type
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


class ClassText(nn.Module):
    """Mixin of the segmentor: which classes there are, and their embeddings behind the learned contexts.

    The segmentor sets the attributes; :meth:`set_up_classes` comes after ``text_encoder`` is built.

    Attributes:
        text_encoder: what embeds them.
        contexts: (1, n, W) learned contexts, or (K, n, W) where each class has its own.
        texts: (N, N1) ids of the names.
        prompts: how the learned prompts are built.
        deep_prompts: MaPLe's further prompts, where there are any.
    """

    text_encoder: CLIPTextContextEncoder
    prompts: PromptOptions
    predict_from: PredictFrom
    context_length: int
    cache_text: bool
    deep_prompts: DeepPrompts

    def set_up_classes(self, class_names: Any) -> None:
        """Take the classes that the model is trained for.

        Args:
            class_names: what :func:`class_vocabulary` takes.
        """
        self._text: KeptText | None = None
        self._vocabulary = class_vocabulary(class_names)
        self._trained_names = self._vocabulary.class_names
        self.register_buffer("texts", self._tokenize(self._vocabulary), persistent=False)

    @property
    def vocabulary(self) -> Vocabulary:
        """The classes in use."""
        return self._vocabulary

    @property
    def num_classes(self) -> int:
        """Number of classes in use."""
        return self._vocabulary.num_classes

    @property
    def out_channels(self) -> int:
        """Number of classes in use; what mmseg's slide inference and test-time augmentation ask for."""
        return self.num_classes

    @property
    def dataset_meta(self) -> dict[str, Any]:
        """Class names and palette in use, as mmseg's visualisers and inferencer read them."""
        return self._vocabulary.dataset_meta

    @dataset_meta.setter
    def dataset_meta(self, value: Mapping[str, Any]) -> None:
        # mmseg's init_model writes the checkpoint's (or Cityscapes') names here; class_names decides.
        logger.debug("ignoring dataset_meta with %d classes", len(value.get("classes", ())))

    def background(self) -> Background:
        """Return the background rule of the classes in use."""
        return self._vocabulary.background

    def set_vocabulary(self, vocabulary: Any, *, background: Any = None, names: str | None = None) -> None:
        """Swap the classes, where predictions come from the score map.

        The learned contexts take the place of prompt templates.

        Args:
            vocabulary: what :meth:`Vocabulary.parse` takes, or a ``VocabularyConfig``, whose templates have no effect.
            background: background rule.
            names: which list of names of a benchmark or class file.

        Raises:
            ValueError: if predictions come from the head and the classes are not those it was trained for, the
                contexts are per class, or a name is too long.
        """
        if isinstance(vocabulary, VocabularyConfig):
            vocabulary = vocabulary.vocabulary
        chosen = Vocabulary.parse(vocabulary, names=names, background=background)
        has_same_names = chosen.class_names == self._trained_names and len(chosen.rows) == chosen.num_classes
        if self.predict_from == "head" and not has_same_names:
            raise ValueError(
                f"DenseCLIP's head is trained for its {len(self._trained_names)} classes and cannot take others. Set "
                "predict_from='score_map' in the model's config to label by the score map, which takes any words."
            )
        if self.prompts.per_class and not has_same_names:
            raise ValueError("contexts per class belong to the trained classes: other words have none.")
        self.texts = self._tokenize(chosen).to(self.texts.device)
        self._vocabulary = chosen
        self._text = None

    def set_classes(self, names: Sequence[str]) -> None:
        """Swap the classes for plain names, see :meth:`set_vocabulary`."""
        self.set_vocabulary(class_vocabulary(names))

    def adopt_class_names(self, content: Mapping[str, Any]) -> None:
        """Take over the class names that stand in a published checkpoint, where it has any.

        Args:
            content: the checkpoint as read.

        Raises:
            ValueError: if their number is not this model's.
        """
        names = published_class_names(content)
        if names is None:
            return
        chosen = class_vocabulary(names)
        if chosen.num_classes != self.decode_head.num_classes:
            raise ValueError(
                f"the checkpoint was trained for {chosen.num_classes} classes, but this model has "
                f"{self.decode_head.num_classes}. Use the config of its data set."
            )
        if chosen.class_names == self._trained_names:
            return
        logger.info("taking the %d class names of the checkpoint", chosen.num_classes)
        self._trained_names = chosen.class_names
        self.texts = self._tokenize(chosen).to(self.texts.device)
        self._vocabulary, self._text = chosen, None

    def _tokenize(self, vocabulary: Vocabulary) -> Tensor:
        return self.text_encoder.tokenize_names(vocabulary.rows, self.context_length)

    def train(self, mode: bool = True) -> "ClassText":
        """Switch between training and evaluation; text embeddings that were kept are dropped."""
        self._text = None
        return super().train(mode)

    def _apply(self, *args: Any, **options: Any) -> "ClassText":
        self._text = None  # another device or precision
        return super()._apply(*args, **options)

    def encode_classes(self) -> Tensor:
        """Embed the classes behind the learned contexts, (1, N, C), not normalised; from memory in evaluation."""
        learned = [self.contexts, *(self.deep_prompts.parameters() if self.prompts.is_deep else ())]
        if self.training or torch.is_grad_enabled() or not self.cache_text or self.contexts.is_meta:
            return self._encode_classes()
        if self._text is None or not self._text.is_current(learned):
            copies = tuple(tensor.detach().clone() for tensor in learned)
            self._text = KeptText(self._encode_classes(), copies, is_autocast(self.contexts))
        return self._text.embeddings

    def _encode_classes(self) -> Tensor:
        return self.text_encoder(
            self.texts,
            self.contexts,
            position=self.prompts.position,
            before_block=self.deep_prompts.text_input() if self.prompts.is_deep else None,
            is_per_class=self.prompts.per_class,
        )
