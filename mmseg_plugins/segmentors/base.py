"""What every open-vocabulary segmentor shares: CLIP, the vocabulary, and strict loading of published files."""

import logging
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from mmengine.config import ConfigDict
from mmseg.models.segmentors.base import BaseSegmentor
from torch import Tensor

from mmseg_plugins.segmentors.strict_loading import StrictLoading, check_fit
from mmseg_plugins.towers.clip import Clip, ClipState, clip_state, find_clip
from mmseg_plugins.towers.files import read_tensors, unwrap_state_dict
from mmseg_plugins.vocabulary.cache import TextCache
from mmseg_plugins.vocabulary.config import VocabularyConfig
from mmseg_plugins.vocabulary.embed import TextEmbeddings, embed
from mmseg_plugins.vocabulary.vocabulary import Vocabulary

logger = logging.getLogger(__name__)


class OpenVocabularySegmentor(StrictLoading, BaseSegmentor):
    """A segmentor whose classes are a value: :meth:`set_vocabulary` swaps them without rebuilding.

    Weights arrive in one of three ways: a published or trained file through ``load_from`` (converted and checked
    here), :meth:`init_weights`, or, when neither happened, at first use from ``clip['pretrained']``.

    Args:
        clip: ``dict(model=..., pretrained=..., act=..., norm_eps=..., image=..., text=...)``, as for
            :func:`mmseg_plugins.towers.clip.build_clip`; the weights are loaded later, never in the constructor.
        vocabulary: what :meth:`VocabularyConfig.from_config` takes.
        train_vocabulary: the same for training, where it used another one.
        text_cache: folder of the text-embedding cache; True is the user's cache folder, False no cache.
        data_preprocessor: config of the data preprocessor.
        train_cfg: training settings.
        test_cfg: test settings, see the derived class.
        init_cfg: mmengine's initialisation config.
        pretrained: must stay None; mmseg's ``init_model`` sets it.
    """

    # Leading texts of the names under which CLIP's two towers stand in the model's state.
    clip_parts: ClassVar[dict[str, str]] = {"visual": "clip.visual.", "text": "clip.text."}

    def __init__(
        self,
        *,
        clip: Mapping[str, Any],
        vocabulary: Any,
        train_vocabulary: Any = None,
        text_cache: bool | str = True,
        data_preprocessor: Mapping[str, Any] | None = None,
        train_cfg: Mapping[str, Any] | None = None,
        test_cfg: Mapping[str, Any] | None = None,
        init_cfg: Mapping[str, Any] | None = None,
        pretrained: None = None,
    ) -> None:
        super().__init__(data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        if pretrained is not None:
            raise ValueError(f"expected pretrained to be None, but got {pretrained!r}. Use clip=dict(pretrained=...).")
        settings = dict(clip)
        towers = {name: settings.pop(name) for name in ("image", "text") if name in settings}
        self._source = find_clip(**settings)
        self.clip = Clip(self._source.config, **towers)
        self.train_cfg = ConfigDict(train_cfg or {})
        self.test_cfg = ConfigDict(test_cfg or {})
        self._cache = _open_cache(text_cache)
        self._loaded_parts: set[str] = set()
        self._vocabulary = VocabularyConfig.from_config(vocabulary)
        self.train_vocabulary = None if train_vocabulary is None else VocabularyConfig.from_config(train_vocabulary)
        self._text: TextEmbeddings | None = None
        self._converted: ClipState | None = None

    # --- vocabulary -----------------------------------------------------------------------------------------------

    @property
    def vocabulary(self) -> Vocabulary:
        """The classes in use."""
        return self._vocabulary.vocabulary

    @property
    def num_classes(self) -> int:
        """Number of classes in use."""
        return self.vocabulary.num_classes

    @property
    def out_channels(self) -> int:
        """Number of classes in use; what mmseg's slide inference and test-time augmentation ask for."""
        return self.num_classes

    @property
    def dataset_meta(self) -> dict[str, Any]:
        """Class names and palette of the vocabulary in use, as mmseg's visualisers and inferencer read them."""
        return {"classes": self.vocabulary.class_names, "palette": [list(c) for c in self.vocabulary.palette]}

    @dataset_meta.setter
    def dataset_meta(self, value: Mapping[str, Any]) -> None:
        # mmseg's init_model writes the checkpoint's (or Cityscapes') names here; the vocabulary decides.
        logger.debug("ignoring dataset_meta with %d classes: the vocabulary decides", len(value.get("classes", ())))

    def set_vocabulary(self, vocabulary: Any, **options: Any) -> None:
        """Swap the classes.

        Args:
            vocabulary: what :meth:`VocabularyConfig.from_config` takes: class names, a file, a benchmark's name,
                a config dict, or a ``VocabularyConfig``.
            **options: ``templates``, ``reduce``, ``normalize_each``, ``background``, ``names``. Templates, reduce and
                normalize_each stay as they are when left out and ``vocabulary`` does not carry them.
        """
        if isinstance(vocabulary, VocabularyConfig):
            self._vocabulary = vocabulary
        else:
            # A class file has a 'source' remark too, but also its 'classes'.
            is_config = isinstance(vocabulary, Mapping) and "source" in vocabulary and "classes" not in vocabulary
            given = dict(vocabulary) if is_config else {"source": vocabulary}
            kept = {name: getattr(self._vocabulary, name) for name in ("templates", "reduce", "normalize_each")}
            self._vocabulary = VocabularyConfig.from_config({**kept, **given, **options})
        self._text = None

    def set_text_embeddings(self, text: TextEmbeddings) -> None:
        """Use ready-made text embeddings instead of encoding the vocabulary's names.

        Args:
            text: embeddings whose number of classes is the vocabulary's.

        Raises:
            ValueError: if the numbers of classes differ.
        """
        if text.num_classes != self.num_classes:
            raise ValueError(
                f"text embeddings have {text.num_classes} classes but the vocabulary has {self.num_classes}. "
                "Set the vocabulary first, or rebuild the embeddings with its class list."
            )
        self._text = text

    @property
    def text_embeddings(self) -> TextEmbeddings:
        """Text embeddings of the vocabulary, made on first use and kept until vocabulary or weights change."""
        if self._text is None:
            self.ensure_weights("text")
            config = self._vocabulary
            with torch.no_grad():
                self._text = embed(
                    self.clip.text,
                    config.vocabulary,
                    config.templates,
                    reduce=config.reduce,
                    normalize_each=config.normalize_each,
                    cache=self._cache,
                )
        self._text = self._text.to(next(self.parameters()).device)
        return self._text

    # --- weights --------------------------------------------------------------------------------------------------

    def init_weights(self) -> None:
        """Load the weights that ``clip['pretrained']`` names, after mmengine's own initialisation."""
        super().init_weights()
        if self._source.weights is not None:
            self._load_pretrained()

    def ensure_weights(self, part: str) -> None:
        """Load ``clip['pretrained']`` if nothing has filled this part yet.

        Args:
            part: ``visual`` or ``text``.
        """
        if part in self._loaded_parts:
            return
        if self._source.weights is not None:
            self._load_pretrained()
        else:
            logger.warning("the CLIP %s tower has random weights: load a checkpoint, or set clip.pretrained", part)
            self._loaded_parts.add(part)

    def _load_pretrained(self) -> None:
        """Fill the towers that nothing has filled yet."""
        path = self._source.path()
        state = clip_state(self.clip, unwrap_state_dict(read_tensors(path), path))
        absent = tuple(f"{part}." for part in self.clip_parts if part not in self._loaded_parts)
        tensors = {key: value for key, value in state.tensors.items() if key.startswith((*absent, "logit_"))}
        own = self.clip.state_dict()
        check_fit(own, tensors, absent, f"{self._source.config.name!r} ({path})")
        self.clip.load_state_dict(own | tensors)
        logger.info("loaded CLIP weights from %s", path)
        self._converted = state
        self.note_loaded(tuple(self.clip_parts.values()))

    def adapt_checkpoint(self, state: Mapping[str, Any]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
        """Bring a file's tensors to this model's names.

        A derived class takes its own published layout first and leaves the rest to this one.

        Args:
            state: the file's tensors, trainer wrappers already removed.

        Returns:
            The tensors under the model's names, and the parts (leading texts) that the file declares to hold.
        """
        if any(key.startswith(tuple(self.clip_parts.values())) for key in state):
            return super().adapt_checkpoint(state)
        self._converted = converted = clip_state(self.clip, state)
        return {f"clip.{key}": value for key, value in converted.tensors.items()}, tuple(
            f"clip.{part}" for part in converted.parts
        )

    def note_loaded(self, parts: tuple[str, ...]) -> None:
        """Remember which towers are filled, take over which words the text tower knows, drop the text embeddings."""
        converted, self._converted = self._converted, None
        self._loaded_parts |= {name for name, leading in self.clip_parts.items() if leading.startswith(parts)}
        if converted is not None and converted.known_ids is not None and self.clip.text is not None:
            self.clip.text.set_known_ids(converted.known_ids)
        self._text = None

    # --- mmseg's interface ----------------------------------------------------------------------------------------

    def loss(self, inputs: Tensor, data_samples: list) -> dict[str, Tensor]:
        """Refuse training: a method that trains overrides this.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(f"{type(self).__name__} has nothing to train: use it with tools/test.py.")


def _open_cache(setting: bool | str) -> TextCache | None:
    if setting is False:
        return None
    return TextCache() if setting is True else TextCache(setting)
