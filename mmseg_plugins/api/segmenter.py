"""The Python API: a model with its words, asked for pictures."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import load_checkpoint
from mmseg.registry import MODELS
from torch import nn

import mmseg_plugins.register as _register
from mmseg_plugins.api.configs import PretrainedModel, find_config, find_pretrained
from mmseg_plugins.api.images import ImageSource, read_image
from mmseg_plugins.api.panoptic import FoundSegments, asked_for, find_segments, wants_panoptic
from mmseg_plugins.api.preparing import PicturePipeline
from mmseg_plugins.api.result import SegmentationResult, label_dtype
from mmseg_plugins.towers.clip import EMBEDDED_MODEL
from mmseg_plugins.towers.weights import cached_path, find_record, resolve
from mmseg_plugins.vocabulary.config import VocabularyConfig
from mmseg_plugins.vocabulary.palette import distinct_colours
from mmseg_plugins.vocabulary.vocabulary import Vocabulary

_ = _register  # imported for its effect: everything is in mmseg's registries

_DTYPES = ("float32", "bfloat16", "float16")


class Segmenter:
    """A model that names every pixel of a picture with your words.

    Build one with :meth:`from_pretrained` or :meth:`from_config`.

    Args:
        model: an mmseg segmentor in eval mode, on its device.
        pipeline: from picture to model input.
        name: what the model is called in results.
        weights: where its weights come from, in a few words.
        templates: the model's own prompt templates; None: those it has.
        dtype: precision of the network: ``float32``, or ``bfloat16`` or ``float16`` through autocast.

    Example:
        >>> segmenter = Segmenter.from_pretrained("maskclip-shapes", device="cpu")
        >>> picture = np.zeros((64, 64, 3), dtype=np.uint8)
        >>> segmenter.segment(picture, "red striped thing; grass").labels.shape
        (64, 64)
    """

    def __init__(
        self,
        model: nn.Module,
        pipeline: PicturePipeline,
        *,
        name: str,
        weights: str = "",
        templates: Sequence[str] | None = None,
        dtype: str = "float32",
    ) -> None:
        self.model = model
        self.name = name
        self.weights = weights
        self.dtype = check_dtype(dtype)
        self._pipeline = pipeline
        self._templates = templates
        self._asked: tuple[Any, ...] | None = None

    @classmethod
    def from_pretrained(cls, name: str, *, device: str = "auto", dtype: str = "float32") -> "Segmenter":
        """Load a model by name.

        Args:
            name: ``maskclip-shapes`` (comes with the package), ``maskclip-vit-b16``, ...; see
                :func:`mmseg_plugins.api.configs.list_pretrained`.
            device: ``auto`` (a GPU if there is one), ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
            dtype: ``float32``, ``bfloat16`` or ``float16``.

        Raises:
            KeyError: if there is no such model; the message lists them.
            FileNotFoundError: if weights are not on this machine and cannot be fetched.
        """
        entry = find_pretrained(name)
        checkpoint = None if entry.weights is None else resolve(entry.weights)
        return cls._build(find_config(entry.config), checkpoint, device, dtype, entry)

    @classmethod
    def from_config(
        cls,
        config: str | os.PathLike | Config,
        checkpoint: str | os.PathLike | None = None,
        *,
        device: str = "auto",
        dtype: str = "float32",
        options: dict[str, Any] | None = None,
    ) -> "Segmenter":
        """Build a model from a config file, with weights from a published or trained file.

        Args:
            config: path or name of a config, or a loaded one.
            checkpoint: file of weights; None: what the config names.
            device: as for :meth:`from_pretrained`.
            dtype: as for :meth:`from_pretrained`.
            options: config entries to override, ``{"model.ks_thresh": 1.0}``.

        Raises:
            FileNotFoundError: if a file does not exist.
            ValueError: if the checkpoint is damaged or does not fit the model.
        """
        return cls._build(config, checkpoint, device, dtype, None, options)

    @classmethod
    def _build(
        cls,
        config: str | os.PathLike | Config,
        checkpoint: str | os.PathLike | None,
        device: str,
        dtype: str,
        entry: PretrainedModel | None,
        options: dict[str, Any] | None = None,
    ) -> "Segmenter":
        place = choose_device(device)
        check_dtype(dtype)
        content = config if isinstance(config, Config) else _read_config(config)
        if options:
            content.merge_from_dict(options)
        if "model" not in content:
            raise ValueError(f"config {content.filename or ''} has no 'model'. Give the config of a method.")
        init_default_scope(content.get("default_scope", "mmseg"))
        model = MODELS.build(content.model)
        if checkpoint is not None:
            _load(model, checkpoint)
        name = entry.name if entry else Path(content.filename or "config").stem
        pipeline = PicturePipeline.from_config(content, longest_side=entry.longest_side if entry else None)
        return cls(
            model.to(place).eval(),
            pipeline,
            name=name,
            weights=_describe_weights(content.model, checkpoint),
            templates=_own_templates(content.model),
            dtype=dtype,
        )

    def describe(self) -> str:
        """Say in one line what is used: model, weights, device and precision."""
        device = str(self.device)
        if self.device.type == "cuda":
            device += f" ({torch.cuda.get_device_name(self.device)})"
        return f"{self.name}   weights: {self.weights or 'as built'}   device: {device}, {self.dtype}"

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return next(self.model.parameters()).device

    @property
    def vocabulary(self) -> Vocabulary | None:
        """The words in use; None for a model with a fixed set of classes."""
        return getattr(self.model, "vocabulary", None)

    def set_vocabulary(self, vocabulary: Any, *, background: Any = None, templates: Any = None) -> None:
        """Choose the words for the pictures to come.

        Args:
            vocabulary: ``"cat; sofa, couch; other: floor, wall"``, a list, a file, a benchmark's name, or a
                ``Vocabulary``.
            background: background rule: a probability threshold, a class name, ``"none"``; None: as the vocabulary
                says. See ``docs/vocabulary.md``.
            templates: name of a set of prompt templates, or a list of them; None: the model's own.

        Raises:
            TypeError: if the model's classes are fixed.
            ValueError: if the vocabulary is empty or not usable.
        """
        if not hasattr(self.model, "set_vocabulary"):
            raise TypeError(f"{type(self.model).__name__} has a fixed set of classes. Leave the vocabulary out.")
        templates = self._templates if templates is None else templates
        asked = (Vocabulary.parse(vocabulary, background=background), templates)
        if asked == self._asked:  # the text embeddings are there already
            return
        self._asked = None
        self.model.set_vocabulary(asked[0], **({} if templates is None else {"templates": templates}))
        self._asked = asked
        self._get_ready()

    def _get_ready(self) -> None:
        """Load weights and encode the words now: in full precision, and not in the time of the first picture."""
        if hasattr(self.model, "ensure_weights"):
            self.model.ensure_weights("visual")
        _ = getattr(self.model, "text_embeddings", None)

    def segment(
        self,
        image: ImageSource,
        vocabulary: Any = None,
        *,
        background: Any = None,
        templates: Any = None,
        panoptic: bool | None = None,
        prompts: dict[str, Any] | None = None,
    ) -> SegmentationResult:
        """Name every pixel of a picture.

        Args:
            image: path, bytes, PIL image, array (H, W, C) or tensor (C, H, W); see
                :func:`mmseg_plugins.api.images.read_image`.
            vocabulary: the words, as for :meth:`set_vocabulary`; they stay for the next pictures. None: those in use.
            background: as for :meth:`set_vocabulary`.
            templates: as for :meth:`set_vocabulary`.
            panoptic: whether the result also has segments; None: where the model's config asks for panoptic output. A
                model of masks makes them of its masks; for any other, connected parts of the label map are segments.
            prompts: for SAM with ``proposals.prompts`` set to points or boxes: ``{"points": (n, 2)}`` or
                ``{"boxes": (n, 4)}`` in pixels of the picture, see
                :class:`~mmseg_plugins.masks.sam.proposals.SamProposals`.

        Returns:
            The result at the size of the picture.

        Raises:
            FileNotFoundError, ValueError, TypeError: if the picture cannot be read or the words are not usable.
        """
        if vocabulary is None and (background is not None or templates is not None):
            vocabulary = self.vocabulary
        if vocabulary is not None:
            self.set_vocabulary(vocabulary, background=background, templates=templates)
        pixels = read_image(image)
        self._get_ready()
        start = time.perf_counter()
        wanted = wants_panoptic(self.model) if panoptic is None else panoptic
        labels, found = self._predict(pixels, wanted, prompts or {})
        seconds = time.perf_counter() - start
        names, palette = self._classes()
        words = self.vocabulary
        about = {"model": self.name, "device": str(self.device), "dtype": self.dtype, "seconds": round(seconds, 4)}
        return SegmentationResult(
            labels=labels.astype(label_dtype(len(names))),
            class_names=names,
            palette=palette,
            image=pixels,
            background_index=words.background.index if words else None,
            about=about if found is None else about | {"segments_from": found.source},
            **({} if found is None else found.fields(names, palette)),
        )

    @torch.inference_mode()
    def _predict(
        self, pixels: np.ndarray, panoptic: bool, prompts: dict[str, Any]
    ) -> tuple[np.ndarray, FoundSegments | None]:
        """Return (H, W) labels of (H, W, 3) RGB, and segments; copying them to the CPU waits for the device."""
        packed = self._pipeline(pixels)
        packed["data_samples"].set_metainfo(prompts)
        data = {"inputs": [packed["inputs"]], "data_samples": [packed["data_samples"]]}
        kind = self.device.type
        with (
            asked_for(self.model, panoptic),
            torch.autocast(kind, getattr(torch, self.dtype), enabled=self.dtype != "float32"),
        ):
            data = self.model.data_preprocessor(data, False)
            sample = self.model.predict(data["inputs"], data["data_samples"])[0]
        labels = sample.pred_sem_seg.data[0].cpu()
        return labels.numpy(), find_segments(self.model, sample, labels, len(self._classes()[0])) if panoptic else None

    def _classes(self) -> tuple[tuple[str, ...], tuple[tuple[int, int, int], ...]]:
        meta = getattr(self.model, "dataset_meta", None)
        if not meta or not meta.get("classes"):
            raise ValueError(f"{type(self.model).__name__} does not say what its classes are called (dataset_meta).")
        names = tuple(meta["classes"])
        if meta.get("palette"):
            return names, tuple(tuple(int(value) for value in colour) for colour in meta["palette"])
        return names, tuple(distinct_colours(len(names), ()))


def _read_config(config: str | os.PathLike) -> Config:
    place = find_config(config)
    try:
        return Config.fromfile(place)
    except Exception as error:  # a config is code, which can fail in any way
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(
            f"config {place} cannot be read ({reason}). Expected an mmseg config, .py or .json."
        ) from error


def _load(model: nn.Module, checkpoint: str | os.PathLike) -> None:
    place = Path(checkpoint).expanduser()
    if not place.is_file():
        raise FileNotFoundError(f"checkpoint {checkpoint} does not exist (looked in {Path.cwd()}).")
    try:
        content = load_checkpoint(model, str(place), map_location="cpu", logger="silent")
    except ValueError as error:
        # What does not fit is found after reading, by those who know only the tensors.
        raise error if str(place) in str(error) else ValueError(f"checkpoint {checkpoint}: {error}") from error
    if isinstance(content, dict) and hasattr(model, "adopt_class_names"):
        model.adopt_class_names(content)  # where the names are part of a published file
    meta = content.get("meta", {}).get("dataset_meta") if isinstance(content, dict) else None
    if meta and not hasattr(model, "set_vocabulary"):
        model.dataset_meta = {key.lower(): value for key, value in meta.items()}


def _own_templates(model: Any) -> tuple[str, ...] | None:
    return VocabularyConfig.from_config(model["vocabulary"]).templates if model.get("vocabulary") else None


def _describe_weights(model: Any, checkpoint: str | os.PathLike | None) -> str:
    """Say where a model's weights come from, and whether they are on this machine yet."""
    if checkpoint is not None:
        return str(checkpoint)
    clip = model.get("clip") or {}
    if clip.get("model") == EMBEDDED_MODEL:
        return "embedded"
    if not clip.get("pretrained"):
        return "random" if clip else ""
    name = f"{clip['model']}/{clip['pretrained']}"
    try:
        return f"{name}, {'cached' if cached_path(find_record(name)) else 'to be fetched'}"
    except KeyError:
        return str(clip["pretrained"])


def choose_device(name: str) -> torch.device:
    """Turn a device's name into a device that exists.

    Args:
        name: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

    Raises:
        ValueError: if the name is unknown, or there is no such device here.
    """
    has_cuda, has_mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name == "auto":
        return torch.device("cuda" if has_cuda else "mps" if has_mps else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"unknown device {name!r}. Use auto, cpu, cuda, cuda:N or mps.") from None
    count = {"cpu": 1, "cuda": torch.cuda.device_count() if has_cuda else 0, "mps": int(has_mps)}.get(device.type, 1)
    if (device.index or 0) >= count:
        raise ValueError(f"device {name!r} is not on this machine ({count} of that kind). Use device='auto' or 'cpu'.")
    return device


def check_dtype(dtype: str) -> str:
    """Return the name of a precision if it is one of those supported.

    Raises:
        ValueError: if it is not.
    """
    if dtype not in _DTYPES:
        raise ValueError(f"expected dtype to be one of {', '.join(_DTYPES)}, but got {dtype!r}.")
    return dtype
