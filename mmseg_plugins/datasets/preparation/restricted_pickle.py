"""Read the index of the full ADE20K release, a pickle, without letting it execute anything."""

import io
import os
import pickle
from collections.abc import Mapping
from typing import Any

# Plain containers, strings and numbers need no name at all; these are what numpy arrays and old protocols need.
_NUMPY_NAMES = ("ndarray", "dtype", "_reconstruct", "_frombuffer", "scalar")
_NUMPY_MODULES = (
    "numpy", "numpy.core.multiarray", "numpy._core.multiarray", "numpy.core.numeric", "numpy._core.numeric",
)  # fmt: skip
ALLOWED = {(module, name) for module in _NUMPY_MODULES for name in _NUMPY_NAMES} | {("_codecs", "encode")}


class RestrictedUnpickler(pickle.Unpickler):
    """An unpickler that knows numpy arrays and nothing else that has a name."""

    def find_class(self, module: str, name: str) -> Any:
        """Return an allowed class or function.

        Raises:
            pickle.UnpicklingError: naming what the file asked for, for every other name.
        """
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(
                f"the file asks for {module}.{name}, which its documented content does not need"
            )
        return super().find_class(module, name)


def read_index(path: str | os.PathLike) -> Mapping[str, Any]:
    """Read ``index_ade20k.pkl``.

    Returns:
        The dictionary; ``filename`` and ``folder`` are lists of the same length.

    Raises:
        ValueError: if the file is damaged, asks for anything but plain data, or lacks these two fields.
    """
    try:
        with open(path, "rb") as file:
            content = RestrictedUnpickler(io.BufferedReader(file)).load()
    except (pickle.UnpicklingError, EOFError, AttributeError, ImportError, IndexError, TypeError, ValueError) as error:
        raise ValueError(
            f"{os.fspath(path)} was not read: {error}. It is not needed; remove or fetch it again."
        ) from error
    if not isinstance(content, Mapping) or not {"filename", "folder"} <= set(content):
        raise ValueError(f"{os.fspath(path)} lacks the fields 'filename' and 'folder' of the ADE20K index.")
    if len(content["filename"]) != len(content["folder"]):
        raise ValueError(
            f"{os.fspath(path)} lists {len(content['filename'])} names but {len(content['folder'])} folders."
        )
    return content
