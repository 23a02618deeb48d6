"""The ``vocabulary=dict(...)`` of a config: the classes, and how their text embeddings are made."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from mmseg_plugins.vocabulary.suggest import check_keys
from mmseg_plugins.vocabulary.templates import load_templates
from mmseg_plugins.vocabulary.vocabulary import Vocabulary

Reduce = Literal["max", "mean"]

DEFAULT_TEMPLATES = "imagenet80"

_KEYS = ("source", "names", "templates", "reduce", "normalize_each", "background", "duplicates")


@dataclass(frozen=True, kw_only=True)
class VocabularyConfig:
    """A vocabulary with its templates and reduction; what a model needs to make text embeddings.

    Attributes:
        vocabulary: the classes.
        templates: prompt templates.
        reduce: ``max`` keeps one row per name, and the best name of a class counts; ``mean`` averages the names of a
            class into one row.
        normalize_each: bring every prompt's embedding to unit length before the mean over templates, as nearly all
            methods do; False for AnoVL.

    Raises:
        ValueError: if ``reduce`` is neither.
    """

    vocabulary: Vocabulary
    templates: tuple[str, ...]
    reduce: Reduce = "max"
    normalize_each: bool = True

    def __post_init__(self) -> None:
        if self.reduce not in get_args(Reduce):
            raise ValueError(f"reduce must be one of {', '.join(get_args(Reduce))}, but got {self.reduce!r}.")

    @classmethod
    def from_config(cls, config: Any) -> "VocabularyConfig":
        """Read the config form.

        Args:
            config: ``dict(source=..., names=..., templates='imagenet80', reduce='max', normalize_each=True,
                background=None, duplicates='error')``, of which only ``source`` is needed and means what
                ``Vocabulary.parse`` takes; or such a source alone, with the defaults for the rest (a dictionary
                only in the class-file form, as that of another form cannot be told from a config).

        Raises:
            ValueError: if a key is unknown or ``source`` is missing, or as ``Vocabulary.parse`` and
                ``load_templates`` do.

        Example:
            >>> config = VocabularyConfig.from_config(dict(source="ade20k_150", templates="vild14"))
            >>> config.vocabulary.num_classes, len(config.templates)
            (150, 14)
        """
        if isinstance(config, VocabularyConfig):
            return config
        if isinstance(config, (str, Path, list, tuple, Vocabulary)) or _is_class_file_form(config):
            config = {"source": config}
        if not isinstance(config, Mapping):
            raise TypeError(f"vocabulary must be a dict with 'source', or a source, but got {type(config).__name__}.")
        values = dict(config)
        check_keys("vocabulary", values, _KEYS)
        if "source" not in values:
            raise ValueError(
                "vocabulary has no 'source'. Give a benchmark's name, class names or the path of a class file."
            )
        parse = {key: values[key] for key in ("names", "background", "duplicates") if key in values}
        return cls(
            vocabulary=Vocabulary.parse(values["source"], **parse),
            templates=load_templates(values.get("templates") or DEFAULT_TEMPLATES),
            reduce=values.get("reduce", "max"),
            normalize_each=bool(values.get("normalize_each", True)),
        )


def _is_class_file_form(config: Any) -> bool:
    return isinstance(config, Mapping) and isinstance(config.get("classes"), (list, tuple))
