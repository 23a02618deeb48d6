"""Your own images: a folder of images, a folder of label maps, and the words for the label values."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS

from mmseg_plugins.datasets.label_files import LABEL_RULES
from mmseg_plugins.datasets.records import LabelRule
from mmseg_plugins.evaluation.saving import without_saved
from mmseg_plugins.vocabulary.vocabulary import Vocabulary

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
LABEL_SUFFIXES = (".png", ".tif", ".tiff")


@DATASETS.register_module()
class FolderDataset(BaseSegDataset):
    """Images and label maps of the same names in two folders; the classes come from a vocabulary.

    Label maps are single-channel PNG or TIFF, 8 or 16 bits; value v is the v-th class of the vocabulary (see
    ``label_rule`` for other encodings). Sub-folders are searched too; an image and its label map have the same path
    below their folders, but for the suffix.

    Args:
        vocabulary: the classes in the order of the label values: class names (``"road; car; sky"`` or a list), the
            path of a class file, a benchmark's name, or the model's whole ``vocabulary=dict(...)``.
        data_root: folder that the others are relative to.
        images: folder of images.
        labels: folder of label maps; empty where there are none, for prediction only.
        split_file: text file with one name without suffix per line; empty takes every image.
        label_rule: how stored values become class indices, see `mmseg_plugins.datasets.records.LabelRule`.
        ignore_index: label value of pixels that do not count.
        skip_saved: folder of saved predictions; images that have one are left out.
        options: further arguments of `mmseg.datasets.BaseSegDataset` (``pipeline``, ``indices``, …).

    Raises:
        ValueError: for an unknown rule, an ignore value that is a class index, or two images of one name.
        FileNotFoundError: if a folder, an image or a label map is missing.
    """

    def __init__(
        self,
        *,
        vocabulary: Any,
        data_root: str = "",
        images: str = "images",
        labels: str = "labels",
        split_file: str = "",
        label_rule: LabelRule = "as_stored",
        ignore_index: int = 255,
        skip_saved: str | None = None,
        **options: Any,
    ) -> None:
        if label_rule not in LABEL_RULES:
            raise ValueError(f"unknown label_rule {label_rule!r}, expected one of: {', '.join(LABEL_RULES)}.")
        words = Vocabulary.from_config(vocabulary).vocabulary
        self.num_classes = words.num_classes
        if ignore_index < self.num_classes:
            raise ValueError(
                f"ignore_index {ignore_index} is the index of a class: there are {self.num_classes} classes. Store the "
                "label maps as 16-bit PNG or TIFF and give ignore_index=65535."
            )
        self.label_rule = label_rule
        self.split_file = split_file
        self.skip_saved = skip_saved
        prefix = {"img_path": images, **({"seg_map_path": labels} if labels else {})}
        super().__init__(
            data_root=data_root or None,
            data_prefix=prefix,
            metainfo=_metainfo(words, options.pop("metainfo", None)),
            ignore_index=ignore_index,
            reduce_zero_label=label_rule == "reduce_zero",
            **options,
        )

    def load_data_list(self) -> list[dict[str, Any]]:
        """Pair images with label maps by name."""
        self._metainfo.update(ignore_index=self.ignore_index, benchmark=None, split=self.split_file or None)
        images = _files_by_stem(self.data_prefix["img_path"], IMAGE_SUFFIXES, "images")
        stems = self._listed_stems(images) if self.split_file else sorted(images)
        label_files: dict[str, Path] = {}
        if "seg_map_path" in self.data_prefix:
            label_files = _files_by_stem(self.data_prefix["seg_map_path"], LABEL_SUFFIXES, "label maps")
            self._require(stems, label_files, "label map", self.data_prefix["seg_map_path"])
        entries = []
        for stem in stems:
            entry = {"img_path": str(images[stem]), "label_map": None, "seg_fields": []}
            entry.update(label_rule=self.label_rule, ignore_index=self.ignore_index, num_classes=self.num_classes)
            entry["reduce_zero_label"] = self.reduce_zero_label
            if label_files:
                entry["seg_map_path"] = str(label_files[stem])
            entries.append(entry)
        return entries if self.skip_saved is None else without_saved(entries, self.skip_saved)

    def _listed_stems(self, images: Mapping[str, Path]) -> list[str]:
        path = Path(self.data_root or "") / self.split_file
        if not path.is_file():
            raise FileNotFoundError(f"split_file {path} does not exist.")
        stems = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        self._require(stems, images, "image", self.data_prefix["img_path"])
        return stems

    @staticmethod
    def _require(stems: list[str], files: Mapping[str, Path], what: str, folder: str) -> None:
        missing = [stem for stem in stems if stem not in files]
        if missing:
            raise FileNotFoundError(
                f"{len(missing)} of {len(stems)} images have no {what} in {folder}; the first is {missing[0]!r}. "
                "An image and its label map must have the same name but for the suffix."
            )


def _metainfo(words: Vocabulary, given: Mapping[str, Any] | None) -> dict[str, Any]:
    return {"classes": words.class_names, "palette": [list(colour) for colour in words.palette], **(given or {})}


def _files_by_stem(folder: str | os.PathLike, suffixes: tuple[str, ...], what: str) -> dict[str, Path]:
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"the folder of {what}, {root}, does not exist.")
    found: dict[str, Path] = {}
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() not in suffixes or path.name.startswith("."):
            continue
        stem = path.relative_to(root).with_suffix("").as_posix()
        if stem in found:
            raise ValueError(f"{found[stem]} and {path} have the same name; keep one of them.")
        found[stem] = path
    if not found:
        raise FileNotFoundError(f"no {what} in {root}; expected files ending in {', '.join(suffixes)}.")
    return found
