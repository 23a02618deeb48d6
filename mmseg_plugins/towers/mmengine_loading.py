"""Makes mmengine's checkpoint loader read files by the rule of :mod:`mmseg_plugins.towers.files`.

mmengine's own loader falls back to unpickling anything, and its http scheme never did otherwise.
"""

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch

from mmseg_plugins.towers.files import asset_path, read_stream, read_tensors


def install() -> None:
    """Put this project's reader into mmengine's loader; see :func:`mmseg_plugins.towers.files.install_safe_loader`."""
    from mmengine.runner import checkpoint

    checkpoint._safe_torch_load = _load
    checkpoint.torch = _TorchWithSafeLoad()
    checkpoint.load_url = _load_url
    register = checkpoint.CheckpointLoader.register_scheme
    register("", load_from_local, force=True)
    register(("http://", "https://"), load_from_http, force=True)
    register("open-clip://", load_from_open_clip, force=True)
    register("asset://", load_from_asset, force=True)


class _TorchWithSafeLoad:
    """Stands for ``torch`` inside mmengine's checkpoint module, where older versions call ``torch.load`` directly."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    @staticmethod
    def load(file: str | Path | IO[bytes], map_location: Any = None, **_: Any) -> Any:
        return _load(file, map_location)


def _load(file: str | Path | IO[bytes], map_location: Any = None, weights_only: bool | None = None) -> Any:
    # weights_only is what callers of mmengine's own function may ask for; here the answer is always yes.
    return read_tensors(file, map_location) if isinstance(file, (str, Path)) else read_stream(file, map_location)


def _as_checkpoint(content: dict[str, Any], path: str | Path) -> dict[str, Any]:
    """Give a published file what mmseg's ``init_model`` reads of every checkpoint: a ``meta`` entry with classes.

    They are empty: the vocabulary of the model decides. The tensors also learn which file they come from, which a
    module finds in its ``local_metadata`` under ``file``.
    """
    state = content["state_dict"] if isinstance(content.get("state_dict"), Mapping) else content
    marked = OrderedDict(state)
    metadata = OrderedDict(getattr(state, "_metadata", {}))
    metadata[""] = {**metadata.get("", {}), "file": str(path)}
    marked._metadata = metadata
    rest = {} if state is content and "meta" not in content else dict(content)
    return {"meta": {"dataset_meta": {}}, **rest, "state_dict": marked}


# mmengine shows a loader's name without its first ten characters: load_from_local is "local".
def load_from_local(filename: str, map_location: Any = None) -> Any:
    """Read a local file."""
    return _as_checkpoint(read_tensors(filename, map_location), filename)


def load_from_http(filename: str, map_location: Any = None, **_: Any) -> Any:
    """Read the file of a web address, fetched on first use."""
    return _load_url(filename, map_location=map_location)


def _load_url(url: str, model_dir: str | None = None, map_location: Any = None, **_: Any) -> Any:
    from mmseg_plugins.towers.weights import fetch_url

    path = fetch_url(url, folder=model_dir)
    return _as_checkpoint(read_tensors(path, map_location), path)


def load_from_open_clip(filename: str, map_location: Any = None) -> Any:
    """Read one of open_clip's files: ``open-clip://MODEL/TAG``."""
    from mmseg_plugins.towers.weights import resolve

    path = resolve(filename.removeprefix("open-clip://"))
    return _as_checkpoint(read_tensors(path, map_location), path)


def load_from_asset(filename: str, map_location: Any = None) -> Any:
    """Read weights that come with the package: ``asset://NAME``."""
    path = asset_path(filename.removeprefix("asset://"))
    return _as_checkpoint(read_tensors(path, map_location), path)
