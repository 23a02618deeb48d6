"""Text embeddings on disk, so that a vocabulary is encoded once per model and not once per run.

One safetensors file per entry, named by a hash of all that decides its content: weights, tokeniser and arithmetic of
the tower (its fingerprint), names, templates, and the version of this computation. Entries are written under another
name and renamed, so several processes may share a folder. A cache never fails a run: what cannot be read is computed
again, what cannot be written is left out, each with a warning.
"""

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from mmseg_plugins.towers.files import read_tensors, write_safetensors

_logger = logging.getLogger(__name__)

# Raise when the same names, templates and tower give other rows than before.
_VERSION = 1
_KEY = "rows"
_UNIT_TOLERANCE = 1e-3  # of a stored row's length; float32 rounding stays far below


def cache_folder() -> Path:
    """Return where text embeddings are kept.

    ``$MMSEG_PLUGINS_CACHE/text`` if that is set, else ``$XDG_CACHE_HOME/mmseg_plugins/text``, else
    ``~/.cache/mmseg_plugins/text``.
    """
    own = os.environ.get("MMSEG_PLUGINS_CACHE")
    if own:
        return Path(own).expanduser() / "text"
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared).expanduser() if shared else Path.home() / ".cache") / "mmseg_plugins" / "text"


def cache_key(fingerprint: str, names: Sequence[str], templates: Sequence[str], *, normalize_each: bool = True) -> str:
    """Return the key of an entry: 40 hexadecimal digits.

    Args:
        fingerprint: the text tower's.
        names: N names, in order.
        templates: prompt templates.
        normalize_each: whether prompts are brought to unit length before the mean.
    """
    content = [_VERSION, fingerprint, bool(normalize_each), list(templates), list(names)]
    return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()[:40]


class TextCache:
    """Text embeddings in a folder.

    Args:
        folder: where; :func:`cache_folder` when left out. Made on the first write.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = cache_folder() if folder is None else Path(folder).expanduser()

    def path(self, key: str) -> Path:
        """Return the file of an entry, which need not exist."""
        return self.folder / f"{key}.safetensors"

    def load(self, key: str, *, rows: int) -> Tensor | None:
        """Return a stored entry.

        Args:
            key: from :func:`cache_key`.
            rows: how many rows it must have.

        Returns:
            (N, D) float32 unit rows on the CPU, or None when there is no entry or it is damaged.
        """
        path = self.path(key)
        try:
            if not path.is_file():
                return None
            stored = read_tensors(path).get(_KEY)
        except Exception as error:  # whatever a damaged file raises, computing again is right
            return self._damaged(path, error)
        if stored is None or stored.ndim != 2 or len(stored) != rows or stored.dtype != torch.float32:
            return self._damaged(path, f"expected {rows} rows of float32")
        if not torch.allclose(stored.norm(dim=-1), torch.ones(rows), atol=_UNIT_TOLERANCE, rtol=0):
            return self._damaged(path, "rows are not of unit length")
        return stored

    def store(self, key: str, rows_ND: Tensor) -> None:
        """Write an entry; a folder that cannot be written to costs a warning and nothing else."""
        path = self.path(key)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            tensors = {_KEY: rows_ND.detach().to("cpu", torch.float32).contiguous()}
            write_safetensors(path, tensors, {"format": "mmseg_plugins text embeddings", "version": str(_VERSION)})
        except (OSError, SafetensorError) as error:
            _logger.warning(
                "Text embeddings are not cached: cannot write %s (%s). Set MMSEG_PLUGINS_CACHE to a folder you own.",
                path,
                getattr(error, "strerror", None) or error,
            )

    def _damaged(self, path: Path, reason: object) -> None:
        text = " ".join(str(reason).split())
        _logger.warning("Cached text embeddings %s are damaged (%s); computing them again.", path, text)
