"""The manifest of saved predictions: what was predicted, by which model, under which settings."""

import datetime
import hashlib
import importlib.metadata
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmseg_plugins import __version__
from mmseg_plugins.vocabulary.vocabulary import Vocabulary

# Distributions that provide each package; the first one installed is reported.
PACKAGES = {
    "torch": ("torch",),
    "mmcv": ("onedl-mmcv", "mmcv", "mmcv-lite"),
    "mmengine": ("onedl-mmengine", "mmengine", "mmengine-lite"),
    "mmseg": ("onedl-mmsegmentation", "mmsegmentation"),
    "open_clip": ("open_clip_torch",),
}


def sha256_of_file(path: str | os.PathLike) -> str:
    """Hash a file in pieces, so that large weights need no memory."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for piece in iter(lambda: file.read(1 << 20), b""):
            digest.update(piece)
    return digest.hexdigest()


def sha256_of_text(text: str) -> str:
    """Hash text as UTF-8."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def package_versions() -> dict[str, str | None]:
    """Versions of the packages that results depend on, None for one that is not installed."""
    versions = {name: _installed_version(distributions) for name, distributions in PACKAGES.items()}
    return {**versions, "mmseg_plugins": __version__}


def _installed_version(distributions: tuple[str, ...]) -> str | None:
    for name in distributions:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def build_manifest(dataset_meta: Mapping[str, Any], num_images: int, config: Any = None) -> dict[str, Any]:
    """Describe a folder of predictions.

    Args:
        dataset_meta: the data set's metainfo.
        num_images: images that have a prediction.
        config: the run's mmengine config; None takes the one that the runner published, if any.

    Returns:
        The entries that every result must state; None where a run does not say.
    """
    config = running_config() if config is None else config
    classes = [str(name) for name in dataset_meta["classes"]]
    ignore = dataset_meta.get("ignore_index", 255)
    return {
        "benchmark": dataset_meta.get("benchmark"),
        "split": dataset_meta.get("split"),
        "num_images": num_images,
        "num_classes": len(classes),
        "label_encoding": f"contiguous class indices 0..{len(classes) - 1}, ignore {ignore}",
        "classes_sha256": sha256_of_text(json.dumps(classes)),
        **_describe_run(config or {}),
        "versions": package_versions(),
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def running_config() -> Any:
    """The config of the run in progress, None outside a run."""
    from mmengine.config import Config
    from mmengine.logging import MessageHub

    text = MessageHub.get_current_instance().runtime_info.get("cfg")
    return Config.fromstring(text, ".py") if text else None


def _describe_run(config: Mapping[str, Any]) -> dict[str, Any]:
    # With test-time augmentation the model proper is wrapped.
    outer = config.get("model") or {}
    model = outer.get("module") or outer
    pipeline = ((config.get("test_dataloader") or {}).get("dataset") or {}).get("pipeline") or []
    checkpoint = config.get("load_from")
    test = model.get("test_cfg") or {}
    slide = {key: test.get(key) for key in ("crop_size", "stride")} if test.get("mode") == "slide" else None
    text = getattr(config, "pretty_text", "")
    return {
        **_describe_vocabulary(model.get("vocabulary")),
        "checkpoint": {"path": checkpoint, "sha256": _hash_if_file(checkpoint)},
        "config_sha256": sha256_of_text(text) if text else None,
        "scale": next((step.get("scale") for step in pipeline if "Resize" in str(step.get("type"))), None),
        "slide": slide,
        "tta": "TTA" in str(outer.get("type")) or outer is not model,
        "precision": "float16" if (config.get("test_cfg") or {}).get("fp16") else "float32",
    }


def _describe_vocabulary(entry: Any) -> dict[str, Any]:
    """Source and hash of the classes and names that the model was given, read as the model reads them."""
    if entry is None:
        return {"vocabulary": {"source": None, "sha256": None}, "templates": None}
    words = Vocabulary.from_config(entry)
    content = words.vocabulary.to_dict()
    source = content.pop("source", "") or "names in the config"
    text = json.dumps(content, sort_keys=True)
    return {"vocabulary": {"source": source, "sha256": sha256_of_text(text)}, "templates": list(words.templates)}


def _hash_if_file(path: str | None) -> str | None:
    return sha256_of_file(path) if path and Path(path).is_file() else None
