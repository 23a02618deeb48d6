"""A vocabulary is a value: the classes to look for, the names they are prompted by, the background rule and colours."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mmseg_plugins.vocabulary.background import Background, apply_background
from mmseg_plugins.vocabulary.benchmarks import benchmark_rows
from mmseg_plugins.vocabulary.files import read_class_file
from mmseg_plugins.vocabulary.grammar import check_colour
from mmseg_plugins.vocabulary.palette import BLACK, distinct_colours
from mmseg_plugins.vocabulary.rows import ClassRows, Colour, check_unique_labels, check_unique_prompts, require_classes
from mmseg_plugins.vocabulary.sources import read_source
from mmseg_plugins.vocabulary.suggest import unknown_name

if TYPE_CHECKING:
    from mmseg_plugins.vocabulary.config import VocabularyConfig

Duplicates = Literal["error", "allow"]


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """Classes to look for. K classes, N names in all.

    Build one with :meth:`parse`, :meth:`from_file`, :meth:`from_benchmark` or :meth:`from_config`.

    Attributes:
        class_names: K labels, all different; what results are called.
        prompts: per class the names that are put into prompt templates, in published order. At least one each, but for
            a background by threshold, which may have none.
        is_thing: K flags, countable thing or stuff; None when the source does not say.
        palette: K colours (red, green, blue), 0 to 255. Left out: generated, black for the background.
        background: which class is the background and how pixels become it.
        source: where the vocabulary came from, for messages; does not count in comparisons.

    Raises:
        ValueError: if there is no class, a label occurs twice, lengths differ, or a class has no name.
    """

    class_names: tuple[str, ...]
    prompts: tuple[tuple[str, ...], ...]
    is_thing: tuple[bool, ...] | None = None
    palette: tuple[Colour, ...] = ()
    background: Background = field(default_factory=Background)
    source: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        require_classes(self.class_names, self.source or "the vocabulary")
        check_unique_labels(self.class_names, self.source)
        if not self.palette:
            object.__setattr__(self, "palette", _fill_palette((None,) * self.num_classes, self.background))
        for what, values in (("prompts", self.prompts), ("is_thing", self.is_thing), ("palette", self.palette)):
            if values is not None and len(values) != self.num_classes:
                raise ValueError(
                    f"{what} has {len(values)} entries for {self.num_classes} classes. Give one for each class."
                )
        for index, names in enumerate(self.prompts):
            if not names and not (self.background.kind == "threshold" and self.background.index == index):
                raise ValueError(f"class {self.class_names[index]!r} has no name to prompt with. Give at least one.")
        if self.background.index is not None and not 0 <= self.background.index < self.num_classes:
            raise ValueError(f"background index {self.background.index} is not one of the {self.num_classes} classes.")
        if not self.rows:
            raise ValueError(
                "the vocabulary has no name to prompt with. Give at least one class besides the background."
            )

    @classmethod
    def parse(
        cls,
        source: "str | Path | list | tuple | Mapping | Vocabulary",
        *,
        names: str | None = None,
        background: Any = None,
        duplicates: Duplicates = "error",
    ) -> "Vocabulary":
        """Make a vocabulary from whatever a user has.

        Args:
            source: class names in the string grammar (``"cat; sofa, couch; other: floor, wall"``), the path of a class
                file, a benchmark's name, a list of names, a list of lists of names, a dictionary ``{label: names}``, or
                a vocabulary. ``mmseg_plugins.vocabulary.sources`` says how a string is read.
            names: which list of names of a benchmark or class file to prompt with, such as ``synonyms_fcclip``.
            background: background rule, see :func:`mmseg_plugins.vocabulary.background.apply_background`.
            duplicates: ``allow`` keeps names that occur twice; published lists are kept in any case.

        Raises:
            ValueError: if the source is empty or ambiguous, or a name is empty, only punctuation or given twice.
            TypeError: if something is of another kind.
            FileNotFoundError: if it is a path and there is no such file.
            KeyError: if a benchmark, list of names or background class does not exist.

        Example:
            >>> words = Vocabulary.parse("cat; sofa, couch; other: floor, wall")
            >>> words.class_names
            ('cat', 'sofa', 'other')
            >>> words.prompts
            (('cat',), ('sofa', 'couch'), ('floor', 'wall'))
        """
        if isinstance(source, Vocabulary):
            return source if background is None else source.with_background(background)
        return cls._from_rows(read_source(source, names), background, duplicates)

    @classmethod
    def from_benchmark(cls, name: str, names: str = "classes", *, background: Any = None) -> "Vocabulary":
        """Take the classes of a benchmark, with its colours and thing flags.

        Args:
            name: one of :func:`mmseg_plugins.vocabulary.benchmarks.list_benchmarks`.
            names: which published list of names to prompt with; ``classes`` is the evaluator's own.
            background: background rule; a list of the benchmark's ``background_words`` may be named.

        Raises:
            KeyError: if there is no such benchmark or list.
        """
        return cls._from_rows(benchmark_rows(name, names), background)

    @classmethod
    def from_file(cls, path: str | Path, names: str | None = None, *, background: Any = None) -> "Vocabulary":
        """Read a class file, see :mod:`mmseg_plugins.vocabulary.files` for the forms.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if something in it cannot be a class; the message gives the line.
            KeyError: if it has no such list of names.
        """
        return cls._from_rows(read_class_file(path, names), background)

    @classmethod
    def from_config(cls, config: Any) -> "VocabularyConfig":
        """Read the ``vocabulary=dict(...)`` of a config: vocabulary, templates and reduction together.

        See :class:`mmseg_plugins.vocabulary.config.VocabularyConfig`.
        """
        from mmseg_plugins.vocabulary.config import VocabularyConfig

        return VocabularyConfig.from_config(config)

    @classmethod
    def _from_rows(cls, rows: ClassRows, background: Any = None, duplicates: Duplicates = "error") -> "Vocabulary":
        if duplicates not in ("error", "allow"):
            raise ValueError(f"duplicates must be 'error' or 'allow', but got {duplicates!r}.")
        check_unique_labels(rows.labels, rows.source)
        rows, rule = apply_background(rows, background)
        if duplicates == "error" and not rows.published:
            check_unique_prompts(rows)
        return cls(
            class_names=rows.labels,
            prompts=rows.prompts,
            is_thing=rows.is_thing,
            palette=_fill_palette(rows.colours or (None,) * len(rows.labels), rule),
            background=rule,
            source=rows.source,
        )

    @property
    def num_classes(self) -> int:
        """K, the number of classes, the background included where there is one."""
        return len(self.class_names)

    @property
    def rows(self) -> list[str]:
        """The N names of all classes in order, one prompt row each."""
        return [name for names in self.prompts for name in names]

    @property
    def row_class(self) -> list[int]:
        """The class of each of the N prompt rows."""
        return [index for index, names in enumerate(self.prompts) for _ in names]

    @property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """The classes that are not prompted by their own label, and what they are prompted by."""
        pairs = zip(self.class_names, self.prompts, strict=True)
        return {label: names for label, names in pairs if names and label not in names}

    @property
    def dataset_meta(self) -> dict[str, Any]:
        """What mmseg's visualiser and metrics read: ``classes`` and ``palette``."""
        return {"classes": self.class_names, "palette": [list(colour) for colour in self.palette]}

    def index(self, name: str) -> int:
        """Return the index of a class by its label; blanks around it do not matter.

        Raises:
            KeyError: if no class has that label.
        """
        label = " ".join(name.split())
        if label not in self.class_names:
            raise unknown_name("class", label, self.class_names)
        return self.class_names.index(label)

    def with_background(self, rule: Any) -> "Vocabulary":
        """Return this vocabulary with another background rule.

        Args:
            rule: as in :func:`mmseg_plugins.vocabulary.background.apply_background`; None changes nothing.

        Raises:
            ValueError: if the rule is not usable.
            KeyError: if it names a class that does not exist.
        """
        if rule is None:
            return self
        rows = ClassRows(labels=self.class_names, prompts=self.prompts, is_thing=self.is_thing, colours=self.palette)
        rows, background = apply_background(rows, rule)
        changed = {
            "class_names": rows.labels,
            "prompts": rows.prompts,
            "is_thing": rows.is_thing,
            "palette": rows.colours,
        }
        return replace(self, **changed, background=background)

    def to_dict(self) -> dict[str, Any]:
        """Return the class-file form, which JSON can hold and :meth:`parse` reads back.

        A background without words is written as its threshold alone; reading adds its class again.
        """
        kept = [index for index, names in enumerate(self.prompts) if names]
        content: dict[str, Any] = {
            "classes": [self.class_names[index] for index in kept],
            "synonyms": [list(self.prompts[index]) for index in kept],
            "palette": [list(self.palette[index]) for index in kept],
            "background": self._background_form(),
            "source": self.source,
        }
        return content if self.is_thing is None else content | {"isthing": [self.is_thing[index] for index in kept]}

    def _background_form(self) -> Any:
        rule: dict[str, Any] = {}
        if self.background.index is None:
            return "none"
        if self.prompts[self.background.index]:
            rule["name"] = self.class_names[self.background.index]
        return rule if self.background.threshold is None else rule | {"threshold": self.background.threshold}


def _fill_palette(colours: tuple[Colour | None, ...], background: Background) -> tuple[Colour, ...]:
    """Colour the classes that have none yet; the background's own is black."""
    filled = list(colours)
    if background.index is not None and filled[background.index] is None:
        filled[background.index] = BLACK
    known = tuple(check_colour(colour, "palette") for colour in filled if colour is not None)
    fresh = iter(distinct_colours(filled.count(None), known))
    return tuple(next(fresh) if colour is None else tuple(colour) for colour in filled)
