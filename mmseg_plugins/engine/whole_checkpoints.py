"""Checkpoints that survive a training that is killed while it writes one."""

import os
import re
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner
from mmseg.registry import HOOKS

_BACKEND = "mmseg_plugins_whole_files"


@register_backend(_BACKEND)
class WholeFileBackend(LocalBackend):
    """Local files that appear under their name once they are complete."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write beside the file, then rename; a file of that name stays as it is until then."""
        path = Path(filepath)
        path.parent.mkdir(parents=True, exist_ok=True)
        # The next attempt to write this file replaces what a killed one left.
        part = path.with_name(f".{path.name}.part")
        with open(part, "wb") as file:
            file.write(obj)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)


@HOOKS.register_module()
class WholeCheckpointHook(CheckpointHook):
    """mmengine's ``CheckpointHook`` with one promise more: at every moment the last checkpoint is there and whole.

    mmengine writes into the final file and removes the oldest checkpoint before that, so a run that is killed meanwhile
    leaves a torn file, with ``max_keep_ckpts=1`` nothing but that. The arguments are those of mmengine's hook; with a
    storage of its own (``backend_args``, an ``out_dir`` with ``://``) files are written as that storage does.
    """

    def before_train(self, runner: Runner) -> None:
        """Choose how files are written."""
        is_local = "://" not in str(self.out_dir or runner.work_dir)
        if is_local and self.backend_args is None and self.file_client_args is None:
            self.backend_args = {"backend": _BACKEND}
        super().before_train(runner)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict[str, Any]) -> None:
        """Save first, then remove the oldest."""
        oldest = None
        if self.max_keep_ckpts > 0 and step not in self.keep_ckpt_ids:
            is_full = len(self.keep_ckpt_ids) == self.max_keep_ckpts
            oldest = self.keep_ckpt_ids.popleft() if is_full else None
        super()._save_checkpoint_with_step(runner, step, meta)
        if oldest is not None and is_main_process():
            path = self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(oldest))
            if self.file_backend.isfile(path):
                self.file_backend.remove(path)


def latest_checkpoint(work_dir: str | Path) -> str | None:
    """Return the checkpoint that a training goes on from, None where there is none.

    It is the one that ``last_checkpoint`` names, or of that name in the work dir (which may have been moved); without
    such a file the newest ``iter_N.pth`` or ``epoch_N.pth``.

    Args:
        work_dir: of the training.

    Raises:
        FileNotFoundError: if ``last_checkpoint`` names a file and there is no checkpoint at all.
    """
    folder = Path(work_dir)
    note = folder / "last_checkpoint"
    named = note.read_text(encoding="utf-8").strip() if note.is_file() else ""
    if "://" in named:
        return named
    numbered = {path: re.fullmatch(r"(?:iter|epoch)_(\d+)\.pth", path.name) for path in folder.glob("*.pth")}
    numbers = {path: int(match[1]) for path, match in numbered.items() if match}
    newest = [max(numbers, key=numbers.__getitem__)] if numbers else []
    for path in [Path(named), folder / Path(named).name] * bool(named) + newest:
        if path.is_file():
            return str(path)
    if named:
        raise FileNotFoundError(
            f"{note} names {named}, which is not there, and {folder} has no other checkpoint. Name the one to go on "
            f"from (--resume CHECKPOINT), or remove {note} to start anew."
        )
    return None
