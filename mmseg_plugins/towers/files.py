"""Reading and writing files of weights. Nothing is ever unpickled that could run code.

One rule for every file: ``torch.load(weights_only=True)`` or safetensors. :func:`install_safe_loader` makes mmengine's
loader keep it too.
"""

import os
import pickle
import re
import stat
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

# Entries that trainers put around a state dictionary.
WRAPPERS = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.")
_ZIP_MAGIC, _PICKLE_MAGIC = b"PK\x03\x04", b"\x80"
_CONVERT = "Turn it into safetensors once: mmseg-plugins convert SOURCE TARGET.safetensors"
# Words in torch's messages about broken files.
_DAMAGE = (
    "archive",
    "EOF",
    "magic",
    "Stream",
    "corrupt",
    "storage has wrong",
)
_SAFETENSORS_HEADER_LIMIT = 100_000_000  # bytes; the format's own limit


def read_tensors(path: str | Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a file of weights without running anything that stands in it.

    Args:
        path: a torch file (also an mmengine checkpoint with its message hub) or a safetensors file; which of the two
            is told by the content, not by the name.
        map_location: where tensors go, as in ``torch.load``.

    Returns:
        The content as stored: a flat dictionary of tensors, or a checkpoint with entries around it.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is empty, cut off, of another kind, a TorchScript archive, or needs code to be read.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"Weights file {path} does not exist.")
    with path.open("rb") as stream:
        head = stream.read(16)
    if not head:
        raise ValueError(f"Weights file {path} is empty. Fetch it again.")
    if _looks_like_safetensors(head, path.stat().st_size, path):
        return _read_safetensors(path, map_location)
    if head.startswith(_ZIP_MAGIC):
        _refuse_torchscript(path)
    elif not head.startswith(_PICKLE_MAGIC):
        raise ValueError(f"{path} is not a weights file: neither torch nor safetensors.")
    content = _load_weights_only(path, map_location, str(path))
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}, expected a dictionary of tensors.")
    return content


def read_metadata(path: str | Path) -> dict[str, str]:
    """Return the metadata of a safetensors file, empty where there is none.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"Weights file {path} does not exist.")
    try:
        with safe_open(path, framework="pt") as content:
            return dict(content.metadata() or {})
    except SafetensorError as error:
        raise ValueError(f"{path} is not a readable safetensors file: {error}.") from error


def write_safetensors(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> Path:
    """Write tensors to a safetensors file, whole or not at all.

    Args:
        path: where to; its folder must exist.
        tensors: flat dictionary; tensors that share memory are stored separately.
        metadata: strings that go with it.

    Returns:
        The path.

    Raises:
        TypeError: if a value is not a tensor.
        FileNotFoundError: if the folder does not exist.
    """
    from safetensors.torch import save_file

    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"Folder {path.parent} for {path.name} does not exist. Make it first.")
    for name, value in tensors.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"Entry {name!r} is a {type(value).__name__}; a safetensors file holds only tensors.")
    separate = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        temporary = Path(folder) / path.name
        save_file(separate, temporary, metadata=dict(metadata or {}))
        # safetensors makes files that only their owner reads; a shared folder wants what any new file has.
        ordinary = Path(folder) / "ordinary"
        ordinary.touch()
        os.chmod(temporary, stat.S_IMODE(ordinary.stat().st_mode))
        os.replace(temporary, path)
    return path


def unwrap_state_dict(content: Mapping[str, Any], source: str | Path | None = None) -> dict[str, Tensor]:
    """Return the tensors of a file without what trainers put around them.

    Entries ``state_dict``, ``model_state_dict`` and ``model`` are opened, prefixes ``module.`` and ``_orig_mod.``
    removed, entries that are not tensors dropped.

    Args:
        content: what :func:`read_tensors` returned.
        source: the file, for the message.

    Raises:
        ValueError: if no tensors are left.
    """
    for wrapper in WRAPPERS:
        if isinstance(content.get(wrapper), Mapping):
            return unwrap_state_dict(content[wrapper], source)
    tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        shown = ", ".join(map(str, list(content)[:5]))
        where = "" if source is None else f" in {source}"
        raise ValueError(
            f"No tensors found{where}. Entries: {shown or 'none'}. Expected a model's weights, at the top or under "
            f"{', '.join(WRAPPERS)}."
        )
    for prefix in _PREFIXES:
        if all(key.startswith(prefix) for key in tensors):
            return unwrap_state_dict({key.removeprefix(prefix): value for key, value in tensors.items()})
    return tensors


def install_safe_loader() -> None:
    """Make mmengine read checkpoints by this module's rule, and understand the names that this project uses.

    Covers ``load_from``, ``resume`` and ``init_cfg=dict(type='Pretrained')`` with every scheme of mmengine's
    ``CheckpointLoader``. Adds ``open-clip://MODEL/TAG`` and ``asset://NAME``. Calling it again changes nothing.
    """
    from mmseg_plugins.towers.mmengine_loading import install

    install()


def read_stream(stream: IO[bytes], map_location: Any = "cpu", *, shown: str = "the checkpoint") -> Any:
    """Read torch's format from an open stream by the rule of :func:`read_tensors`.

    Args:
        stream: positioned at the start.
        map_location: where tensors go.
        shown: what to call it in messages.

    Raises:
        ValueError: as :func:`read_tensors`.
    """
    return _load_weights_only(stream, map_location, shown)


def asset_path(name: str) -> Path:
    """Return the weights file of this name that comes with the package.

    Raises:
        FileNotFoundError: if there is none; the message lists those that exist.
    """
    import mmseg_plugins.assets

    folder = Path(mmseg_plugins.assets.__file__).parent
    path = folder / f"{name.removesuffix('.safetensors')}.safetensors"
    if not path.is_file():
        present = ", ".join(sorted(file.stem for file in folder.glob("*.safetensors"))) or "none"
        raise FileNotFoundError(f"No weights named {name!r} come with the package. Present: {present}.")
    return path


def _looks_like_safetensors(head: bytes, size: int, path: Path) -> bool:
    if head.startswith(_ZIP_MAGIC):
        return False
    length = int.from_bytes(head[:8], "little")
    return (0 < length < min(size + 1, _SAFETENSORS_HEADER_LIMIT) and head[8:9] == b"{") or (
        path.suffix == ".safetensors" and not head.startswith(_PICKLE_MAGIC)
    )


def _read_safetensors(path: Path, map_location: Any) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    device = "cpu" if map_location is None or callable(map_location) else str(torch.device(map_location))
    try:
        return load_file(path, device=device)
    except SafetensorError as error:
        raise ValueError(f"Weights file {path} is cut off or damaged ({error}). Fetch it again.") from error


def _refuse_torchscript(path: Path) -> None:
    if is_torchscript_file(path):
        raise ValueError(
            f"{path} is a TorchScript archive, which holds code. "
            + _CONVERT.replace("SOURCE TARGET.safetensors", f"{path} {path.with_suffix('.safetensors')}")
        )


def is_torchscript_file(path: str | Path) -> bool:
    """Tell from the names inside whether a file is a TorchScript archive; nothing is loaded.

    Raises:
        ValueError: if it is a zip archive that is cut off or damaged.
    """
    path = Path(path)
    with path.open("rb") as stream:
        if not stream.read(4).startswith(_ZIP_MAGIC):
            return False
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile as error:
        raise ValueError(f"Weights file {path} is cut off or damaged ({error}). Fetch it again.") from error
    return any(name.endswith("/constants.pkl") or "/code/" in name for name in names)


def _load_weights_only(file: Path | IO[bytes], map_location: Any, shown: str) -> Any:
    try:
        with _harmless_types_allowed(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol")  # said again by the error, if any
            return torch.load(file, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([A-Za-z_][\w.]*)|(?:global|class)[:\s]+([A-Za-z_][\w.]*\.\w+)", str(error))
        what = f"'{found.group(1) or found.group(2)}'" if found else "more than tensors"
        raise ValueError(
            f"{shown} was not read: it needs {what}, and reading that could run code. If you trust where it comes "
            f"from, turn it into safetensors once: mmseg-plugins convert {shown} OUT.safetensors --allow-code"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, IndexError, KeyError) as error:
        if "TorchScript" in str(error):
            raise ValueError(f"{shown} is a TorchScript archive, which holds code. {_CONVERT}") from error
        if isinstance(error, RuntimeError) and not any(word in str(error) for word in _DAMAGE):
            raise
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"Weights file {shown} is cut off or damaged ({first_line}). Fetch it again.") from error


@contextmanager
def _harmless_types_allowed() -> Iterator[None]:
    """Let torch's safe unpickler build the types below, and only while this lasts."""
    types = _harmless_types()
    if hasattr(torch.serialization, "safe_globals"):
        with torch.serialization.safe_globals(types):
            yield
        return
    # PyTorch 2.4 has no such context, and takes no other names for a type.
    torch.serialization.add_safe_globals([item for item in types if not isinstance(item, tuple)])
    yield


def _harmless_types() -> list[Any]:
    """Types without behaviour that checkpoints carry beside tensors: numpy values, mmengine's log history."""
    import numpy as np

    core = np._core.multiarray if hasattr(np, "_core") else np.core.multiarray
    allowed: list[Any] = [core._reconstruct, core.scalar, np.ndarray, np.dtype, slice]
    # Files written under numpy 1 name the same functions differently.
    allowed += [(getattr(core, name), f"numpy.core.multiarray.{name}") for name in ("_reconstruct", "scalar")]
    allowed += [type(np.dtype(kind)) for kind in "?bBhHiIlLqQefdU"]
    try:
        from mmengine.logging.history_buffer import HistoryBuffer
    except ImportError:
        return allowed
    return [*allowed, HistoryBuffer, (_history_method, "builtins.getattr")]


def _history_method(owner: Any, name: str) -> Callable:
    """Stand for ``getattr`` in a checkpoint: mmengine's log history refers to its own statistics that way."""
    from mmengine.logging.history_buffer import HistoryBuffer

    if owner is HistoryBuffer and name in ("min", "max", "current", "mean"):
        return getattr(owner, name)
    raise pickle.UnpicklingError("Unsupported global: GLOBAL builtins.getattr")
